"""A hostile folder is refused with one line that names no path; nothing of it is run, and an honest one passes."""

import json
import os
import struct
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from deployments.repository.folder import check_files, digest_of
from deployments.repository.manifest import Unservable
from deployments.repository.safetensors import check_safetensors
from tests.conftest import PROJECT
from tests.support.tiny_models import save_image_model, save_text_model


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("whole") / "m")


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy to be broken."""
    copy = tmp_path / "models" / "m"
    copy.mkdir(parents=True)
    for file in whole.iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    return copy


def refused(folder: Path) -> str:
    with pytest.raises(Unservable) as fault:
        check_files(folder, folder.parent.resolve())
    line = str(fault.value)
    assert str(folder.parent) not in line
    assert "\n" not in line
    assert len(line) < 200
    return line


def setting(file: str, **keys: object) -> Callable[[Path], object]:
    """Adds keys to a JSON file of the folder."""

    def change(folder: Path) -> None:
        place = folder / file
        place.write_text(json.dumps(json.loads(place.read_text() if place.exists() else "{}") | keys))

    return change


def weights(header: object, data: bytes = b"", text: str | None = None) -> Callable[[Path], object]:
    """Puts a safetensors file of this header into the folder."""

    def change(folder: Path) -> None:
        written = (json.dumps(header) if text is None else text).encode()
        (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(written)) + written + data)

    return change


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 1)


def sparse(folder: Path) -> None:
    tensor = {"dtype": "F32", "shape": [2**28], "data_offsets": [0, 2**30]}
    weights({"w": tensor})(folder)
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size + 2**30)


def pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def deep_link(folder: Path) -> None:
    (folder / "extra").mkdir()
    (folder / "extra" / "passwords.txt").symlink_to("/etc/passwd")


def deep_code(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("raise SystemExit")


F32 = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
HOSTILE: list[tuple[Callable[[Path], object], str]] = [
    (only_pickles, "its weights are pickles"),
    (setting("config.json", auto_map={"AutoModel": "m.M"}), "config.json names code of its own (auto_map)"),
    (setting("tokenizer_config.json", auto_map={}), "tokenizer_config.json names code of its own (auto_map)"),
    (setting("config.json", sub={"list": [{"auto_map": {}}]}), "config.json names code of its own (auto_map)"),
    (setting("config.json", trust_remote_code=True), "config.json names code of its own (trust_remote_code)"),
    (setting("config.json", _attn_implementation="org/kernel"), "chooses an implementation"),
    (setting("config.json", text_config={"experts_implementation": "x/y"}), "chooses an implementation"),
    (setting("generation_config.json", attn_implementation="x/y"), "generation_config.json chooses an implementation"),
    (setting("config.json", transformers_weights="w.bin"), "names weights that are not safetensors"),
    (setting("adapter_config.json", base_model_name_or_path="/elsewhere"), "it is an adapter"),
    (setting("model.safetensors.index.json", weight_map={"w": "../other/model.safetensors"}), "names weights"),
    (lambda folder: (folder / "modeling.py").write_text("raise SystemExit"), "holds code (modeling.py)"),
    (deep_code, "holds code (custom_generate/generate.py)"),
    (deep_link, "a symbolic link leaves the repository (extra/passwords.txt)"),
    (lambda folder: (folder / "merges.txt").symlink_to("../../outside"), "a symbolic link leaves the repository"),
    (pipe, "holds something that is not a file (tokenizer.json)"),
    (lambda folder: (folder / "generation_config.json").write_text("[" * 10**5), "generation_config.json is not JSON"),
    (cut, "model.safetensors: is truncated"),
    (sparse, "model.safetensors: is sparse"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"\x80\x04K\x01."), "is truncated"),
    (lambda folder: (folder / "model.safetensors").write_bytes(b"\xff" * 64), "is no safetensors file"),
    (weights({}, text='{"w":' + json.dumps(F32) + ',"w":' + json.dumps(F32) + "}", data=b"0000"), "a key twice"),
    (weights({}, text='{"w":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', data=b"0000"), "twice"),
    (weights({}, text="{"), "its header is not JSON"),
    (weights([]), "its header is not an object"),
    (weights({"__metadata__": {"format": 5}}), "its metadata is not a table of strings"),
    (weights({"w": F32, "v": F32}, b"0000"), "overlap or leave gaps"),
    (weights({"w": {**F32, "data_offsets": [4, 8]}}, b"00000000"), "overlap or leave gaps"),
    (weights({"w": F32}, b"00000000"), "holds more than its tensors"),
    (weights({"w": {**F32, "shape": [2]}}, b"0000"), "does not have the bytes that its shape takes"),
    (weights({"w": {**F32, "shape": [2**47] * 30}}, b"0000"), "does not have the bytes that its shape takes"),
    (weights({"w": {**F32, "shape": [-1]}}, b"0000"), "no proper shape or offsets"),
    (weights({"w": {**F32, "dtype": "OBJECT"}}, b"0000"), "a dtype that is not known"),
    (weights({"w": {**F32, "code": 1}}, b"0000"), "not described as the format wants it"),
]


@pytest.mark.parametrize(("break_it", "said"), HOSTILE, ids=[said for _, said in HOSTILE])
def test_a_hostile_folder_is_refused_with_one_line(folder: Path, break_it: Callable[[Path], object], said: str) -> None:
    check_files(folder, folder.parent.resolve())
    break_it(folder)
    assert said in refused(folder)


def test_honest_folders_pass(tmp_path: Path) -> None:
    save_image_model(tmp_path / "image")
    check_files(tmp_path / "image", tmp_path.resolve())
    for bundled in ("image_classifier_v1", "gpt-nano"):
        check_files(PROJECT / "models" / bundled, PROJECT / "models")


def test_pickles_beside_safetensors_are_left_alone(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    check_files(folder, folder.parent.resolve())


def test_links_within_the_repository_are_followed_as_the_hubs_cache_has_them(folder: Path) -> None:
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    (folder / "model.safetensors").rename(blobs / "abc")
    (folder / "model.safetensors").symlink_to("../blobs/abc")
    check_files(folder, folder.parent.resolve())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float8_e4m3fn, torch.bool, torch.int64])
def test_what_the_library_writes_is_a_proper_file(tmp_path: Path, dtype: torch.dtype) -> None:
    tensors = {"scalar": torch.ones(()), "empty": torch.ones(0, 3), "plain": torch.ones(5, 3)}
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, tmp_path / "w.safetensors", {"a": "b"})
    check_safetensors(tmp_path / "w.safetensors")


def test_a_change_that_keeps_size_and_time_changes_the_digest(folder: Path) -> None:
    file = folder / "config.json"
    before, facts = digest_of(folder), file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert digest_of(folder) != before
