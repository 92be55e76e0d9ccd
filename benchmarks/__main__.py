"""`python -m benchmarks`: peers and us in one go, on the same model and the same bytes."""

import argparse
import signal
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from benchmarks.contest import Pace
from benchmarks.environment import setup, versions
from benchmarks.families import families
from benchmarks.http import ingress, overload, soak
from benchmarks.load import require_wrk
from benchmarks.report import Claims, Table, append, heading
from benchmarks.residency import __main__
from benchmarks.text import text
from benchmarks.vision import image, parity

SHORT = Pace(seconds=3, rounds=1, lead_in_s=1, settle_s=90)


@dataclass(frozen=True, slots=True)
class Suite:
    run: Callable[[Pace, Path, Path | None], Sequence[Table | Claims]]
    peers: tuple[str, ...]
    pace: Pace
    """Of the full run."""
    needs_wrk: bool


SUITES = {
    "image": Suite(image.run, image.PEERS, Pace(8, 2, 2, 180), needs_wrk=True),
    "ingress": Suite(lambda pace, folder, _: ingress.run(pace, folder), ingress.PEERS, Pace(5, 2, 1, 60), True),
    "overload": Suite(lambda pace, folder, _: overload.run(pace, folder), (), Pace(10, 1, 1, 60), False),
    "text": Suite(lambda pace, folder, _: text.run(pace, folder), text.PEERS, Pace(10, 2, 3, 180), False),
}


def main() -> int:
    """Returns 1 where a contestant failed."""
    options = _options()
    disable_progress_bar()
    # So that a server is stopped whatever ends the benchmark.
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    if options.suite == "residency":
        __main__.contest(["ours", "lru", "multiplexed"], options.seconds or 120)
        return 0
    if options.suite == "soak":
        return _soak(options.requests, options.write)
    if options.suite == "parity":
        return _parity(options.photos, options.model, options.write)
    if options.suite == "families":
        return families.run(options.only, options.seconds or 6, options.rounds or 1, options.write)
    setup()
    if options.suite == "setup":
        return 0
    chosen = [options.suite] if options.suite else list(SUITES)
    if any(SUITES[name].needs_wrk for name in chosen):
        require_wrk()
    failed = False
    for name in chosen:
        suite = SUITES[name]
        pace = suite.pace if options.suite else SHORT
        pace = replace(pace, **{key: given for key in ("seconds", "rounds") if (given := getattr(options, key))})
        written = [heading(f"python -m benchmarks {name}", versions(suite.peers), pace.rounds)]
        with tempfile.TemporaryDirectory() as folder:
            tables = suite.run(pace, Path(folder), options.model)
        written += [table.markdown() for table in tables]
        print("\n" + "\n".join(written), flush=True)
        if options.write:
            append(options.write, "\n".join(written))
        failed |= any(table.failed for table in tables)
    return int(failed)


def _soak(count: int, file: Path | None) -> int:
    with tempfile.TemporaryDirectory() as folder:
        soaked = soak.run(count, Path(folder))
    written = f"{soak.heading(count)}\n{soaked.markdown()}"
    print(f"\n{written}", flush=True)
    if file:
        append(file, written)
    return int(soaked.failed)


def _parity(photos: Path | None, model: Path | None, file: Path | None) -> int:
    compared = parity.run(photos, model)
    written = f"{heading('python -m benchmarks parity', versions(()), 1)}\n{compared.markdown()}"
    print(f"\n{written}", flush=True)
    if file:
        append(file, written)
    return int(compared.failed)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument(
        "suite",
        nargs="?",
        choices=[*SUITES, "families", "parity", "residency", "soak", "setup"],
        help="without one: all but families, parity, residency and soak, a few seconds a point, one round",
    )
    parser.add_argument(
        "--model", type=Path, metavar="FOLDER", help="image: a real model instead of random weights; parity: one more"
    )
    parser.add_argument("--only", choices=families.SUITES, help="families: one of them")
    parser.add_argument("--photos", type=Path, metavar="FOLDER", help="parity: photos instead of made pictures")
    parser.add_argument("--seconds", type=int, help="how long each point is measured")
    parser.add_argument("--rounds", type=int, help="how often each contestant is started and measured")
    parser.add_argument("--requests", type=int, default=100_000, help="soak: so many")
    parser.add_argument("--write", type=Path, metavar="FILE", help="append what was measured, as Markdown")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
