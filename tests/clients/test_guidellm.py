"""guidellm: its benchmark of streamed chats and completions, by its command."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions"])
def test_a_benchmark_counts_every_request_and_its_tokens(url: str, path: str, tmp_path: Path) -> None:
    prompts, report = tmp_path / "prompts.jsonl", tmp_path / "report.json"
    prompts.write_text("".join(f'{{"prompt": "Question {n}"}}\n' for n in range(3)))
    server = url.removesuffix("/v1")
    command = [
        *(Path(sys.executable).with_name("guidellm"), "run", "--disable-progress"),
        *("--backend", f"kind=openai_http,target={server},model=scripted,request_format={path}"),
        *("--profile", "kind=synchronous", "--constraint", "kind=max_requests,count=3"),
        *("--data", f"kind=json_file,path={prompts}", "--output", f"kind=json,path={report}"),
    ]
    subprocess.run(command, env=os.environ | {"HF_HUB_OFFLINE": "1", "HOME": str(tmp_path)}, check=True, timeout=100)
    [benchmark] = json.loads(report.read_text())["benchmarks"]
    totals = benchmark["metrics"]["request_totals"]
    assert (totals["successful"], totals["errored"]) == (3, 0)
    # As usage has them, in the last event of each stream.
    assert benchmark["metrics"]["output_token_count"]["successful"]["mean"] > 0
    assert benchmark["metrics"]["prompt_token_count"]["successful"]["mean"] == 3
