"""Hostile model folders: each is an honest folder with one change. What of theirs runs touches the canary."""

import io
import json
import os
import pickle
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from tests.deployments.repository.test_folder import HARMLESS, cut, deep_code, deep_link, indexed, pipe, setting
from tests.deployments.repository.test_safetensors import F32, framed
from tests.deployments.validation.test_sandbox import named_template, pattern, template

Change = Callable[[Path], object]
WEIGHTS = "model.safetensors"


class Canary:
    """What touches the file `place` if anything of it runs: Python, a pickle, a template."""

    def __init__(self, place: Path) -> None:
        self.code = f"open({str(place)!r}, 'a').write('x')"
        self.command = f"echo x >> {place}"

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.system, (self.command,)


def written(name: str, content: str | bytes) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)

    return change


def header_of_spaces(place: Path) -> None:
    place.write_bytes(struct.pack("<Q", 64 << 20) + b" " * (64 << 20))


def replaced(name: str, make: Callable[[Path], object]) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        make(folder / name)

    return change


def unix_socket(place: Path) -> None:
    here = os.getcwd()
    os.chdir(place.parent)  # A socket's name is short.
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(place.name)
    finally:
        os.chdir(here)


def sparse(size: int) -> Callable[[Path], object]:
    def make(place: Path) -> None:
        with place.open("wb") as stream:
            stream.write(framed({"w": {"dtype": "U8", "shape": [size], "data_offsets": [0, size]}}))
            stream.truncate(stream.tell() + size)

    return make


def many_files(folder: Path) -> None:
    for number in range(5000):
        (folder / f"{number}.txt").touch()


def tree(depth: int) -> Change:
    return lambda folder: folder.joinpath(*["d"] * depth).mkdir(parents=True)


def torch_file(canary: Canary) -> bytes:
    stream = io.BytesIO()
    torch.save({"w": canary}, stream)
    return stream.getvalue()


def without_weights(change: Change) -> Change:
    def both(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        change(folder)

    return both


def outside(folder: Path) -> None:
    """The folder itself is a link to one beside the repository."""
    folder.rename(folder.parent.parent / "outside")
    folder.symlink_to(folder.parent.parent / "outside")


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{chr(98 + n)}: &{chr(98 + n)} [{','.join([f'*{chr(97 + n)}'] * 9)}]\n" for n in range(9)
)


def refused(canary: Canary) -> dict[str, Change]:
    """By name: what has to be refused."""
    evil = pickle.dumps(canary)
    return {
        "pickled weights": without_weights(written("pytorch_model.bin", evil)),
        "weights of torch.save": without_weights(written("pytorch_model.bin", torch_file(canary))),
        "a pickle named safetensors": written(WEIGHTS, evil),
        "torch.save named safetensors": written(WEIGHTS, torch_file(canary)),
        "an index of pickles": indexed("pytorch_model-00001-of-00001.bin"),
        "an index that leaves the folder": indexed("../other/model.safetensors"),
        "an index of a missing shard": indexed("model-00002-of-00002.safetensors"),
        "an index that is none": without_weights(written("model.safetensors.index.json", "[]")),
        "trust_remote_code": setting("config.json", trust_remote_code=True, auto_map={"AutoConfig": "evil.C"}),
        "trust_remote_code deep below": setting("config.json", a={"b": [{"trust_remote_code": 1}]}),
        "trust_remote_code of the tokenizer": setting("tokenizer_config.json", trust_remote_code=True),
        "attention of the Hub": setting("config.json", _attn_implementation="org/kernel"),
        "experts of the Hub": setting("config.json", text_config={"experts_implementation": "x/y"}),
        "attention of the Hub for generation": setting("generation_config.json", attn_implementation="x/y"),
        "other weights": setting("config.json", transformers_weights="w.bin"),
        "an adapter of another place": setting("adapter_config.json", base_model_name_or_path="/etc"),
        "a type with code of its own": setting("config.json", model_type="evil", auto_map={"AutoConfig": "evil.C"}),
        "a link out": replaced("merges.txt", lambda place: place.symlink_to("/etc/passwd")),
        "a link out deep below": deep_link,
        "a link to a device": replaced(WEIGHTS, lambda place: place.symlink_to("/dev/zero")),
        "a link to itself": replaced("config.json", lambda place: place.symlink_to("config.json")),
        "a folder that is a link out": outside,
        "a pipe as tokenizer": pipe,
        "a pipe as weights": replaced(WEIGHTS, os.mkfifo),
        "a pipe as config.json": replaced("config.json", os.mkfifo),
        "a pipe as model.yaml": replaced("model.yaml", os.mkfifo),
        "a pipe as generation_config.json": replaced("generation_config.json", os.mkfifo),
        "a socket": replaced("extra", unix_socket),
        "a folder as config.json": replaced("config.json", Path.mkdir),
        "a folder as weights": replaced(WEIGHTS, Path.mkdir),
        "a header without end": written(WEIGHTS, b"\xff" * 64),
        "a header of spaces": replaced(WEIGHTS, header_of_spaces),
        "a header that is deep": written(WEIGHTS, framed("[" * 10**6)),
        "a key twice": written(WEIGHTS, framed(f'{{"w":{json.dumps(F32)},"w":{json.dumps(F32)}}}', b"0000")),
        "tensors that overlap": written(WEIGHTS, framed({"w": F32, "v": F32}, b"0000")),
        "a shape beyond all memory": written(WEIGHTS, framed({"w": {**F32, "shape": [2**47] * 30}}, b"0000")),
        "sparse weights": replaced(WEIGHTS, sparse(2**34)),
        "weights that end early": cut,
        "weights of another model": written(WEIGHTS, framed({"w": F32}, b"0000")),
        "a config.json that is deep": written("config.json", "[" * 10**5),
        "a large config.json": written("config.json", b'{"a": "' + b"x" * (17 << 20) + b'"}'),
        "a config.json of another kind": written("config.json", "[]"),
        "a config.json with a long number": written("config.json", '{"hidden_size": ' + "9" * 10**6 + "}"),
        "a config.json of other bytes": written("config.json", b"\xff\xfe{}"),
        "layers without end": setting("config.json", num_hidden_layers=10**6),
        "a width without end": setting("config.json", hidden_size=2**20),
        "words without end": setting("config.json", vocab_size=2**33),
        "a model.yaml that multiplies": written("model.yaml", BOMB),
        "a model.yaml with an object": written("model.yaml", f"!!python/object/apply:os.system ['{canary.command}']"),
        "a large model.yaml": written("model.yaml", "a: " + "x" * (4 << 20)),
        "a model.yaml that is deep": written("model.yaml", "[" * 10**5),
        "a tokenizer that is none": written("tokenizer.json", "{}"),
        "a large tokenizer": replaced("tokenizer.json", sparse(65 << 20)),
        "a pattern without end": pattern(r"^(([a-z])+.)+[A-Z]([a-z])+$"),
        "a template that multiplies": named_template("{{ 'a' * 9999999 }}"),
        "a template of a constant": template("{{ 'a' * 24000000000 }}"),
        "too many files": many_files,
        "a pointer of Git LFS": written(WEIGHTS, "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    }


def loaded(canary: Canary) -> dict[str, Change]:
    """By name: what may be loaded, since nothing of it is used."""
    code = written("modeling.py", canary.code)
    escape = "{{ ().__class__.__base__.__subclasses__() }}{{ cycler.__init__.__globals__.os.system"

    def with_code(change: Change) -> Change:
        def both(folder: Path) -> None:
            code(folder)
            change(folder)

        return both

    return {
        "auto_map with its code": with_code(setting("config.json", auto_map={"AutoModelForCausalLM": "modeling.M"})),
        "auto_map of a tokenizer": with_code(
            setting("tokenizer_config.json", auto_map={"AutoTokenizer": "modeling.T"})
        ),
        "generation of its own": deep_code,
        "modules that Python looks for": written("sitecustomize.py", canary.code),
        "a package": written("transformers.py", canary.code),
        "a template that leaves its sandbox": template(f"{escape}('{canary.command}') }}}}"),
        "a pickle beside the weights": written("training_args.bin", pickle.dumps(canary)),
        "a deep tree": tree(60),
        "names that nobody can print": written("\x1b[2J\n\udcff.txt", ""),
        "weights that nothing loads": HARMLESS[-1],
    }
