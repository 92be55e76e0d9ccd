"""The engine answers as transformers does, one bad image fails alone, and close gives everything back."""

import gc
import io
import json
import threading
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoModelForImageClassification,
    pipeline,
)

from deployments.contract.errors import Internal, InvalidImage, ServingError
from deployments.engines.vision.engine import ImageClassificationEngine
from deployments.system.artifact_cache import ArtifactCache
from tests.support import sweep
from tests.support.image_models import (
    CONFIGS,
    LABELS,
    answer,
    answers,
    encoded,
    expected,
    loaded,
    photo,
    pixels,
    saved,
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[ImageClassificationEngine]:
    engine = loaded(saved(tmp_path))
    yield engine
    engine.close()


@pytest.mark.parametrize("kind", sweep(CONFIGS, "vit"))
def test_probabilities_are_those_of_transformers(tmp_path: Path, kind: str) -> None:
    engine = loaded(saved(tmp_path, kind))
    for size in ((61, 47), (47, 61), (32, 32), (20, 90)):
        probabilities = answer(engine, encoded(photo(*size)))
        assert probabilities.dtype == np.float32
        assert probabilities.shape == (len(LABELS),)
        np.testing.assert_allclose(probabilities, expected(tmp_path, photo(*size)), atol=1e-5)
    assert "direct" in engine.runtime_info[0]


def test_labels_are_as_the_folder_has_them(engine: ImageClassificationEngine) -> None:
    assert engine.labels == LABELS


def test_the_most_probable_labels_come_first(engine: ImageClassificationEngine) -> None:
    probabilities = np.array([0.1, 0.2, 0.5, 0.15, 0.05], dtype=np.float32)
    labels, best = engine.best(probabilities, 3)
    assert labels == ["crane", "tench, Tinca tinca", "crane"]
    assert best == pytest.approx([0.5, 0.2, 0.15])


def test_top_k_0_or_more_than_there_are_means_all(engine: ImageClassificationEngine) -> None:
    probabilities = np.full(len(LABELS), 0.2, dtype=np.float32)
    assert engine.best(probabilities, 0) == engine.best(probabilities, 99)
    assert engine.best(probabilities, 0)[0] == LABELS


def test_a_multi_label_model_answers_sigmoids(tmp_path: Path) -> None:
    folder = saved(tmp_path, problem_type="multi_label_classification")
    by_label = pipeline("image-classification", str(folder))(photo(), top_k=len(LABELS))
    got = answer(loaded(folder), encoded(photo()))
    np.testing.assert_allclose(sorted(got.tolist(), reverse=True), [row["score"] for row in by_label], atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_models_answer_in_float32(tmp_path: Path, dtype: torch.dtype) -> None:
    folder = saved(tmp_path, "vit", dtype)
    probabilities = answer(loaded(folder), encoded(photo()))
    assert probabilities.dtype == np.float32
    assert probabilities.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(probabilities, expected(folder, photo()), atol=1e-2)


def test_a_dtype_may_be_asked_for(tmp_path: Path) -> None:
    full, half = loaded(saved(tmp_path)), loaded(tmp_path, dtype="bfloat16")
    assert half.resident_bytes == full.resident_bytes // 2


def test_a_one_channel_model_takes_any_image(tmp_path: Path) -> None:
    engine = loaded(saved(tmp_path, "resnet", num_channels=1))
    assert engine.preprocess(encoded(photo())).shape == (1, 32, 32)
    np.testing.assert_allclose(
        answer(engine, encoded(photo().convert("L"))), answer(engine, encoded(photo())), atol=1e-5
    )


def test_an_old_feature_extractor_config_is_understood(tmp_path: Path) -> None:
    saved(tmp_path)
    old = {
        "feature_extractor_type": "ViTFeatureExtractor",
        "do_normalize": True,
        "do_resize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
        "resample": 2,
        "size": 32,
    }
    new = answer(loaded(tmp_path), encoded(photo()))
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(old))
    np.testing.assert_allclose(answer(loaded(tmp_path), encoded(photo())), new, atol=1e-6)


def test_a_processor_that_does_more_than_we_know_is_run_by_the_library(tmp_path: Path) -> None:
    saved(tmp_path)
    config = {"image_processor_type": "MobileViTImageProcessor", "size": {"shortest_edge": 32}, "do_center_crop": True,
              "crop_size": {"height": 32, "width": 32}, "do_flip_channel_order": True}  # fmt: skip
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    engine = loaded(tmp_path)
    assert "library" in engine.runtime_info[0]
    assert "direct" not in engine.runtime_info[0]
    np.testing.assert_allclose(answer(engine, encoded(photo())), expected(tmp_path, photo()), atol=1e-5)


def in_batches(engine: ImageClassificationEngine, size: int) -> None:
    assert engine._forward is not None
    engine._forward.form = replace(engine._forward.form, batch_size=size)


def test_a_batch_answers_as_its_images_alone(engine: ImageClassificationEngine) -> None:
    in_batches(engine, 16)
    items = [engine.preprocess(encoded(photo(seed=seed))) for seed in range(40)]
    one_by_one = [answers(engine, [item])[0] for item in items]
    np.testing.assert_allclose(answers(engine, items), one_by_one, atol=1e-5)


def test_images_of_unequal_size_are_grouped_and_answered_in_order(tmp_path: Path) -> None:
    engine = loaded(saved(tmp_path, "resnet"))
    in_batches(engine, 8)
    items = [torch.randn(3, side, side) for side in (32, 48, 32, 64, 48)]
    one_by_one = [answers(engine, [item])[0] for item in items]
    assert engine._forward is not None
    form, sizes = engine._forward.form, []

    def counted(batch: torch.Tensor) -> torch.Tensor:
        sizes.append(len(batch))
        return form.logits(batch)

    engine._forward.form = replace(form, logits=counted)
    for got, single in zip(answers(engine, items), one_by_one, strict=True):
        np.testing.assert_allclose(got, single, atol=1e-5)
    assert sizes == [2, 2, 1]


def test_an_image_whose_answer_is_not_finite_fails_alone(engine: ImageClassificationEngine) -> None:
    good = pixels(engine, encoded(photo()))
    got = engine.classify([good, torch.full_like(good, torch.nan), good])
    assert [type(item) for item in got] == [np.ndarray, Internal, np.ndarray]


def test_files_are_answered_beside_pixels_and_a_damaged_one_fails_alone(engine: ImageClassificationEngine) -> None:
    file = encoded(photo())
    from_file, damaged, from_pixels = engine.classify([file, b"no image", engine.preprocess(file)])
    assert isinstance(damaged, InvalidImage)
    assert isinstance(from_file, np.ndarray)
    assert isinstance(from_pixels, np.ndarray)
    np.testing.assert_allclose(from_file, from_pixels, atol=1e-6)


def test_a_forward_that_fails_is_split_until_the_offender_stands_alone(engine: ImageClassificationEngine) -> None:
    offender = 1234.5
    forward = engine._forward
    assert forward is not None
    form = forward.form

    def failing(batch: torch.Tensor) -> torch.Tensor:
        if (batch == offender).any():
            raise RuntimeError("no")
        return form.logits(batch)

    forward.form = replace(form, logits=failing, batch_size=8)
    items = [pixels(engine, encoded(photo(seed=seed))) for seed in range(7)]
    items[4] = torch.full_like(items[4], offender)
    got = engine.classify(items)
    assert [index for index, item in enumerate(got) if isinstance(item, ServingError)] == [4]
    failed = got[4]
    assert isinstance(failed, Internal)
    assert "no" not in failed.message.split()


def test_images_of_the_wrong_shape_fail_alone(engine: ImageClassificationEngine) -> None:
    good = engine.preprocess(encoded(photo()))
    got = engine.classify([torch.zeros(3, 7, 9), good, torch.zeros(1)])
    assert [type(item) for item in got] == [Internal, np.ndarray, Internal]


def test_no_images_have_no_answers(engine: ImageClassificationEngine) -> None:
    assert engine.classify([]) == []


def test_no_image_is_an_invalid_image(engine: ImageClassificationEngine) -> None:
    with pytest.raises(InvalidImage):
        engine.preprocess(b"no image")


@pytest.mark.parametrize("kind", sweep(["resnet", "mobilenet"], "resnet"))
def test_an_image_too_narrow_to_resize_is_refused(tmp_path: Path, kind: str) -> None:
    engine = loaded(saved(tmp_path, kind))
    with pytest.raises(InvalidImage, match="narrow"):
        engine.preprocess(encoded(Image.new("L", (1, 300_000))))


def test_many_threads_preprocess_at_once(engine: ImageClassificationEngine) -> None:
    files = [encoded(photo(200, 150, seed)) for seed in range(8)]
    one_by_one = [pixels(engine, file) for file in files]
    together: dict[int, torch.Tensor] = {}
    threads = [
        threading.Thread(target=lambda i=i: together.__setitem__(i, pixels(engine, files[i % 8]))) for i in range(32)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(together) == 32
    assert all(torch.equal(together[i], one_by_one[i % 8]) for i in together)


def test_large_jpegs_are_decoded_small_only_where_that_is_asked_for(tmp_path: Path) -> None:
    small, whole = loaded(saved(tmp_path), draft=True), loaded(tmp_path)
    for seed in range(6):
        image = photo(800, 600, seed)
        large = encoded(image, "JPEG", quality=95)
        assert not torch.equal(pixels(small, large), pixels(whole, large))
        np.testing.assert_allclose(answer(small, large), answer(whole, large), atol=1e-2)
        np.testing.assert_allclose(answer(whole, large), expected(tmp_path, Image.open(io.BytesIO(large))), atol=1e-5)


def test_resident_bytes_are_the_tensors_storage(tmp_path: Path) -> None:
    engine = loaded(saved(tmp_path))
    model = AutoModelForImageClassification.from_pretrained(tmp_path)
    assert engine.resident_bytes == sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])


def test_close_drops_the_model_and_may_be_called_twice(tmp_path: Path) -> None:
    engine = loaded(saved(tmp_path))
    item = engine.preprocess(encoded(photo()))
    assert engine._forward is not None
    weights = weakref.ref(next(engine._forward.model.parameters()))
    engine.close()
    engine.close()
    gc.collect()
    assert weights() is None
    assert isinstance(engine.classify([item])[0], Internal)
    with pytest.raises(Internal):
        engine.preprocess(encoded(photo()))
    assert engine.runtime_info == ()


SHARED = Path(__file__).parents[5] / "shared"
PHOTOS = {
    "coral_parrot.jpg": ("macaw",),
    "coral_hot_dog.jpg": ("hotdog, hot dog, red hot",),
    "skimage_chelsea.png": ("Egyptian cat", "tabby, tabby cat", "tiger cat"),
    "skimage_coffee.png": ("espresso",),
    "skimage_rocket.jpg": ("missile", "projectile, missile"),
    "coral_owl.jpg": (),
}


@pytest.mark.skipif(not (SHARED / "photos").is_dir(), reason="the shared photos are not here")
@pytest.mark.filterwarnings("ignore")  # of torch's own, while it exports
@pytest.mark.parametrize("compiled", [False, True])
def test_real_photos_are_what_transformers_says_and_stay_so_at_twelve_megapixels(
    tmp_path: Path, compiled: bool
) -> None:
    folder = SHARED / "models" / "tf2_mobilenet_v2_1.0_224"
    engine = loaded(folder, cache=ArtifactCache(tmp_path / "cache", 1 << 30) if compiled else None)
    assert engine.settled.wait(240)
    assert ("forward: OpenVINO" in engine.runtime_info) == compiled
    by_library = pipeline("image-classification", str(folder))
    for name, labels in PHOTOS.items():
        file = SHARED / "photos" / name
        got = answer(engine, file.read_bytes())
        image = Image.open(file).convert("RGB")
        np.testing.assert_allclose(got, expected(folder, image), atol=1e-5)
        theirs, ours = by_library(image, top_k=5), zip(*engine.best(got, 5), strict=True)
        for row, (label, probability) in zip(theirs, ours, strict=True):
            assert (row["label"], row["score"]) == (label, pytest.approx(probability, abs=1e-4))
        assert not labels or engine.best(got, 1)[0][0] in labels
        large = encoded(image.resize((4000, 4000 * image.height // image.width)), "JPEG", quality=90)
        (label,), (probability,) = engine.best(answer(engine, large), 1)
        (row,) = by_library(Image.open(io.BytesIO(large)), top_k=1)
        assert (row["label"], row["score"]) == (label, pytest.approx(probability, abs=1e-4))
