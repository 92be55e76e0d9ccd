"""The sandbox's child: tries the tokenizer's patterns and the chat templates of a model's folder.

They may take any time and memory, or end the process: `sandbox` limits it. Knows neither torch nor models.
"""

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

from deployments.system.worker_process import Report, serve

MEMORY_BYTES = 2 * 2**30
RENDERED_CHARACTERS = 2**20
_RUNS = (12, 16, 18, 20, 22, 24)
MESSAGES = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "How are you?"},
]


def inspect(path: str, report: Report) -> str | None:
    """What is wrong with the folder, in one line."""
    folder = Path(path)
    if (folder / "tokenizer.json").is_file():
        report("tokenizer.json")
        try:
            _try_tokenizer(folder / "tokenizer.json")
        except BaseException as failure:  # the library raises bare Exception, and panics
            return f"tokenizer.json cannot be used ({type(failure).__name__})"
    for name, template in templates(folder):
        report(name)
        try:
            if len(_rendered(template)) > RENDERED_CHARACTERS:
                return f"{name} multiplies its text"
        except MemoryError:
            return f"{name} takes too much memory"
        except Exception:
            continue  # it may require other messages, or tags that transformers adds
    return None


def _try_tokenizer(file: Path) -> None:
    text = file.read_text("utf-8")
    tokenizer = Tokenizer.from_str(text)
    for probe in _probes(json.loads(text)):
        tokenizer.encode(probe)


def _probes(tokenizer: object) -> Iterator[str]:
    """Texts on which a pattern with exponential backtracking does not end."""
    letters = dict.fromkeys("aA0 \n.é")
    rest = [tokenizer.get(part) for part in ("normalizer", "pre_tokenizer")] if isinstance(tokenizer, dict) else []
    while rest:
        match rest.pop():
            case {"Regex": str(pattern)}:
                letters |= dict.fromkeys(letter for letter in pattern if letter.isalnum())
            case dict(inner):
                rest.extend(inner.values())
            case list(inner):
                rest.extend(inner)
    for letter in list(letters)[:64]:
        # Runs of several lengths: the library limits the steps on one run, not the number of runs just below it.
        yield from (letter * 64 + "!", f"{letter}b" * 32 + "\0", "! ".join(letter * run for run in _RUNS * 8))


def templates(folder: Path) -> Iterator[tuple[str, str]]:
    """(name for messages, chat template), from every place where transformers looks for one."""
    for file in [folder / "chat_template.jinja", *sorted(folder.glob("additional_chat_templates/*.jinja"))]:
        if file.is_file():
            yield f"the chat template in {file.name[:64]}", file.read_text("utf-8", "replace")
    for name in ("tokenizer_config.json", "chat_template.json", "processor_config.json"):
        if not (folder / name).is_file():
            continue
        config = json.loads((folder / name).read_bytes())
        found = config.get("chat_template") if isinstance(config, dict) else None
        for template in found if isinstance(found, list) else [found]:
            text = template.get("template") if isinstance(template, dict) else template
            if isinstance(text, str):
                yield f"the chat template in {name}", text


def _rendered(template: str) -> str:
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    # Jinja folds constants while it compiles, so this line may already take all the memory.
    compiled = environment.from_string(template)
    return compiled.render(messages=MESSAGES, add_generation_prompt=True, bos_token="<s>", eos_token="</s>", tools=None)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


if __name__ == "__main__":
    serve(inspect, memory_bytes=MEMORY_BYTES, file_bytes=0)
