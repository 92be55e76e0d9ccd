"""A hostile folder is refused with one line that names no path; none of its code runs, and an honest folder passes."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.repository.folder import check_files, digest_of, names_of
from deployments.repository.manifest import Unservable
from tests.support import PROJECT
from tests.support.tiny_models import save_image_model


@pytest.fixture
def folder(text_model: Path, tmp_path: Path) -> Path:
    """A copy that the test may break."""
    copy = tmp_path / "models" / "m"
    copy.mkdir(parents=True)
    for file in text_model.iterdir():
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


def only_pickles(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


def cut(folder: Path) -> None:
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size - 1)


def pipe(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    os.mkfifo(folder / "tokenizer.json")


def deep_link(folder: Path) -> None:
    (folder / "extra").mkdir()
    (folder / "extra" / "passwords.txt").symlink_to("/etc/passwd")


def indexed(shard: str) -> Callable[[Path], object]:
    def change(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        setting("model.safetensors.index.json", weight_map={"w": shard})(folder)

    return change


def deep_code(folder: Path) -> None:
    (folder / "custom_generate").mkdir()
    (folder / "custom_generate" / "generate.py").write_text("raise SystemExit")


HOSTILE: list[tuple[Callable[[Path], object], str]] = [
    (only_pickles, "its weights are pickles"),
    (setting("config.json", sub={"list": [{"trust_remote_code": 1}]}), "config.json names code of its own"),
    (setting("config.json", trust_remote_code=True), "config.json names code of its own (trust_remote_code)"),
    (setting("config.json", _attn_implementation="org/kernel"), "chooses an implementation"),
    (setting("config.json", text_config={"experts_implementation": "x/y"}), "chooses an implementation"),
    (setting("generation_config.json", attn_implementation="x/y"), "generation_config.json chooses an implementation"),
    (setting("config.json", transformers_weights="w.bin"), "names weights that are not safetensors"),
    (setting("adapter_config.json", base_model_name_or_path="/else/where"), "a peft adapter of 'where'"),
    (indexed("../other/model.safetensors"), "names weights that are not safetensors of this folder"),
    (indexed("model-00002-of-00002.safetensors"), "model-00002-of-00002.safetensors is missing (1 of 1 shards)"),
    (deep_link, "a symbolic link leaves the repository (extra/passwords.txt)"),
    (lambda folder: (folder / "merges.txt").symlink_to("../../outside"), "a symbolic link leaves the repository"),
    (lambda folder: (folder / "x.txt").symlink_to("x.txt"), "a symbolic link leaves the repository (x.txt)"),
    (pipe, "holds something that is not a file (tokenizer.json)"),
    (lambda folder: (folder / "generation_config.json").write_text("[" * 10**5), "generation_config.json is not JSON"),
    (cut, "model.safetensors: is truncated"),
]


@pytest.mark.parametrize(("break_it", "fault"), HOSTILE, ids=[fault for _, fault in HOSTILE])
def test_a_hostile_folder_is_refused_with_one_line(
    folder: Path, break_it: Callable[[Path], object], fault: str
) -> None:
    check_files(folder, folder.parent.resolve())
    break_it(folder)
    assert fault in refused(folder)


def test_honest_folders_pass(tmp_path: Path) -> None:
    save_image_model(tmp_path / "image")
    check_files(tmp_path / "image", tmp_path.resolve())
    for bundled in ("image_classifier_v1", "gpt-nano"):
        check_files(PROJECT / "models" / bundled, PROJECT / "models")


HARMLESS: list[Callable[[Path], object]] = [
    deep_code,
    lambda folder: (folder / "handler.py").write_text("raise SystemExit"),
    setting("config.json", auto_map={"AutoModel": "modeling.M"}),
    setting("tokenizer_config.json", auto_map={}),
    setting("config.json", attn_implementation="flash_attention_2", _attn_implementation_autoset=True),
    setting("config.json", text_config={"_attn_implementation": {"": "eager"}}),
    lambda folder: (folder / "consolidated.safetensors").write_bytes(b"not loaded"),
]


@pytest.mark.parametrize("change", HARMLESS)
def test_what_nothing_runs_or_loads_does_no_harm(folder: Path, change: Callable[[Path], object]) -> None:
    change(folder)
    check_files(folder, folder.parent.resolve())


def test_pickles_beside_safetensors_are_left_alone(folder: Path) -> None:
    (folder / "pytorch_model.bin").write_bytes(b"never opened")
    check_files(folder, folder.parent.resolve())


def test_links_within_the_repository_are_followed_as_the_hubs_cache_has_them(folder: Path) -> None:
    blobs = folder.parent / "blobs"
    blobs.mkdir()
    (folder / "model.safetensors").rename(blobs / "abc")
    (folder / "model.safetensors").symlink_to("../blobs/abc")
    check_files(folder, folder.parent.resolve())


def test_the_folders_of_a_sentence_transformers_models_modules_are_its_own(folder: Path) -> None:
    inner = folder / "2_Dense"
    inner.mkdir()
    for file in ("config.json", "model.safetensors"):
        (inner / file).write_bytes((folder / file).read_bytes())
    assert "2_Dense/config.json" not in names_of(folder)  # a model of its own
    (folder / "modules.json").write_text("[]")
    assert {"2_Dense/config.json", "2_Dense/model.safetensors"} <= names_of(folder)
    check_files(folder, folder.parent.resolve())
    before = digest_of(folder)
    (inner / "config.json").write_text("{}")
    assert digest_of(folder) != before
    (inner / "model.safetensors").write_bytes(b"garbage")
    assert "safetensors" in refused(folder)


def test_a_change_that_keeps_size_and_time_changes_the_digest(folder: Path) -> None:
    file = folder / "config.json"
    before, facts = digest_of(folder), file.stat()
    file.write_bytes(file.read_bytes()[::-1])
    os.utime(file, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    assert digest_of(folder) != before
