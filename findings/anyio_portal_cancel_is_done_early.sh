#!/bin/bash
# anyio 4.16.0. `BlockingPortal.start_task_soon` returns a future. Its `cancel()` marks the future done at once, while the
# task is still cleaning up. A caller that waits for the future, and then closes what the task uses, is too early.
# Guessed otherwise: that the future of a cancelled task ends with the task, as awaiting an asyncio task does.
# Seen (exit 0 while it is so):
#   anyio 4.16.0: the future raised CancelledError; the task had cleaned up: False
#   after the portal was closed: True
# Here it touches serve_app/client/blocking.py, which waits for the task's own end.
set -eu
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check anyio==4.16.0
"$folder/venv/bin/python" - <<'PYTHON'
import importlib.metadata
import threading
from concurrent.futures import CancelledError

import anyio
from anyio.from_thread import start_blocking_portal

cleaned_up = threading.Event()
may_end = threading.Event()
started = threading.Event()


async def work() -> None:
    started.set()
    try:
        await anyio.sleep_forever()
    finally:
        with anyio.CancelScope(shield=True):
            await anyio.to_thread.run_sync(may_end.wait)
        cleaned_up.set()


with start_blocking_portal() as portal:
    future = portal.start_task_soon(work)
    started.wait(10)
    future.cancel()
    try:
        future.result(10)
        raised = "nothing"
    except CancelledError as cancelled:
        raised = type(cancelled).__name__
    early = not cleaned_up.is_set()
    print(f"anyio {importlib.metadata.version('anyio')}: the future raised {raised};", end=" ")
    print(f"the task had cleaned up: {not early}")
    may_end.set()
print(f"after the portal was closed: {cleaned_up.is_set()}")
raise SystemExit(not (raised == "CancelledError" and early and cleaned_up.is_set()))
PYTHON
