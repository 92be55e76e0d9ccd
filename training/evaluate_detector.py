"""Mean average precision of the served detector of blood cells, each test picture sent over HTTP as it is."""

import argparse
import asyncio
import zipfile
from pathlib import Path

import numpy as np
from tqdm import tqdm

from serve_app.client import DEFAULT_URL, AsyncModelRuntimeClient
from training.average_precision import Answer, described, mean_average_precision
from training.cells import NAMES, load_labelled

UNDER_WAY = 4


async def evaluate(url: str, model_id: str, archive: Path) -> None:
    labelled = load_labelled(archive, "test")
    places = asyncio.Semaphore(UNDER_WAY)
    bar = tqdm(total=len(labelled))
    async with AsyncModelRuntimeClient(url) as client:

        async def answer(name: str, image: bytes) -> Answer:
            async with places:
                found = await client.detect(model_id, image, threshold=0.01)
            bar.update()
            true_labels = [NAMES[index] for index in labelled[name].classes.tolist()]
            boxes = np.array(found.boxes).reshape(-1, 4)
            return Answer(found.class_labels, found.scores, boxes, true_labels, labelled[name].boxes.numpy())

        with zipfile.ZipFile(archive) as files:
            answers = await asyncio.gather(*(answer(name, files.read(name)) for name in labelled))
    bar.close()
    print(described(*mean_average_precision(NAMES, answers)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the archive, bccd.zip")
    parser.add_argument("--model", default="blood_cells")
    parser.add_argument("--url", default=DEFAULT_URL)
    options = parser.parse_args()
    asyncio.run(evaluate(options.url, options.model, options.data))


if __name__ == "__main__":
    main()
