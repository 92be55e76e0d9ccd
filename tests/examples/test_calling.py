"""docs/calling.md: its programs run as they are, but for the address and the models' names."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from deployments.families.table import FAMILIES
from tests.examples.pages import LANGUAGES, PAGE_URL, programs
from tests.support.audio.files import saved, words
from tests.support.running import Running

MODELS = {
    "image_classifier_v1": "image",
    "blood_cells": "detector",
    "whisper": "speech",
    "encoder": "encoder",
    "gpt-nano": "text",
}
"""Those of the page, and those of the tests' runtime."""
SAYS: dict[str, Callable[[dict[str, Any]], object]] = {
    "image_classification": lambda answer: answer["ImageClassificationResult"]["class_labels"][0],
    "object_detection": lambda answer: len(answer["ObjectDetectionResult"]["boxes"]),
    "speech_to_text": lambda answer: answer["SpeechToTextResult"]["text"],
    "text_embedding": lambda answer: len(answer["TextEmbeddingResult"]["embeddings"][0]),
    "text_generation": lambda answer: answer["TextGenerationResult"]["generated_text"],
}
"""What the programs of a family print, of the answer that curl prints whole."""
COMMANDS = {
    "bash": ("bash", "-ceu"),
    "python": (sys.executable, "-c"),
    "javascript": ("node", "--input-type=module", "--eval"),
}


def test_each_family_has_a_program_in_each_language() -> None:
    assert {name: tuple(found) for name, found in programs().items()} == {row.name: LANGUAGES for row in FAMILIES}


@pytest.mark.parametrize("family", sorted(SAYS))
def test_the_programs_of_a_family_run_and_agree(runtime: Running, family: str, tmp_path: Path) -> None:
    for picture in ("photo.jpg", "smear.jpg"):
        shutil.copy(runtime.picture, tmp_path / picture)
    (tmp_path / "speech.wav").write_bytes(saved(words(1.0), 16_000))
    printed = {}
    for language, command in COMMANDS.items():
        program = programs()[family][language].replace(PAGE_URL, runtime.url)
        if shutil.which(command[0]) and (language != "bash" or shutil.which("curl")):
            for ours, theirs in MODELS.items():
                program = program.replace(ours, theirs)
            ran = subprocess.run([*command, program], cwd=tmp_path, capture_output=True, text=True, check=False)
            assert ran.returncode == 0, ran.stderr
            printed[language] = ran.stdout
    if "bash" in printed:
        printed["bash"] = f"{SAYS[family](json.loads(printed['bash']))}\n"
    assert set(printed.values()) == {printed["python"]}
