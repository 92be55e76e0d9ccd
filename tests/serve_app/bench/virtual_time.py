"""An event loop whose time is counted, not measured: a sleep takes no time and as many seconds as it says."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Where nothing else is to be done, time goes to the next timer."""

    def __init__(self) -> None:
        self.now = 0.0
        selector = selectors.DefaultSelector()
        super().__init__(selector)
        select = selector.select

        def advance(timeout: float | None = None) -> Any:
            self.now += timeout or 0.0
            return select(0)

        selector.select = advance  # type: ignore[method-assign]

    def time(self) -> float:
        return self.now


def run(work: Coroutine[Any, Any, Result]) -> Result:
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        return runner.run(work)
