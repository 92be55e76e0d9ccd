"""The engine finds what transformers finds, in the frame of the upright picture, and one bad picture fails alone."""

import gc
import io
import json
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps

from deployments.contract.errors import Internal, InvalidImage
from deployments.engines.detection.engine import Found, ObjectDetectionEngine
from tests.support import sweep
from tests.support.detection.models import ARCHITECTURES, LABELS, expected, saved
from tests.support.image_models import encoded, on_one_thread, photo

__all__ = ["on_one_thread"]  # a fixture of every test here


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("yolos"), "yolos")


@pytest.fixture(scope="module")
def engine(folder: Path) -> Iterator[ObjectDetectionEngine]:
    engine = ObjectDetectionEngine.load(folder)
    yield engine
    engine.close()


def found(engine: ObjectDetectionEngine, image_data: bytes, threshold: float = 0.1) -> Found:
    [answer] = engine.detect([engine.preprocess(image_data, threshold)])
    assert isinstance(answer, Found), answer
    return answer


def assert_same(answer: Found, rows: list[tuple[str, float, list[float]]]) -> None:
    assert answer.labels == [label for label, _, _ in rows]
    np.testing.assert_allclose(answer.scores, [score for _, score, _ in rows], atol=5e-6)
    np.testing.assert_allclose(answer.boxes, np.reshape([box for _, _, box in rows], (-1, 4)), atol=1e-2)
    assert answer.scores.dtype == answer.boxes.dtype == np.float32


def says(
    engine: ObjectDetectionEngine,
    monkeypatch: pytest.MonkeyPatch,
    logits: list[list[float]],
    boxes: list[list[float]] | None = None,
) -> None:
    """Sets the outputs of the model, whatever the picture."""
    where = boxes or [[0.5, 0.5, 1.0, 1.0]] * len(logits)
    outputs = torch.tensor(logits).float(), torch.tensor(where)
    monkeypatch.setattr(engine, "_outputs", lambda items: [torch.stack([one] * len(items)) for one in outputs])


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("model_type", sweep(ARCHITECTURES, "detr"))
def test_labels_scores_and_boxes_are_those_of_transformers(tmp_path: Path, model_type: str) -> None:
    engine = ObjectDetectionEngine.load(saved(tmp_path, model_type))
    answers = []
    for seed, size in enumerate(((120, 60), (60, 120), (320, 200), (640, 100))):
        answer = found(engine, encoded(photo(*size, seed)))
        assert_same(answer, expected(tmp_path, photo(*size, seed), 0.1))
        answers.append(answer.scores[:5])
    assert np.abs(answers[0] - answers[1]).max() > 1e-5  # else anything would do


@pytest.mark.parametrize("tag", range(1, 9))
def test_boxes_lie_in_the_frame_of_the_upright_picture(engine: ObjectDetectionEngine, folder: Path, tag: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = tag
    turned = encoded(photo(200, 100), "JPEG", quality=95, exif=exif)
    with Image.open(io.BytesIO(turned)) as sent:
        upright = ImageOps.exif_transpose(sent)
    assert upright.size == ((200, 100) if tag < 5 else (100, 200))
    assert_same(found(engine, turned), expected(folder, upright, 0.1))


FILES: dict[str, Callable[[Image.Image], tuple[bytes, Image.Image]]] = {
    mode: lambda image, mode=mode: (encoded(image.convert(mode)), image.convert(mode).convert("RGB"))  # type: ignore[misc]
    for mode in ("1", "L", "LA", "P", "RGBA")
}
"""As PNG: the file, and what the library is given."""
FILES["a transparent colour"] = lambda image: (
    encoded(image.convert("P"), transparency=0),
    image.convert("P").convert("RGB"),
)


@pytest.mark.parametrize("mode", FILES)
def test_every_mode_is_read_as_rgb(engine: ObjectDetectionEngine, folder: Path, mode: str) -> None:
    file, as_rgb = FILES[mode](photo(120, 60))
    assert_same(found(engine, file), expected(folder, as_rgb, 0.1))


@pytest.mark.parametrize("file_format", ["JPEG", "WEBP", "GIF", "BMP", "TIFF"])
def test_every_format_is_read(engine: ObjectDetectionEngine, folder: Path, file_format: str) -> None:
    mode = "CMYK" if file_format == "JPEG" else "RGB"
    file = encoded(photo(120, 60).convert(mode), file_format)
    with Image.open(io.BytesIO(file)) as sent:
        assert_same(found(engine, file), expected(folder, sent.convert("RGB"), 0.1))


@pytest.mark.parametrize("model_type", sweep(["detr", "rt_detr"], "detr"))
@pytest.mark.filterwarnings("ignore")
def test_a_large_jpeg_is_decoded_in_full(tmp_path: Path, model_type: str) -> None:
    engine = ObjectDetectionEngine.load(saved(tmp_path, model_type))
    file = encoded(photo(900, 700), "JPEG", quality=90)
    with Image.open(io.BytesIO(file)) as sent:
        assert_same(found(engine, file), expected(tmp_path, sent.convert("RGB"), 0.1))


def test_thin_tiny_and_large_pictures_get_the_size_that_the_folders_processor_gives_them(tmp_path: Path) -> None:
    engine = ObjectDetectionEngine.load(saved(tmp_path, "detr"))
    for size in ((3000, 100), (100, 3000), (8, 8), (500, 500)):
        assert_same(found(engine, encoded(photo(*size))), expected(tmp_path, photo(*size), 0.1))


@pytest.mark.parametrize("older", [{"size": 64, "max_size": 106}, {"do_pad": False}], ids=str)
def test_the_size_that_an_older_folder_names_is_read_as_the_library_reads_it(
    tmp_path: Path, older: dict[str, Any]
) -> None:
    file = saved(tmp_path, "detr") / "preprocessor_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | older))
    engine = ObjectDetectionEngine.load(tmp_path)
    for size in ((640, 100), (100, 640)):
        assert_same(found(engine, encoded(photo(*size))), expected(tmp_path, photo(*size), 0.1))


def test_a_picture_too_thin_for_the_processor_is_an_invalid_image(engine: ObjectDetectionEngine) -> None:
    """YOLOS's cuts to whole patches: nothing is left."""
    with pytest.raises(InvalidImage, match="shape"):
        engine.preprocess(encoded(photo(3000, 100)), 0.1)


def test_red_is_the_first_channel(engine: ObjectDetectionEngine) -> None:
    item: Any = engine.preprocess(encoded(Image.new("RGB", (64, 48), "red")), 0.5).item
    red, green, blue = item["pixel_values"].mean((1, 2)).tolist()
    assert red > max(green, blue)


def test_a_box_of_the_whole_picture_has_its_size(
    engine: ObjectDetectionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(engine, monkeypatch, [[0, 9, 0, 0, 0, 0]])
    for width, height in ((640, 100), (100, 640)):
        answer = found(engine, encoded(photo(width, height)))
        assert answer.boxes.tolist() == [[0, 0, width, height]]


def test_boxes_beyond_the_edge_end_at_it_and_are_no_integers(
    engine: ObjectDetectionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(engine, monkeypatch, [[0, 9, 0, 0, 0, 0]], [[0.02, 0.5, 0.11, 1.2]])
    [box] = found(engine, encoded(photo(101, 50))).boxes.tolist()
    assert box == pytest.approx([0, 0, 7.575, 50], abs=1e-4)


def score_of(logits: list[float]) -> float:
    """The best of the real classes: softmax over all, the last one being no object."""
    return float(torch.tensor(logits).softmax(-1)[:-1].max())


def test_the_threshold_is_strict_and_0_means_every_query(
    engine: ObjectDetectionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(engine, monkeypatch, [[0, strength, 0, 0, 0, 0] for strength in (1.0, 5.0, 0.0, 2.0)])
    scores = found(engine, encoded(photo()), 0.0).scores
    assert scores.tolist() == sorted(scores.tolist(), reverse=True)
    assert len(scores) == 4
    assert len(found(engine, encoded(photo()), float(scores[1])).scores) == 1
    nothing = found(engine, encoded(photo()), 1.0)
    assert (nothing.labels, nothing.scores.shape, nothing.boxes.shape) == ([], (0,), (0, 4))


def test_an_object_that_is_less_likely_than_none_counts_by_its_score(
    engine: ObjectDetectionEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    says(engine, monkeypatch, [[0, 2.0, 0, 0, 0, 2.7]] * 2)
    answer = found(engine, encoded(photo()), 0.25)
    assert answer.labels == ["person"] * 2  # equal boxes stay two
    assert answer.scores[0] == pytest.approx(score_of([0, 2.0, 0, 0, 0, 2.7]))
    assert 0.25 < answer.scores[0] < 0.5


@pytest.mark.filterwarnings("ignore")
def test_one_query_may_be_two_objects_where_the_library_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = ObjectDetectionEngine.load(saved(tmp_path, "conditional_detr"))
    says(engine, monkeypatch, [[-9, 3, -9, 2, -9]])
    answer = found(engine, encoded(photo()), 0.5)
    assert answer.labels == ["person", "traffic light"]
    assert answer.boxes[0].tolist() == answer.boxes[1].tolist()
    says(engine, monkeypatch, [[3.0] * 5] * 40)
    assert len(found(engine, encoded(photo()), 0.5).labels) == 100


def test_labels_are_those_of_the_models_numbers(engine: ObjectDetectionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither sorted nor renumbered, holes and repetitions as they are; a number without a name is LABEL_n."""
    says(engine, monkeypatch, [[9.0 if n == label else 0 for n in range(6)] for label in range(5)])
    assert found(engine, encoded(photo())).labels == LABELS
    monkeypatch.setattr(engine, "labels", {1: "person"})
    assert found(engine, encoded(photo())).labels == ["LABEL_0", "person", "LABEL_2", "LABEL_3", "LABEL_4"]


def test_pictures_answer_beside_others_as_alone(engine: ObjectDetectionEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "batch_size", 8)
    sizes = [(640, 100), (100, 640), (200, 200), (640, 100), (200, 200), (640, 100)]
    pictures = [engine.preprocess(encoded(photo(*size, seed)), 0.1) for seed, size in enumerate(sizes)]
    alone = [found(engine, encoded(photo(*size, seed))) for seed, size in enumerate(sizes)]
    outputs, batches = engine._outputs, []

    def counted(items: Any) -> Any:
        batches.append(len(items))
        return outputs(items)

    monkeypatch.setattr(engine, "_outputs", counted)
    for got, lone in zip(engine.detect(pictures), alone, strict=True):
        assert isinstance(got, Found)
        assert got.labels == lone.labels
        np.testing.assert_allclose(got.boxes, lone.boxes, atol=1e-2)
        np.testing.assert_allclose(got.scores, lone.scores, atol=1e-5)
    assert batches == [3, 1, 2]


def test_a_picture_whose_outputs_are_not_finite_fails_alone(engine: ObjectDetectionEngine) -> None:
    """NaN is above no threshold: it would look like an empty picture."""
    good = engine.preprocess(encoded(photo()), 0.1)
    item: Any = good.item
    bad = replace(good, item=type(item)({name: values * torch.nan for name, values in item.items()}))
    assert [type(answer) for answer in engine.detect([good, bad, good])] == [Found, Internal, Found]


def test_no_image_is_an_invalid_image(engine: ObjectDetectionEngine) -> None:
    with pytest.raises(InvalidImage):
        engine.preprocess(b"no image", 0.5)


def test_close_drops_the_model_and_may_be_called_twice(folder: Path) -> None:
    engine = ObjectDetectionEngine.load(folder)
    picture = engine.preprocess(encoded(photo()), 0.5)
    weights = weakref.ref(next(engine._model.parameters()))
    engine.close()
    engine.close()
    gc.collect()
    assert weights() is None
    assert (engine.resident_bytes, engine.runtime_info) == (0, ())
    assert isinstance(engine.detect([picture])[0], Internal)
    with pytest.raises(Internal):
        engine.preprocess(encoded(photo()), 0.5)
