"""Two ASGI middlewares: one before Ray Serve's own code, one before the routes. Knows no routes and no models.

ControlHeaderFilter runs in every process that accepts HTTP and removes the headers that control Ray Serve.
LimitsMiddleware checks header limits, API keys, and how fast and how large bodies are. HAProxy checks some of the same
earlier and at lower cost, but a replica's port can be reached without HAProxy.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from starlette._utils import get_route_path
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from deployments.contract import wire
from deployments.contract.errors import HeadersTooLarge, NotFound, Overloaded, RequestTimeout, ServingError, Unavailable
from deployments.contract.types import Error
from serve_app.access.api_keys import HEALTH_PATHS, Access
from serve_app.access.caller import DEADLINE_HEADER, PRIORITY_HEADER
from serve_app.http.batch import NDJSON
from serve_app.http.header_limits import CONTROL_HEADERS, MAX_HEADER_BYTES, MAX_HEADERS, PREFIX_HEADER
from serve_app.http.requests import request_id_of
from serve_app.http.responses import rendered

SLOW_BODY_S = 10.0
"""How long a body may take, beside its size over MIN_BYTES_PER_S."""
MIN_BYTES_PER_S = 16 * 1024
IDLE_STREAM_S = 25.0
"""How long a stream of lines may send nothing."""
_READ_HEADERS = frozenset({b"authorization", b"content-type", PRIORITY_HEADER.encode(), DEADLINE_HEADER.encode()})


def path_of(scope: Scope) -> str:
    """The path without the prefix that Serve, a proxy or an ASGI server has put before it: what the router matches."""
    # The router's own function: another reading of the path would let requests pass the checks of their routes.
    return get_route_path(scope) or "/"


class ControlHeaderFilter:
    """Removes Ray Serve's control headers, and headers that are not UTF-8. Serve's own errors become the contract's."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if path_of(scope) == "/-/routes":
                response = rendered(_error(scope, NotFound("there is no such route")), wire.JSON)
                await response(scope, receive, send)
                return
            scope["headers"] = list(without_control_headers(scope["headers"]))
            send = _ServesErrors(scope, send).send
        await self.app(scope, receive, send)


class _ServesErrors:
    """Replaces Serve's own answers where it has none of ours: plain text ("Internal Server Error"), as for a replica
    that is gone. The only errors of the runtime in plain text are those of health."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._scope = scope
        self._send = send
        self._replaced = False

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start" and (failure := _serves_failure(self._scope, message)) is not None:
            self._replaced = True
            response = rendered(_error(self._scope, failure), wire.JSON)

            async def receive() -> Message:
                return {"type": "http.disconnect"}

            await response(self._scope, receive, self._send)
        elif not self._replaced:
            await self._send(message)


def _serves_failure(scope: Scope, start: Message) -> ServingError | None:
    """What a response of Serve's own means; None for a response of the runtime."""
    content_type = next((value for name, value in start["headers"] if name.lower() == b"content-type"), b"")
    path = path_of(scope)
    if not content_type.startswith(b"text/plain") or path in HEALTH_PATHS or path.startswith("/-/"):
        return None
    status = start["status"]
    if status == 404:
        return NotFound("there is no such route")
    return Unavailable("no replica could answer") if status in (408, 500, 502, 503, 504) else None


def server_middlewares() -> list[Middleware]:
    """For RAY_SERVE_HTTP_PROXY_CALLBACK_IMPORT_PATH."""
    return [Middleware(ControlHeaderFilter)]


class LimitsMiddleware:
    """Puts the Caller of each request into `scope["state"]`.

    `max_held_bytes` bounds the bodies of all requests together. `render_error` takes a path and the error on it.
    """

    def __init__(
        self, app: ASGIApp, access: Access, max_held_bytes: int, render_error: Callable[[str, Error], Response]
    ) -> None:
        self.app = app
        self.access = access
        self.body_memory = BodyMemory(max_held_bytes)
        self.render_error = render_error

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1003})
            return
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        try:
            check_header_limits(scope)
            headers = scope["headers"]
            given = {name.decode(): value.decode("latin-1") for name, value in headers if name in _READ_HEADERS}
            caller = self.access.caller(scope["method"], path_of(scope), given)
            self.access.check(caller)
        except ServingError as failure:
            await self.render_error(path_of(scope), _error(scope, failure))(scope, receive, send)
            return
        scope.setdefault("state", {})["caller"] = caller
        body = Body(receive, self.body_memory, is_stream=given.get("content-type", "").lower().startswith(NDJSON))
        try:
            await self.app(scope, body.receive, send)
        finally:
            body.release()


class BodyMemory:
    """Bytes of all bodies in memory."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.bytes = 0

    def reserve(self, size: int) -> None:
        """Raises Overloaded."""
        if self.bytes + size > self.limit:
            refused = Overloaded("the bodies of the requests under way take all the memory they may")
            refused.retry_after_ms = 1000
            raise refused
        self.bytes += size


class Body:
    """A request's body while it is received. Raises RequestTimeout if the client sends too slowly.

    A stream of JSON lines is answered while it is received, so it has no deadline as a whole and is not kept in memory.
    """

    def __init__(self, receive: Receive, memory: BodyMemory, is_stream: bool) -> None:
        self._receive = receive
        self._memory = memory
        self._is_stream = is_stream
        self._size = 0
        self._complete = False
        self._timed_out = False
        self._deadline = asyncio.get_running_loop().time() + SLOW_BODY_S

    async def receive(self) -> Message:
        if self._complete:
            return await self._receive()
        loop = asyncio.get_running_loop()
        deadline = self._deadline + self._size / MIN_BYTES_PER_S
        if self._is_stream:
            deadline = loop.time() + IDLE_STREAM_S
        task = asyncio.current_task()
        assert task is not None
        # Not asyncio.timeout: it costs four times as much, and every request passes here.
        timer = loop.call_at(deadline, self._interrupt, task)
        try:
            message = await self._receive()
        except asyncio.CancelledError:
            if self._timed_out and task.uncancel() == 0:
                raise RequestTimeout("the body came too slowly") from None
            raise
        finally:
            timer.cancel()
        self._complete = message["type"] != "http.request" or not message.get("more_body", False)
        if not self._is_stream:
            size = len(message.get("body", b""))
            self._memory.reserve(size)
            self._size += size
        return message

    def _interrupt(self, task: "asyncio.Task[object]") -> None:
        self._timed_out = True
        task.cancel()

    def release(self) -> None:
        self._memory.bytes -= self._size


def _error(scope: Scope, failure: ServingError) -> Error:
    return Error.of(failure, request_id_of(Headers(scope=scope)))


def below_prefix(app: ASGIApp) -> ASGIApp:
    """Mounts the application below the prefix that HAProxy names, as Serve's own server does."""
    name = PREFIX_HEADER.encode()

    async def mounted(scope: Scope, receive: Receive, send: Send) -> None:
        headers = scope["headers"]
        for number, (header, prefix) in enumerate(headers):
            if header == name:
                del headers[number]
                scope["root_path"] = prefix.decode("latin-1")
                break
        await app(scope, receive, send)

    return mounted


def with_request_id(app: ASGIApp) -> ASGIApp:
    """Gives every request and its response an `x-request-id`, as Serve's own server does."""

    async def identified(scope: Scope, receive: Receive, send: Send) -> None:
        given = next((value for name, value in scope["headers"] if name == b"x-request-id"), None)
        request_id = given or uuid.uuid4().hex.encode()
        if given is None:
            scope["headers"].append((b"x-request-id", request_id))

        async def send_identified(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"].append((b"x-request-id", request_id))
            await send(message)

        await app(scope, receive, send_identified)

    return identified


def check_header_limits(scope: Mapping[str, Any]) -> None:
    """`scope` is that of ASGI. Raises HeadersTooLarge."""
    headers = scope["headers"]
    if len(headers) > MAX_HEADERS:
        raise HeadersTooLarge(f"more than {MAX_HEADERS} headers")
    size = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    for name, value in headers:
        size += len(name) + len(value)
    if size > MAX_HEADER_BYTES:
        raise HeadersTooLarge(f"more than {MAX_HEADER_BYTES} bytes of path and headers")


def without_control_headers(headers: Iterable[tuple[bytes, bytes]]) -> Iterable[tuple[bytes, bytes]]:
    """The headers except Serve's control headers and those that are not UTF-8."""
    for name, value in headers:
        try:
            known = name.decode("ascii").lower().replace("-", "_")
            value.decode("utf-8")
        except UnicodeDecodeError:
            continue
        if known not in CONTROL_HEADERS:
            yield name, value
