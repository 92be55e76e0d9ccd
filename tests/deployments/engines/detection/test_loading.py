"""How a detector is loaded: in which dtype, what is measured once, and which folders are refused, in one line."""

from collections.abc import Callable
from pathlib import Path

import pytest

from deployments.contract.errors import ModelLoadFailed
from deployments.engines.detection.engine import Found, ObjectDetectionEngine
from tests.support.detection.models import saved
from tests.support.image_models import encoded, on_one_thread, photo

__all__ = ["on_one_thread"]  # a fixture of every test here


def scores(engine: ObjectDetectionEngine) -> list[float]:
    [answer] = engine.detect([engine.preprocess(encoded(photo()), 0.0)])
    assert isinstance(answer, Found)
    scores: list[float] = answer.scores.tolist()
    return scores


def test_a_dtype_may_be_asked_for(tmp_path: Path) -> None:
    folder = saved(tmp_path, "yolos")
    engine = ObjectDetectionEngine.load(folder)
    half = ObjectDetectionEngine.load(folder, dtype="bfloat16")
    assert half.resident_bytes == engine.resident_bytes // 2
    assert scores(half) == pytest.approx(scores(engine), abs=0.1)
    with pytest.raises(ModelLoadFailed, match="dtype"):
        ObjectDetectionEngine.load(folder, dtype="nonsense")


def test_how_it_runs_is_said_and_the_batch_size_is_measured_once(tmp_path: Path) -> None:
    folder = saved(tmp_path, "yolos")
    facts: dict[str, str] = {}

    class Kept:
        recall = staticmethod(facts.get)
        remember = staticmethod(facts.__setitem__)

    first = ObjectDetectionEngine.load(folder, cores=1, facts=Kept())
    assert first.runtime_info == (
        "preprocessing: the library's processor",
        "forward: PyTorch, eager",
        f"largest batch: {first.batch_size}, on 1 thread",
    )
    facts |= {name: "5" for name in facts if name.endswith("batch size")}
    assert ObjectDetectionEngine.load(folder, cores=1, facts=Kept()).batch_size == 5


def fewer_labels(folder: Path) -> None:
    text = (folder / "config.json").read_text()
    (folder / "config.json").write_text(text.replace('"4": "dog"', '"3": "dog"').replace('"3": "traffic light",', ""))


def another_kind(folder: Path) -> None:
    (folder / "config.json").write_text('{"model_type": "gpt2", "architectures": ["GPT2LMHeadModel"]}')


def no_processor(folder: Path) -> None:
    (folder / "preprocessor_config.json").unlink()


def needs_torchvision(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "RfDetrImageProcessor"}')


def finds_nothing(folder: Path) -> None:
    (folder / "preprocessor_config.json").write_text('{"image_processor_type": "ViTImageProcessor"}')


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (fewer_labels, "the weights have 5 outputs, config.json names 4 labels"),
        (another_kind, "cannot be read"),
        (no_processor, "cannot be read"),
        (needs_torchvision, "torchvision"),
        (finds_nothing, "post_process_object_detection"),
    ],
)
def test_a_broken_folder_fails_to_load_with_one_line_and_no_path(
    tmp_path: Path, fault: Callable[[Path], None], reason: str
) -> None:
    fault(saved(tmp_path / "secret", "yolos"))
    with pytest.raises(ModelLoadFailed, match=reason) as failed:
        ObjectDetectionEngine.load(tmp_path / "secret")
    assert "\n" not in failed.value.message
    assert "/" not in failed.value.message
