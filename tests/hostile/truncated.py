"""Loads the models below a folder, cuts all their files to nothing, and asks each again: prints what changed."""

import sys
from collections.abc import Callable
from pathlib import Path

from deployments.contract.types import TextEmbedding
from deployments.engines.embedding.engine import TextEmbeddingEngine
from deployments.engines.vision.engine import ImageClassificationEngine
from tests.support.text_models import ask, load_single
from tests.support.tiny_models import save_picture


def questions(root: Path) -> dict[str, Callable[[], str]]:
    text, image = load_single(root / "text"), ImageClassificationEngine.load(root / "image")
    encoder = TextEmbeddingEngine.load(root / "encoder")
    picture = image.preprocess(save_picture(root / "picture.png").read_bytes())
    words = encoder.encode(TextEmbedding(model_id="m", texts=["a text"]))
    return {
        "text": lambda: ask(text, "Once upon a time", 8).text,
        "image": lambda: repr(image.classify([picture])),
        "encoder": lambda: repr(encoder.embed(words)),
    }


def main(root: Path) -> None:
    asked = questions(root)
    before = {name: ask() for name, ask in asked.items()}
    for name in asked:
        for file in (root / name).iterdir():
            if file.is_file():
                file.open("r+").truncate(0)
    changed = [name for name, ask in asked.items() if ask() != before[name]]
    print(f"changed: {changed}", flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
