"""Clients that disconnect: work whose result nobody reads is cancelled."""

import asyncio
from collections.abc import Awaitable
from typing import TypeVar

from starlette.requests import Request
from starlette.types import Receive

from deployments.contract.errors import Cancelled

Result = TypeVar("Result")


async def wait_for_disconnect(receive: Receive) -> None:
    """Returns when the client has disconnected. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def cancel_on_disconnect(request: Request, work: Awaitable[Result]) -> Result:
    """The result of `work`. If the client disconnects first, `work` is cancelled and Cancelled is raised."""
    task = asyncio.current_task()
    assert task is not None

    async def watch() -> None:
        await wait_for_disconnect(request.receive)
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        # Cancelled by `watch` alone; a cancellation from outside as well is passed on.
        if watching.done() and task.uncancel() == 0:
            raise Cancelled("the client disconnected") from None
        raise
    finally:
        watching.cancel()
