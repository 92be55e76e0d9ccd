"""`python -m benchmarks.http.access_log`: what a line of the log for each request costs.

Two runtimes with the same small model, one with `ingress.access_log`, both running. Each in turn is asked on 64
connections.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.load import require_wrk, wrk
from benchmarks.models import jpeg, save_tiny_resnet
from benchmarks.servers import running, settle
from benchmarks.vision.image import ours

CONNECTIONS = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    require_wrk()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model, picture = save_tiny_resnet(folder / "pictures" / "tiny"), jpeg(96, 72, 0, at_most_bytes=2048)
        (folder / "logged.yaml").write_text("ingress: {access_log: true}\n")
        plain = ours(model.parent, model.name)
        logged = replace(plain, command=(*plain.command, "--config", folder / "logged.yaml"))
        (folder / "body.json").write_text(json.dumps(plain.body(picture)), "utf-8")
        ratios = []
        with running(logged, picture) as with_lines, running(plain, picture) as without:
            for url in (with_lines, without) * 2:
                wrk(url, folder / "body.json", CONNECTIONS, options.seconds)
            settle(60)
            for number in range(options.pairs):
                order = (with_lines, without) if number % 2 == 0 else (without, with_lines)
                rates = {url: wrk(url, folder / "body.json", CONNECTIONS, options.seconds).rate for url in order}
                ratios.append(rates[with_lines] / rates[without])
                print(f"{rates[with_lines]:.0f} / {rates[without]:.0f} = {ratios[-1]:.3f}", flush=True)
    print(f"median {statistics.median(ratios):.3f} ({min(ratios):.3f}–{max(ratios):.3f}), {len(ratios)} pairs")


if __name__ == "__main__":
    main()
