"""Word error rate of the served recogniser of digits, each test recording sent over HTTP at its rate and at others."""

import argparse
import asyncio
import io
from pathlib import Path

import soundfile
import soxr
from tqdm import tqdm

from serve_app.client import DEFAULT_URL, AsyncModelRuntimeClient
from training.digits import Recording, load_recordings
from training.word_errors import word_errors

UNDER_WAY = 4
RATES = (8_000, 16_000, 22_050, 44_100, 48_000)
"""Hz. The recordings have the first one."""


def wav(recording: Recording, rate: int) -> bytes:
    """16 bit."""
    file = io.BytesIO()
    soundfile.write(file, soxr.resample(recording.samples, recording.rate, rate), rate, "PCM_16", format="WAV")
    return file.getvalue()


async def evaluate(url: str, model_id: str, archive: Path) -> None:
    recordings = load_recordings(archive, "test")
    places = asyncio.Semaphore(UNDER_WAY)
    bar = tqdm(total=len(recordings) * len(RATES))
    async with AsyncModelRuntimeClient(url) as client:

        async def errors(recording: Recording, rate: int) -> int:
            async with places:
                said = await client.transcribe(model_id, wav(recording, rate))
            bar.update()
            return word_errors(said.text, recording.word)

        for rate in RATES:
            wrong = sum(await asyncio.gather(*(errors(recording, rate) for recording in recordings)))
            tqdm.write(f"{rate} Hz: word error rate {wrong / len(recordings):.4f} ({wrong} of {len(recordings)})")
    bar.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="the archive, fsdd.zip")
    parser.add_argument("--model", default="spoken_digits")
    parser.add_argument("--url", default=DEFAULT_URL)
    options = parser.parse_args()
    asyncio.run(evaluate(options.url, options.model, options.data))


if __name__ == "__main__":
    main()
