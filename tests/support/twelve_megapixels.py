"""Run alone in a process, so that memory can be measured: decodes one file again and again, prints what that took."""

import json
import sys
import time
from pathlib import Path

from deployments.engines.vision.decoding import LIMITS, decoded

MIB = 2**20


def memory(name: str) -> float:
    """MiB; VmHWM is the peak since `forget_peak`."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(name))


def forget_peak() -> None:
    Path("/proc/self/clear_refs").write_text("5")


def main() -> None:
    image_data = Path(sys.argv[1]).read_bytes()
    before = memory("VmRSS")
    forget_peak()
    seconds, after, reserved = [], [], 0
    for _ in range(6):
        start = time.thread_time()
        with decoded(image_data) as image:
            reserved = LIMITS.reserved
            assert image.mode == "RGB"
        del image
        seconds.append(time.thread_time() - start)
        after.append(memory("VmRSS"))
    print(
        json.dumps(
            {
                "seconds": min(seconds),
                "peak_mb": memory("VmHWM") - before,
                "reserved_mb": reserved / MIB,
                "left_mb": LIMITS.reserved / MIB,
                "grown_mb": after[-1] - after[2],
            }
        )
    )


if __name__ == "__main__":
    main()
