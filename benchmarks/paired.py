"""`python -m benchmarks.paired OTHER_CHECKOUT`: this checkout beside another one of the project, in turn, as ratios.

Both run at once, each with its own .venv, and are asked one after the other, A B B A …, so that a machine whose speed
drifts meets both alike. The processes of the other one are stopped (SIGSTOP) meanwhile: an idle runtime's work is not
the other's load. Points: `ingress` at 1, 16 and 64 connections, `image` at 1, 8, 16 and with 12 megapixels, `text` at
1, 8 and 16 requests.
"""

import argparse
import asyncio
import json
import math
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import aiohttp

from benchmarks.environment import FOLDER, OUR_BIN
from benchmarks.load import require_wrk, wrk
from benchmarks.models import jpeg, save_llama, save_mobilenet, save_tiny_resnet
from benchmarks.servers import Server, descendants, running, settle, suspended
from benchmarks.text.text import MODEL_ID as LLAMA
from benchmarks.text.text import POINTS, PROMPTS, TOKENS
from benchmarks.text.text import ours as ours_for_texts
from benchmarks.vision.image import ours as ours_for_pictures
from serve_app.bench.loops import generate

SETTLE_S = 150.0
"""Two idle runtimes use more than `settle` calls idle, so all of it passes: long enough to compile the Llama."""
LEAD_IN_S = 1
MODEL_YAML = "max_batch_size: 8"
"""Of `ingress`: each build measures which batch size pays, and finds 8 or 16 for this model."""

Rate = Callable[[str], float]
"""Requests or tokens a second that the server at this URL answers."""


def ingress(other: Path, folder: Path, pairs: int, seconds: int) -> dict[str, list[float]]:
    model = save_tiny_resnet(folder / "pictures" / "tiny")
    (model / "model.yaml").write_text(MODEL_YAML, "utf-8")
    picture = jpeg(96, 72, 0, at_most_bytes=2048)
    points = {f"ingress at {count}": (picture, count) for count in (1, 16, 64)}
    return _pictures(model, points, other, folder, pairs, seconds)


def image(other: Path, folder: Path, pairs: int, seconds: int) -> dict[str, list[float]]:
    model = save_mobilenet(folder / "pictures" / "mobilenet")
    small, large = jpeg(320, 240, 1), jpeg(4000, 3000, 2)
    points = {f"320×240 at {count}": (small, count) for count in (1, 8, 16)} | {"12 megapixels at 4": (large, 4)}
    return _pictures(model, points, other, folder, pairs, seconds)


def _pictures(
    model: Path, points: Mapping[str, tuple[bytes, int]], other: Path, folder: Path, pairs: int, seconds: int
) -> dict[str, list[float]]:
    """`points`: the picture that is sent, and on how many connections."""
    server = ours_for_pictures(model.parent, model.name)
    rates: dict[str, Rate] = {}
    for number, (name, (picture, count)) in enumerate(points.items()):
        body = folder / f"body{number}.json"
        body.write_text(json.dumps(server.body(picture)), "utf-8")
        rates[name] = lambda url, body=body, count=count: wrk(url, body, count, seconds).rate  # type: ignore[misc]
    return _compare(server, other, next(iter(points.values()))[0], rates, pairs)


def text(other: Path, folder: Path, pairs: int, seconds: int) -> dict[str, list[float]]:
    save_llama(folder / "texts" / LLAMA)
    server = ours_for_texts(folder / "texts")

    async def tokens_a_second(url: str, connections: int) -> float:
        async with aiohttp.ClientSession() as client:

            async def ask(prompt: str, length: int) -> int:
                async with client.post(url, json=server.body((prompt, length))) as reply:
                    return server.answer(await reply.json())[1] if reply.status == 200 else 0

            measure = await generate(ask, PROMPTS, connections, (TOKENS,), LEAD_IN_S, seconds)
            return math.nan if measure.errors else measure.rate

    points = {
        f"text at {point.connections}": lambda url, point=point: asyncio.run(tokens_a_second(url, point.connections))
        for point in POINTS
        if point.lengths == (TOKENS,) and not point.long
    }
    return _compare(server, other, (PROMPTS[0], 2), points, pairs)


def _compare(
    server: Server, other: Path, first: object, points: Mapping[str, Rate], pairs: int
) -> dict[str, list[float]]:
    """By point: the ratio, ours by the other's, of each pair."""
    program = server.command[0]
    its_program = other / Path(program).relative_to(OUR_BIN.parent.parent)
    # The .venv of a worktree may be that of another checkout: PYTHONPATH says whose code runs.
    ours = replace(server, environment={"PYTHONPATH": str(FOLDER.parent)})
    others = replace(server, command=(its_program, *server.command[1:]), environment={"PYTHONPATH": str(other)})
    ratios: dict[str, list[float]] = {name: [] for name in points}
    with running(ours, first) as here:
        of_here = set(descendants())
        with running(others, first) as there:
            of_there = set(descendants()) - of_here
            for rate in points.values():  # much use, so that what is compiled in the background is
                for url in (here, there, here, there):
                    rate(url)
            settle(SETTLE_S)
            for number in range(pairs):
                for name, rate in points.items():
                    rates = {}
                    for url in (here, there) if number % 2 == 0 else (there, here):
                        with suspended(of_there if url == here else of_here):
                            rates[url] = rate(url)
                    ratios[name].append(rates[here] / rates[there])
                    print(f"{name}: {rates[here]:.0f} / {rates[there]:.0f} = {ratios[name][-1]:.3f}", flush=True)
    return ratios


def _report(ratios: Mapping[str, Sequence[float]]) -> None:
    medians = {name: statistics.median(pairs) for name, pairs in ratios.items()}
    for name, pairs in ratios.items():
        print(f"| {name} | {medians[name]:.3f} | {min(pairs):.3f}–{max(pairs):.3f} | {len(pairs)} |")
    print(f"| geometric mean | {statistics.geometric_mean(medians.values()):.3f} | | |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a checkout with a .venv of its own (`make .venv/serve.stamp` there)")
    parser.add_argument("--only", choices=("ingress", "image", "text"))
    parser.add_argument("--pairs", type=int, default=8)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    require_wrk()
    ratios: dict[str, list[float]] = {}
    for run in (ingress, image, text):
        if options.only in (None, run.__name__):
            with tempfile.TemporaryDirectory() as name:
                ratios |= run(options.other.resolve(), Path(name), options.pairs, options.seconds)
    _report(ratios)


if __name__ == "__main__":
    main()
