"""Pictures of 12 megapixels in every format, and 64 pictures in one request: how long one caller waits for them."""

import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from PIL import Image

from benchmarks.models import clouds, jpeg
from benchmarks.report import Claims
from benchmarks.servers import Server, running, settle

SIZE = (4000, 3000)
LARGEST_MB = 64
TOGETHER = 64
TIMES = 5
LIMIT_S = 1.0


def saved(**options: Any) -> Callable[[Image.Image], bytes]:
    def save(image: Image.Image) -> bytes:
        file = io.BytesIO()
        image.save(file, **options)
        return file.getvalue()

    return save


FORMATS: dict[str, Callable[[Image.Image], bytes]] = {
    "JPEG": saved(format="JPEG", quality=90),
    "progressive JPEG": saved(format="JPEG", quality=90, progressive=True),
    "CMYK JPEG": lambda image: saved(format="JPEG", quality=90)(image.convert("CMYK")),
    "PNG": saved(format="PNG", compress_level=1),
    "WebP": saved(format="WEBP", method=0),
    "lossless WebP": saved(format="WEBP", lossless=True, method=0, quality=0),
    "GIF": saved(format="GIF"),
    "BMP": saved(format="BMP"),
    "TIFF": saved(format="TIFF"),
    "LZW TIFF": saved(format="TIFF", compression="tiff_lzw"),
}


def run(server: Server, model_id: str) -> Claims:
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "runtime.yaml"
        config.write_text(f"ingress: {{max_body_mb: {LARGEST_MB}}}\n", "utf-8")
        server = replace(server, command=(*server.command, "--config", config))
        rows, failed = _measured(server, model_id)
    notes = [
        f"One caller, {TIMES} times each, uploaded as a form; the model of the table above; max_body_mb: {LARGEST_MB}."
    ]
    return Claims("Twelve megapixels in every format", rows, notes, failed)


def _measured(server: Server, model_id: str) -> tuple[list[tuple[str, str, str]], bool]:
    image = clouds(*SIZE, seed=20)
    rows: list[tuple[str, str, str]] = []
    failed = False
    with running(server, jpeg(320, 240, 1)) as url, httpx.Client(timeout=60) as client:
        settle(60)
        for name, save in FORMATS.items():
            file = save(image)
            form = {"data": {"model_id": model_id}, "files": {"image": file}}
            took = [_took(client, url, form) for _ in range(TIMES)]
            failed |= max(took) > LIMIT_S
            sizes = f"{len(file) / 1e6:.1f} MB"
            rows.append((f"{name}, {sizes}", f"{sorted(took)[TIMES // 2]:.2f} s, at most {max(took):.2f}", "1 s"))
        batch = [server.body(jpeg(320, 240, 1))] * TOGETHER
        took = [_took(client, f"{url}/batch", {"json": batch}) for _ in range(TIMES)]
        rate = TOGETHER / sorted(took)[TIMES // 2]
        rows.append((f"{TOGETHER} JPEGs of 320×240 in one request", f"{rate:.0f} pictures/s", ""))
    return rows, failed


def _took(client: httpx.Client, url: str, request: dict[str, Any]) -> float:
    start = time.perf_counter()
    reply = client.post(url, **request)
    took = time.perf_counter() - start
    answers = reply.json() if isinstance(reply.json(), list) else [reply.json()]
    if not all("ImageClassificationResult" in answer for answer in answers):
        raise RuntimeError(f"{reply.status_code}: {reply.text[:200]}")
    return took
