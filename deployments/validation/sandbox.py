"""Runs the tokenizer's patterns and the chat templates of a model's folder in a child process, `sandbox_worker`."""

from contextlib import suppress
from pathlib import Path

from deployments.repository.manifest import Unservable
from deployments.system.worker_process import WorkerFailed, WorkerProcess

WORKER = "deployments.validation.sandbox_worker"  # by name: what it imports stays out of this process
CPU_S = 2.0
CPU_S_PER_MIB = 0.05
"""Of tokenizer.json: large vocabularies take their time."""
TIMEOUT_S = 60.0
"""Wall-clock limit for one folder. The CPU limit comes first, but on a very busy machine."""
_TRIED = ("tokenizer*.json", "processor_config.json", "chat_template.*", "additional_chat_templates")


class Sandbox:
    """One child, kept for the next folder. For any thread; one folder at a time."""

    def __init__(self) -> None:
        self._worker = WorkerProcess(WORKER)

    def inspect(self, folder: Path) -> str | None:
        """What is wrong with the folder, in one line; None: nothing. Raises Unservable where the child did not end
        by itself."""
        if not any(any(folder.glob(name)) for name in _TRIED):
            return None
        cpu_s = CPU_S
        with suppress(FileNotFoundError):
            cpu_s += CPU_S_PER_MIB * (folder / "tokenizer.json").stat().st_size / 2**20
        try:
            fault: str | None = self._worker.ask(str(folder.resolve()), TIMEOUT_S, cpu_s)
        except WorkerFailed as failure:
            cause = "takes too long" if failure.reason == "timeout" else "takes too much time or memory"
            raise Unservable(f"{failure.step or 'the folder'} {cause} to try") from failure
        return fault

    def close(self) -> None:
        self._worker.close()
