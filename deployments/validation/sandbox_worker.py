"""A process that tries what a model's folder would have the libraries do: its tokenizer's patterns, its chat templates.

Reads a folder's path a line, answers with lines of JSON: `{"trying": …}` before each thing that might end this process
(its memory and CPU time are limited), then `{"fault": …}`, null where there is none. Knows neither torch nor models.
"""

import datetime
import json
import resource
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NoReturn

from jinja2 import TemplateError
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment
from tokenizers import Tokenizer

CPU_SECONDS = 2.0
CPU_SECONDS_PER_MIB = 0.05
"""Of tokenizer.json: large vocabularies take their time."""
MEMORY_BYTES = 2 * 2**30
"""Above what this process takes at rest."""
RENDERED_CHARACTERS = 2**20
_RUNS = (12, 16, 18, 20, 22, 24)
MESSAGES = [
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi"},
    {"role": "user", "content": "How are you?"},
]


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    at_rest = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (at_rest + MEMORY_BYTES, at_rest + MEMORY_BYTES))
    for line in sys.stdin:
        folder = Path(line.rstrip("\n"))
        # The signal ends the process, whatever it is doing by then.
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS + CPU_SECONDS_PER_MIB * _tokenizer_mib(folder))
        fault = inspect(folder)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say(fault=fault)


def inspect(folder: Path) -> str | None:
    """What is wrong with the folder, in one line."""
    if (folder / "tokenizer.json").is_file():
        _say(trying="tokenizer.json")
        try:
            _try_tokenizer(folder / "tokenizer.json")
        except BaseException as failure:  # the library raises bare Exception, and panics
            return f"tokenizer.json cannot be used ({type(failure).__name__})"
    for name, template in templates(folder):
        _say(trying=name)
        try:
            if len(_rendered(template)) > RENDERED_CHARACTERS:
                return f"{name} multiplies its text"
        except MemoryError:
            return f"{name} takes too much memory"
        except Exception:
            continue  # it may want other messages, or tags of the library's own
    return None


def _tokenizer_mib(folder: Path) -> float:
    try:
        return (folder / "tokenizer.json").stat().st_size / 2**20
    except OSError:
        return 0.0


def _try_tokenizer(file: Path) -> None:
    text = file.read_text("utf-8")
    tokenizer = Tokenizer.from_str(text)
    for probe in _probes(json.loads(text)):
        tokenizer.encode(probe)


def _probes(tokenizer: object) -> Iterator[str]:
    """Texts on which a pattern that tries every way to split a run would never end."""
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
        # Runs of several lengths: the library gives up on what is much too long, and on no number of nearly that.
        yield from (letter * 64 + "!", f"{letter}b" * 32 + "\0", "! ".join(letter * run for run in _RUNS * 8))


def templates(folder: Path) -> Iterator[tuple[str, str]]:
    """(where it stands, chat template), from everywhere the library looks for one."""
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
    # Compiling computes constants: that alone may be too much.
    compiled = environment.from_string(template)
    return compiled.render(messages=MESSAGES, add_generation_prompt=True, bos_token="<s>", eos_token="</s>", tools=None)


def _refuse(message: str) -> NoReturn:
    raise TemplateError(message)


def _say(**said: str | None) -> None:
    sys.stdout.write(json.dumps(said) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
