"""A child process for tests of `WorkerProcess`: does what the request names."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from deployments.system.worker_process import Report, serve


def answer(request: Any, report: Report) -> object:
    match request:
        case ["echo", content]:
            return content
        case ["repeat", str(text), int(times)]:
            return text * times
        case ["pid"]:
            return os.getpid()
        case ["print", str(text)]:
            sys.stdout.write(text)
            sys.stdout.flush()
            os.write(1, text.encode())
            return "printed"
        case ["raise", str(message)]:
            raise ValueError(message)
        case ["hang", str(step)]:
            report("first")
            report(step)
            signal.pause()
        case ["burn"]:
            while True:
                pass
        case ["signal", int(number)]:
            signal.raise_signal(number)
        case ["exit", int(code)]:
            os._exit(code)
        case ["allocate", int(size)]:
            return len(bytes(size))
        case ["write", str(path), int(size)]:
            return Path(path).write_bytes(bytes(size))
        case ["child"]:
            return subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"]).pid
    return None


if __name__ == "__main__":
    serve(answer)
