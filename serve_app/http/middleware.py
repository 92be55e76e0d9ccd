"""What a request has to pass before any route sees it: a head within limits, a key, a body that keeps coming.

Two layers of ASGI. `Threshold` stands before Ray Serve's own code in every process that takes HTTP, and takes away
what is not for clients. `Guard` stands before the routes, wherever a request came from, and holds every limit itself:
the ports of replicas can be reached beside HAProxy, which refuses some of the same earlier and cheaper.
"""

import asyncio

from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.contract.errors import NotFound, Overloaded, RequestTimeout, ServingError
from deployments.contract.types import Error
from serve_app.access.api_keys import Access
from serve_app.access.caller import CALLER
from serve_app.http.batch import NDJSON
from serve_app.http.header_limits import check_head, harmless
from serve_app.http.responses import failure_response
from serve_app.http.runtime import request_id_of

SLOW_BODY_S = 10.0
SLOWEST_BYTES_S = 16 * 1024
IDLE_STREAM_S = 25.0
_HEEDED = frozenset({b"authorization", b"x-priority", b"x-deadline-ms", b"content-type"})


class Threshold:
    """Before Serve: drops headers by which a client could steer it, and those that are not UTF-8."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"] == "/-/routes":
                await _refuse(scope, receive, send, NotFound("there is no such route"))
                return
            scope["headers"] = list(harmless(scope["headers"]))
        await self.app(scope, receive, send)


def server_middlewares() -> list[Middleware]:
    """For RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(Threshold)]


class Guard:
    """Before the routes. `max_held_bytes` is what the bodies of all requests under way may hold together."""

    def __init__(self, app: ASGIApp, access: Access, max_held_bytes: int) -> None:
        self.app = app
        self.access = access
        self.held = Held(max_held_bytes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            check_head(scope)
            given = {name.decode(): value.decode("latin-1") for name, value in scope["headers"] if name in _HEEDED}
            caller = self.access.caller(scope["method"], scope["path"], given)
            self.access.check(caller)
        except ServingError as failure:
            await _refuse(scope, receive, send, failure)
            return
        CALLER.set(caller)
        body = Body(receive, self.held, streams=given.get("content-type", "").lower().startswith(NDJSON))
        try:
            await self.app(scope, body.receive, send)
        finally:
            body.release()


class Held:
    """Bytes of bodies in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0

    def take(self, size: int) -> None:
        """Raises Overloaded."""
        if self.bytes + size > self.limit:
            refused = Overloaded("the bodies of the requests under way take all the memory they may")
            refused.retry_after_ms = 1000
            raise refused
        self.bytes += size


class Body:
    """A request's body as it comes in. Raises RequestTimeout where it comes too slowly.

    A stream of lines is answered while it comes, so it may take its time and leaves memory as it goes.
    """

    def __init__(self, receive: Receive, held: Held, streams: bool) -> None:
        self._receive = receive
        self._held = held
        self._streams = streams
        self._size = 0
        self._complete = False
        self._late = False
        self._give_up = asyncio.get_running_loop().time() + SLOW_BODY_S

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        loop = asyncio.get_running_loop()
        give_up = loop.time() + IDLE_STREAM_S if self._streams else self._give_up + self._size / SLOWEST_BYTES_S
        task = asyncio.current_task()
        assert task is not None
        # By hand: asyncio.timeout costs four times as much, on the way of every request.
        timer = loop.call_at(give_up, self._interrupt, task)
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if self._late and task.uncancel() == 0:
                raise RequestTimeout("the body came too slowly") from None
            raise
        finally:
            timer.cancel()
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        if not self._streams:
            size = len(message.get("body", b""))
            self._held.take(size)
            self._size += size
        return message

    def _interrupt(self, task: "asyncio.Task[object]") -> None:
        self._late = True
        task.cancel()

    def release(self) -> None:
        self._held.bytes -= self._size


async def _refuse(scope: Scope, receive: Receive, send: Send, failure: ServingError) -> None:
    error = Error.of(failure, request_id_of(Headers(scope=scope)))
    await failure_response(scope["path"], error)(scope, receive, send)
