"""A process that serves, for one that does other work: started by it, and ended with it, whatever ends it."""

import atexit
import subprocess
import threading
from collections.abc import Sequence

END_S = 40.0
"""It drains connections and ends its own processes, each for at most ten seconds."""


class Launched:
    """Its output is printed by this process. `said`: the last line of it."""

    def __init__(self, command: Sequence[str], given: str) -> None:
        """`given`: what it reads. It has to call `end_with_parent`. Raises OSError."""
        self.said = ""
        self._process: subprocess.Popen[str] | None = None
        self._failure: OSError | None = None
        started = threading.Event()
        # For the kernel it is the child of the thread that starts it, so that has to live as long as this process.
        self._keeper = threading.Thread(target=self._keep, args=(command, given, started), daemon=True)
        self._keeper.start()
        started.wait()
        if self._failure:
            raise self._failure
        atexit.register(self.end)

    @property
    def running(self) -> bool:
        return self._keeper.is_alive()

    def end(self) -> None:
        """Returns once it has ended."""
        atexit.unregister(self.end)
        if self._process:
            self._process.terminate()
            self._keeper.join(END_S)
            self._process.kill()

    def _keep(self, command: Sequence[str], given: str, started: threading.Event) -> None:
        pipe = subprocess.PIPE
        try:
            # In a session of its own: an interrupt of this process, as of a notebook's cell, is not for it.
            self._process = subprocess.Popen(
                command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, start_new_session=True
            )
        except OSError as failure:
            self._failure = failure
            return
        finally:
            started.set()
        with self._process as process:
            assert process.stdin
            assert process.stdout
            process.stdin.write(given)
            process.stdin.close()
            for line in process.stdout:
                self.said = line.strip() or self.said
                print(line, end="", flush=True)
