"""Writes which modules of the project each thread of this process enters. Imported by Python at its start, where the
folder is on PYTHONPATH; `benchmarks.trace` puts it there."""

import os
import sys
import threading
import time
from contextlib import suppress
from types import FrameType

ROOT = os.environ.get("TRACE_ROOT", "")
OUTPUT = os.environ.get("TRACE_OUTPUT", "")
OURS = (f"{ROOT}/serve_app/", f"{ROOT}/deployments/")
FORWARDS = {
    "_call_impl": os.path.join("torch", "nn", "modules", "module.py"),
    "infer": os.path.join("openvino", "_ov_api.py"),
}
"""The functions that begin a forward, of torch and of OpenVINO, and their files."""
NOWHERE = "/"
TENSOR = "tensor"
"""Written where a forward begins."""

if ROOT and OUTPUT:
    output = os.open(OUTPUT, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    last = threading.local()

    def entered(frame: FrameType, event: str, argument: object) -> None:
        if event != "call":
            return
        file = frame.f_code.co_filename
        if file.startswith(OURS):
            module = file[len(ROOT) + 1 :]
        elif file.endswith(FORWARDS.get(frame.f_code.co_name, NOWHERE)):
            module = TENSOR
        else:
            return
        if getattr(last, "module", None) != module:
            last.module = module
            with suppress(OSError):  # A sandboxed process may not write.
                os.write(output, f"{time.monotonic_ns()} {os.getpid()} {module}\n".encode())

    threading.setprofile(entered)
    sys.setprofile(entered)
