"""A Whisper of tiny's shape beside faster-whisper and transformers' pipeline, both behind LitServe.

Greedy, without times and without another try; every clip gives the same number of tokens.
"""

import base64
import os
import subprocess
from pathlib import Path
from typing import Any

from benchmarks.contest import Pace
from benchmarks.families.contest import FOLDER, MODEL_ID, PEERS, Point, app, contest, ours
from benchmarks.families.models import save_whisper, sound
from benchmarks.report import Table

SECONDS = 30
TOKENS = 96
"""Of half a minute of speech."""


def run(pace: Pace, folder: Path) -> Table:
    model = save_whisper(folder / "models" / MODEL_ID, TOKENS)
    for precision in ("float32", "int8"):
        convert = (
            PEERS / "bin" / "python",
            FOLDER / "peers" / "convert_whisper.py",
            model,
            folder / precision,
            precision,
        )
        subprocess.run(convert, check=True, stdout=subprocess.DEVNULL)
    clips = [sound(SECONDS, seed) for seed in range(3)]
    points = [Point(f"clips of {SECONDS} s, {n} at a time", clips[0], n, amount=SECONDS) for n in (1, 4)]
    cores = len(os.sched_getaffinity(0))
    ours_or_theirs = (_body, _text)
    common = ("--tokens", TOKENS)
    servers = [
        ours(model.parent, "/infer", *ours_or_theirs),
        *(
            app(name, "whisper", "/predict", *ours_or_theirs, *common, "--model", source, *options)
            for name, source, options in (
                ("faster-whisper float32 + LitServe", folder / "float32", ("--fast", "float32")),
                (f"the same, {cores} workers", folder / "float32", ("--fast", "float32", "--workers", cores)),
                ("faster-whisper int8 + LitServe", folder / "int8", ("--fast", "int8")),
                ("pipeline + LitServe", model, ()),
            )
        ),
    ]
    longer = Pace(2 * pace.seconds, pace.rounds, pace.lead_in_s, pace.settle_s)
    table = contest("Speech to text: Whisper tiny", "seconds of audio/s", servers, points, clips, str.__eq__, longer)
    table.notes.append(
        f"Random weights, {TOKENS} tokens a clip. WAVs of {len(clips[0]) / 1e6:.1f} MB as base64 in JSON to all. "
        "Each token is a word of its own, so equal texts are equal tokens; int8 is another precision."
    )
    return table


def _body(audio_data: bytes) -> dict[str, Any]:
    encoded = base64.b64encode(audio_data).decode()
    return {"SpeechToText": {"model_id": MODEL_ID, "audio_data": encoded, "language": "en"}}


def _text(reply: dict[str, Any]) -> str:
    return str(reply["SpeechToTextResult"]["text"])
