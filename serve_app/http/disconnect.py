"""Clients that go away: what nobody waits for any more is not worked on."""

import asyncio
from collections.abc import Awaitable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive

from deployments.contract.errors import Cancelled


async def until_gone(receive: Receive) -> None:
    """Returns when the client has gone. The request's body must have been read."""
    while (await receive())["type"] != "http.disconnect":
        pass


async def unless_gone(request: Request, work: Awaitable[Response]) -> Response:
    """The response that `work` makes; it is cancelled when the client goes meanwhile."""
    task = asyncio.current_task()
    assert task is not None

    async def watch() -> None:
        await until_gone(request.receive)
        task.cancel()

    watching = asyncio.create_task(watch())
    try:
        return await work
    except asyncio.CancelledError:
        if watching.done() and task.uncancel() == 0:
            return Response(status_code=Cancelled.status)  # which nobody reads
        raise
    finally:
        watching.cancel()
