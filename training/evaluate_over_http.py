"""Top-1 of a served classifier on a zip of `<class>/<number>.jpg`, each file sent over HTTP as it is."""

import argparse
import asyncio
import zipfile
from pathlib import Path

from tqdm import tqdm

from serve_app.client import DEFAULT_URL, AsyncModelRuntimeClient

UNDER_WAY = 16


async def evaluate(url: str, model_id: str, archive: Path) -> None:
    with zipfile.ZipFile(archive) as files:
        pictures = [(name.split("/")[0], files.read(name)) for name in files.namelist() if name.endswith(".jpg")]
    places = asyncio.Semaphore(UNDER_WAY)
    bar = tqdm(total=len(pictures))

    async with AsyncModelRuntimeClient(url) as client:

        async def is_right(name: str, image: bytes) -> bool:
            async with places:
                result = await client.classify(model_id, image, top_k=1)
            bar.update()
            return result.class_labels == [name]

        right = sum(await asyncio.gather(*(is_right(name, image) for name, image in pictures)))
    bar.close()
    print(f"top-1 {right / len(pictures):.4f} ({right} of {len(pictures)})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the archive, such as cifar10-test.zip")
    parser.add_argument("--model", default="image_classifier_v1")
    parser.add_argument("--url", default=DEFAULT_URL)
    options = parser.parse_args()
    asyncio.run(evaluate(options.url, options.model, options.data))


if __name__ == "__main__":
    main()
