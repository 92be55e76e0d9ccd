"""Writes proto/inference.proto from the contract, and the Python stubs from it: `make proto`.

Numbers that the file has stay. A new variant and a new field get the next free ones; nothing is ever removed.
"""

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel

from deployments.contract.types import InferRequest, InferResponse, Variant
from deployments.families.table import FAMILIES
from serve_app.grpc.forms import form_of
from serve_app.grpc.messages import OTHER, name_of

PROJECT = Path(__file__).resolve().parents[2]
FILE = PROJECT / "proto" / "inference.proto"
STUBS = "serve_app/grpc/stubs"
OTHER_NUMBER = 1000
Item = TypeVar("Item")

HEAD = """// Made by `make proto` from deployments/contract/types.py; the numbers of fields never change.
syntax = "proto3";

package model_runtime.v1;

// Every failure is a status: the code of docs/contract.md's table, the message, and in the trailing metadata
// `error-bin`, an Error. In a batch it is the response's `error`, and the stream goes on.
service Inference {
  rpc Infer(InferRequest) returns (InferResponse);
  // Chunks as they come, then the response.
  rpc InferStream(InferRequest) returns (stream StreamReply);
  // Responses in the order of the requests, while these still come.
  rpc InferBatch(stream InferRequest) returns (stream InferResponse);
}

message StreamReply {
  oneof reply {
    Chunk chunk = 1;
    InferResponse response = 2;
  }
}

// New text, final as it is. `index`: how many tokens, or segments, there are so far.
message Chunk {
  string text = 1;
  uint32 index = 2;
  repeated TokenLogprob logprobs = 3;
  repeated SpeechSegment segments = 4;
  repeated PromptToken prompt_logprobs = 5;
}
"""


def proto(before: str) -> str:
    """The file's text. `before`: the text that it has had, for its numbers."""
    assert FAMILIES  # Their rows have registered the variants.
    own = {union: variants_of(union) for union in (InferRequest, InferResponse)}
    parts = [HEAD]
    models: dict[str, type[BaseModel]] = {}
    lists: dict[str, str] = {}
    for union, variants in own.items():
        known = numbers(before, union.__name__)
        lines = [
            f"    {kind.__name__} {name} = {number};"
            for name, number, kind in numbered({name_of(kind): kind for kind in variants}, known)
        ]
        lines.append(f"    bytes {OTHER} = {OTHER_NUMBER}; // a variant that this file does not have, as JSON")
        parts.append(f"message {union.__name__} {{\n  oneof variant {{\n" + "\n".join(lines) + "\n  }\n}\n")
        for kind in variants:
            parts.append(message(kind, before, models, lists))
    while models:
        held = models.pop(next(iter(models)))
        if f"message {held.__name__} {{" not in "".join(parts):
            parts.append(message(held, before, models, lists))
    parts += [f"message {name} {{\n  repeated {item} values = 1;\n}}\n" for name, item in lists.items()]
    return "\n".join(parts)


def variants_of(union: type[Variant]) -> list[type[Variant]]:
    """The project's own: the tests have variants too."""
    kinds = [kind for kind in union.variants.values() if kind.__module__.startswith("deployments.")]
    return sorted(kinds, key=lambda kind: kind.index)


def message(kind: type[BaseModel], before: str, models: dict[str, type[BaseModel]], lists: dict[str, str]) -> str:
    """The message of a model. Adds what its fields hold to `models` and `lists`."""
    is_variant = issubclass(kind, Variant)
    fields = sorted(kind.model_fields.items(), key=lambda item: (item[0] != "model_id", not item[1].is_required()))
    forms = {
        name: form_of(info, is_own=is_variant and info.is_required())
        for name, info in fields
        if name != "model_id" or is_variant
    }
    for form in forms.values():
        if form.model:
            models[form.kind] = form.model
        if form.wrapped:
            lists[form.kind] = form.kind.lower().removesuffix("s")
    lines = [
        f"  {'' if form.label == 'map' else f'{form.label} '}{form.kind} {name} = {number};".replace("   ", "  ")
        + (" // JSON" if form.is_json else "")
        for name, number, form in numbered(forms, numbers(before, kind.__name__))
    ]
    return f"message {kind.__name__} {{\n" + "\n".join(lines) + "\n}\n"


def numbered(items: dict[str, Item], known: dict[str, int]) -> Iterator[tuple[str, int, Item]]:
    """Each item with its number, in their order."""
    following = max((number for number in known.values() if number < OTHER_NUMBER), default=0)
    given = dict(known)
    for name in items:
        if name not in given:
            following += 1
            given[name] = following
    yield from sorted(((name, given[name], item) for name, item in items.items()), key=lambda item: item[1])


def numbers(text: str, message: str) -> dict[str, int]:
    """The numbers that a message's fields have in the text."""
    block = re.search(rf"^message {message} {{\n(.*?)^}}", text, re.MULTILINE | re.DOTALL)
    return {name: int(number) for name, number in re.findall(r"(\w+) = (\d+);", block[1] if block else "")}


def main() -> int:
    FILE.write_text(proto(FILE.read_text("utf-8") if FILE.exists() else ""), "utf-8")
    for name, kinds in ((FILE.name, ("python", "pyi", "grpc_python")), ("open_inference.proto", ("python", "pyi"))):
        outputs = [f"--{kind}_out=." for kind in kinds]
        compiler = [sys.executable, "-m", "grpc_tools.protoc", f"-I{STUBS}=proto", *outputs, f"{STUBS}/{name}"]
        subprocess.run(compiler, cwd=PROJECT, check=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
