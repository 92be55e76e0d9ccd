"""A model that lies elsewhere is staged once, whole and verified; a repository may lie elsewhere as a whole."""

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
import yaml

from deployments.contract.errors import ModelLoadFailed, Unavailable
from deployments.families.table import FAMILIES
from deployments.replica.family import model_formats
from deployments.repository.local import Repository
from deployments.repository.manifest import SourceFile, Unservable
from deployments.repository.model import Model, by_name, find
from deployments.repository.source_poller import LOOK_EVERY_S
from deployments.repository.staging import KEPT, staged
from deployments.validation.validator import ModelValidator
from tests.conftest import until
from tests.support.clock import Clock
from tests.support.tiny_models import save_image_model, save_text_model

FORMATS = model_formats(FAMILIES)
STORES = ("memory", "file")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_text_model(tmp_path_factory.mktemp("whole") / "m")


@pytest.fixture(params=STORES)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty store."""
    if request.param == "file":
        yield f"file://{tmp_path}/store"
        return
    yield "memory://store"
    fsspec.filesystem("memory").rm("/store", recursive=True)


def put(folder: Path, url: str) -> None:
    there, path = fsspec.core.url_to_fs(url)
    for file in folder.iterdir():
        there.makedirs(path, exist_ok=True)
        there.pipe_file(f"{path}/{file.name}", file.read_bytes())


def write(url: str, content: bytes) -> None:
    there, path = fsspec.core.url_to_fs(url)
    there.makedirs(path.rpartition("/")[0], exist_ok=True)
    there.pipe_file(path, content)


def names(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir()}


def sums(folder: Path) -> dict[str, SourceFile]:
    return {
        file.name: SourceFile(bytes=file.stat().st_size, sha256=hashlib.sha256(file.read_bytes()).hexdigest())
        for file in folder.iterdir()
    }


def test_a_model_of_another_place_is_found_staged_and_let_through(store: str, whole: Path, tmp_path: Path) -> None:
    put(whole, f"{store}/m")
    stub = tmp_path / "models" / "m"
    stub.mkdir(parents=True)
    (stub / "model.yaml").write_text(yaml.safe_dump({"source": f"{store}/m", "family": "text_generation"}))
    allowing = Repository(stub.parent, FORMATS, sources=["memory://", "file://"])
    model = allowing.find("m", "text_generation")
    folder = ModelValidator(stub.parent, tmp_path / "cache").validate(model)
    assert names(folder) == names(whole)
    assert (folder / "model.safetensors").read_bytes() == (whole / "model.safetensors").read_bytes()
    with pytest.raises(ModelLoadFailed, match="its source is none that the configuration allows"):
        Repository(stub.parent, FORMATS).find("m", "text_generation")


def test_a_source_that_changes_is_another_content_and_one_that_is_away_is_the_last_one(
    store: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(whole, f"{store}/m")
    stub = tmp_path / "models" / "m"
    stub.mkdir(parents=True)
    (stub / "model.yaml").write_text(yaml.safe_dump({"source": f"{store}/m", "family": "text_generation"}))
    clock = Clock()
    repository = Repository(stub.parent, FORMATS, clock, sources=["memory://", "file://"])
    (first,) = repository.scan()
    assert first.weight_bytes == (whole / "model.safetensors").stat().st_size
    write(f"{store}/m/generation_config.json", b'{"eos_token_id": 3}')
    assert repository.scan() == (first,)  # it is not looked at all the time

    def seen_again() -> Model:
        clock.now += LOOK_EVERY_S
        return repository.scan()[0]

    until(lambda: seen_again().digest != first.digest)
    second = seen_again()
    folder = ModelValidator(stub.parent, tmp_path / "cache").validate(second)
    assert (folder / "generation_config.json").read_bytes() == b'{"eos_token_id": 3}'

    def away(*given: object) -> None:
        raise Unavailable("away")

    monkeypatch.setattr("deployments.repository.source_poller.listing", away)
    assert {seen_again().digest for _ in range(3)} == {second.digest}


def test_a_source_that_hangs_does_not_keep_other_models_from_being_found(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hangs = threading.Event()
    monkeypatch.setattr("deployments.repository.source_poller.listing", lambda source: hangs.wait(30) and {})
    monkeypatch.setattr("deployments.repository.source_poller.FIRST_LOOK_S", 0.01)
    stub = tmp_path / "models" / "m"
    stub.mkdir(parents=True)
    (stub / "model.yaml").write_text(yaml.safe_dump({"source": "memory://m", "family": "text_generation"}))
    repository = Repository(stub.parent, FORMATS, sources=["memory://"])
    assert [model.name for model in repository.scan()] == ["m"]
    (stub.parent / "other").mkdir()
    (stub.parent / "other" / "config.json").write_text('{"architectures": ["LlamaForCausalLM"]}')
    assert [model.name for model in repository.scan()] == ["m", "other"]
    hangs.set()


def test_a_repository_of_another_place_is_read_without_fetching_weights(
    store: str, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(whole, f"{store}/org/text/1")
    put(whole, f"{store}/org/text/2")
    put(save_image_model(tmp_path / "image"), f"{store}/image")
    put(whole, f"{store}/code")
    write(f"{store}/code/modeling.py", b"raise SystemExit")
    write(f"{store}/org/text/2/model.yaml", b"pinned: true")
    repository = Repository(store, FORMATS)
    models = by_name(repository.scan())
    assert models.keys() == {"org/text", "org/text@1", "org/text@2", "image", "code"}
    text = find(models, "org/text", "text_generation")
    assert (text.version, text.pinned) == (2, True)
    assert text.declared_bytes == (whole / "model.safetensors").stat().st_size
    assert models["image"].family == "image_classification"
    assert models["code"].problem == "holds code (modeling.py)"
    monkeypatch.setattr("deployments.repository.remote.read_remote", None)
    assert by_name(repository.scan()) == models  # nothing has changed, nothing is read
    monkeypatch.undo()
    write(f"{store}/image/preprocessor_config.json", b"{}")
    assert by_name(repository.scan())["image"].digest != models["image"].digest
    folder = ModelValidator(store, tmp_path / "cache").validate(text)
    assert names(folder) == names(whole) | {"model.yaml"}


def test_with_sums_only_the_files_named_come_and_only_as_they_should_be(
    store: str, whole: Path, tmp_path: Path
) -> None:
    put(whole, f"{store}/m")
    write(f"{store}/m/notes.txt", b"of no use")
    expected = sums(whole)
    assert names(staged(f"{store}/m", "a", expected, tmp_path / "staged")) == names(whole)
    weights = (whole / "model.safetensors").read_bytes()
    for number, (content, said) in enumerate(
        [
            (weights[:-1], f"model.safetensors has {len(weights) - 1} bytes instead of {len(weights)}"),
            (weights[:-1] + b"\0", "model.safetensors has another SHA-256"),
        ]
    ):
        write(f"{store}/m/model.safetensors", content)
        with pytest.raises(Unservable, match=said):
            staged(f"{store}/m", f"bad{number}", expected, tmp_path / "staged")
    with pytest.raises(Unservable, match="the source has no more.json"):
        staged(f"{store}/m", "c", expected | {"more.json": SourceFile()}, tmp_path / "staged")
    (home,) = (tmp_path / "staged").iterdir()
    assert names(home) == {"a", ".lock"}  # nothing half done is left


def test_many_who_want_a_model_at_once_fetch_it_once(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []
    all_there, another = threading.Barrier(4), threading.Event()

    def fetch(source: str, files: object, draft: Path) -> None:
        fetched.append(source)
        if len(fetched) > 1:
            another.set()
        another.wait(0.3)  # for a second one, which must not come
        (draft / "config.json").write_text("{}")

    monkeypatch.setattr("deployments.repository.staging._fetch", fetch)

    def stage(_: int) -> Path:
        all_there.wait()
        return staged("memory://m", "a", {}, tmp_path)

    with ThreadPoolExecutor(4) as callers:
        places = set(callers.map(stage, range(4)))
    assert len(fetched) == len(places) == 1


def test_a_source_that_breaks_off_leaves_nothing_and_may_be_tried_again(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(whole, "memory://store/m")

    def broken(*given: object, **options: object) -> None:
        raise ConnectionError("secret.example/key")

    with monkeypatch.context() as patched:
        patched.setattr(type(fsspec.filesystem("memory")), "_open", broken)
        with pytest.raises(Unavailable, match="cannot be fetched") as failed:
            staged("memory://store/m", "a", {}, tmp_path)
    assert "secret" not in str(failed.value)
    assert names(staged("memory://store/m", "a", {}, tmp_path)) == names(whole)
    fsspec.filesystem("memory").rm("/store", recursive=True)


def test_old_stagings_go(whole: Path, tmp_path: Path) -> None:
    put(whole, "memory://store/m")
    for digest in "abcd":
        staged("memory://store/m", digest, {}, tmp_path)
    (home,) = tmp_path.iterdir()
    assert len(names(home) - {".lock"}) == KEPT
    assert "d" in names(home)
    fsspec.filesystem("memory").rm("/store", recursive=True)


@pytest.mark.parametrize(
    ("source", "said"),
    [
        ("memory://a::file://b", "is one URL"),
        ("gopher://x/y", "cannot be reached|not installed"),
        ("s3://bucket/m", "^s3:// needs a driver that is not installed: Install s3fs to access S3$"),
        ("gs://bucket/m", "^gs:// needs a driver that is not installed: Please install gcsfs"),
    ],
)
def test_odd_sources_are_refused(tmp_path: Path, source: str, said: str) -> None:
    with pytest.raises((Unservable, Unavailable), match=said):
        staged(source, "a", {}, tmp_path)


def test_sums_hold_for_files_on_disk_too(whole: Path, tmp_path: Path) -> None:
    manifest = {"files": {"model.safetensors": {"sha256": "a" * 64}}}
    folder = tmp_path / "models" / "m"
    folder.mkdir(parents=True)
    for file in whole.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "model.yaml").write_text(yaml.safe_dump(manifest))
    model: Model = Repository(folder.parent, FORMATS).find("m", "text_generation")
    with pytest.raises(ModelLoadFailed, match="another SHA-256"):
        ModelValidator(folder.parent, tmp_path / "cache").validate(model)
