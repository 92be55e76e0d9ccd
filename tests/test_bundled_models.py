"""The models that come with the project: small, whole, and what their cards say they are."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer

from deployments.contract.errors import PromptTooLong, ServingError
from deployments.engines.audio.engine import load_engine as load_speech_engine
from deployments.engines.detection.engine import ObjectDetectionEngine
from deployments.engines.text.engine import TextGenerationEngine
from deployments.engines.vision.engine import ImageClassificationEngine
from deployments.families.image_classification.family import SAMPLE_IMAGE
from tests.support import PROJECT
from tests.support.audio.speaking import written
from tests.support.text_models import ask, load
from training.average_precision import overlaps

MODELS = PROJECT / "models"


@pytest.fixture(scope="module")
def generator() -> Iterator[TextGenerationEngine]:
    engine = load(MODELS / "gpt-nano")
    yield engine
    engine.close()


@pytest.mark.parametrize("folder", sorted(MODELS.iterdir()), ids=lambda folder: folder.name)
def test_a_bundled_model_is_small_and_holds_data_only(folder: Path) -> None:
    files = list(folder.iterdir())
    assert {file.suffix for file in files} - {".jpg", ".wav"} == {".json", ".md", ".safetensors"}
    assert sum(file.stat().st_size for file in files) <= 8_000_000


def test_the_classifier_knows_the_sample() -> None:
    engine = ImageClassificationEngine.load(MODELS / "image_classifier_v1")
    (probabilities,) = engine.classify([engine.preprocess(SAMPLE_IMAGE.read_bytes())])
    assert engine.best(probabilities, 1)[0] == ["airplane"]  # type: ignore[arg-type]
    assert len(engine.labels) == 10


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You'd better set embed_dim")  # of speed on CUDA
def test_the_detector_finds_the_cells_of_its_example() -> None:
    engine = ObjectDetectionEngine.load(MODELS / "blood_cells")
    picture = engine.preprocess((MODELS / "blood_cells" / "example.jpg").read_bytes(), threshold=0.3)
    [found] = engine.detect([picture])
    assert not isinstance(found, ServingError)
    # As BCCD's own boxes have them.
    cells = {"WBC": [134, 92, 304, 209], "RBC": [477, 123, 580, 250], "Platelets": [472, 255, 511, 291]}
    for label, cell in cells.items():
        boxes = found.boxes[[name == label for name in found.labels]]
        assert overlaps(np.array(cell), boxes).max() > 0.5, label


def test_the_recogniser_hears_the_digit_of_its_example() -> None:
    engine = load_speech_engine(MODELS / "spoken_digits")
    samples, rate = soundfile.read(MODELS / "spoken_digits" / "example.wav", dtype="float32")
    assert written(engine, soxr.resample(samples, rate, engine.rate)).text == "seven"


@pytest.mark.compiles
def test_the_generator_says_what_transformers_says(generator: TextGenerationEngine) -> None:
    tokenizer = AutoTokenizer.from_pretrained(MODELS / "gpt-nano")
    model: Any = AutoModelForCausalLM.from_pretrained(MODELS / "gpt-nano")
    prompt = tokenizer("ROMEO:", return_tensors="pt", return_token_type_ids=False)

    ids = model.generate(**prompt, max_new_tokens=30, do_sample=False)[0, prompt.input_ids.shape[1] :]
    assert ask(generator, "ROMEO:", 30).text == tokenizer.decode(ids, skip_special_tokens=True)


@pytest.mark.compiles
@settings(deadline=None, max_examples=30)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_any_prompt_works(generator: TextGenerationEngine, prompt: str) -> None:
    try:
        assert isinstance(ask(generator, prompt, 2).text, str)
    except PromptTooLong:
        assert len(prompt) > 100
