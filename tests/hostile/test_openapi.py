"""schemathesis sends requests generated from the OpenAPI document and compares the responses with it."""

import os
import subprocess
import sys
from pathlib import Path

import httpx

from tests.support.running import Running

EXAMPLES = int(os.environ.get("HOSTILE_EXAMPLES", "10"))
HERE = Path(__file__).parent
PROGRAM = Path(sys.executable).with_name("schemathesis")


def test_the_runtime_responds_as_its_openapi_document_says(runtime: Running, tmp_path: Path) -> None:
    """No 5xx; no status, type or shape that is not in the document; no request accepted that it forbids.

    HOSTILE_EXAMPLES, of each operation and phase, is 200 in `make fuzz-http`.
    """
    options = ["--max-examples", str(EXAMPLES), "--seed", "1", "--no-color"]
    command: list[str | Path] = [
        PROGRAM,
        "--config-file",
        HERE / "schemathesis.toml",
        "run",
        f"{runtime.url}/openapi.json",
        *options,
    ]
    # Families without a replica until they are asked: no generated request waits for one to start.
    asleep = (
        {"ObjectDetection": {"model_id": "detector", "image_data": ""}},
        {"TextEmbedding": {"model_id": "encoder", "texts": ["a"]}},
    )
    for request in asleep:
        httpx.post(f"{runtime.url}/infer", json=request, timeout=120)
    try:
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    finally:
        httpx.post(f"{runtime.url}/models/text/unpin").raise_for_status()
    print(ran.stdout)
    assert ran.returncode == 0, ran.stdout + ran.stderr
