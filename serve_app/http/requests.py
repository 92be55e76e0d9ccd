"""From an HTTP request to an InferRequest and its context, and whether its client is still connected. Reads bodies
within their limits; knows no routes."""

import asyncio
import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TypeVar

from starlette.datastructures import Headers, UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message, Receive

from deployments.contract import wire
from deployments.contract.errors import Cancelled, InvalidRequest, PayloadTooLarge, UnsupportedMediaType, quoted
from deployments.contract.failures import error_of
from deployments.contract.types import InferRequest
from deployments.replica.family import Form
from serve_app.access.caller import TRACE_HEADER, RequestContext
from serve_app.http.interfaces import Asked

Result = TypeVar("Result")

FORM = "multipart/form-data"
LARGE_BODY_BYTES = 256 * 1024
"""A larger body is parsed in a thread: on the event loop it would delay other requests."""
_INTEGER, _DECIMAL = re.compile(r"[0-9]+"), re.compile(r"[0-9]+(\.[0-9]+)?")
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def request_id_of(headers: Headers) -> str:
    """The client's `x-request-id` if it is 1 to 128 visible ASCII characters, else a new one."""
    given = headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex


def context_of(request: Request) -> RequestContext:
    """The request's id and trace, and the caller that the middleware has identified."""
    headers = request.headers
    return RequestContext(
        request_id_of(headers), request.scope["state"]["caller"], traceparent=headers.get(TRACE_HEADER, "")
    )


def media_type(request: Request) -> str:
    """The body's media type without parameters; JSON if the client names none."""
    return request.headers.get("content-type", wire.JSON).split(";")[0].strip().lower()


def accepted(request: Request) -> str:
    """The response's media type: the first one of `accept` that the wire knows, else the request's, else JSON."""
    accepts = [part.split(";")[0].strip().lower() for part in request.headers.get("accept", "").split(",")]
    return next((known for known in (*accepts, media_type(request)) if known in wire.MEDIA_TYPES), wire.JSON)


async def decoded(request: Request, limit_bytes: int, forms: Sequence[Form]) -> Asked:
    """The request that the body holds, or the error of a body that holds none. Never raises."""
    try:
        return await _decoded(request, limit_bytes, forms)
    except Exception as cause:
        return error_of(cause, request_id_of(request.headers)).exception()


async def _decoded(request: Request, limit_bytes: int, forms: Sequence[Form]) -> InferRequest:
    body = await read_body(request, limit_bytes)
    if forms and media_type(request) == FORM:
        return await _read_form(request, body, forms)
    return await parsed(partial(wire.decode, media_type=media_type(request), union=InferRequest), body)


async def read_json(request: Request, limit_bytes: int) -> object:
    """The value of a JSON body. Raises InvalidRequest, PayloadTooLarge, UnsupportedMediaType, Cancelled."""
    if media_type(request) != wire.JSON:
        raise UnsupportedMediaType(f"content type {quoted(media_type(request))} is not supported; send {wire.JSON}")
    return await parsed(wire.parse_json, await read_body(request, limit_bytes))


async def parsed(parse: Callable[[bytes], Result], body: bytes) -> Result:
    """What `parse` makes of the body; a large one in a thread."""
    return parse(body) if len(body) <= LARGE_BODY_BYTES else await asyncio.to_thread(parse, body)


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise UnsupportedMediaType(f"content encoding {quoted(encoding)} is not supported")
    charset = re.search(r"charset=\"?([\w-]+)", request.headers.get("content-type", ""), re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset {quoted(charset[1])} is not supported; send UTF-8")


async def read_body(request: Request, limit_bytes: int) -> bytes:
    """The body. At most `limit_bytes` of it are held at any time."""
    _check_encoding(request)
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit_bytes:
        raise _too_large(limit_bytes)
    chunks, size = [], 0
    try:
        async for chunk in request.stream():
            if (size := size + len(chunk)) > limit_bytes:
                raise _too_large(limit_bytes)
            chunks.append(chunk)
    except ClientDisconnect:
        raise Cancelled("the client disconnected") from None
    return b"".join(chunks)


def _too_large(limit_bytes: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is larger than {limit_bytes} bytes")


async def read_form(request: Request, limit_bytes: int) -> list[tuple[str, str | bytes]]:
    """The parts of a form, in their order; a file is its bytes. Raises what `read_json` raises."""
    if media_type(request) != FORM:
        raise UnsupportedMediaType(f"content type {quoted(media_type(request))} is not supported; send {FORM}")
    return await _parts(request, await read_body(request, limit_bytes), max_fields=32)


async def _parts(request: Request, body: bytes, max_fields: int) -> list[tuple[str, str | bytes]]:
    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    try:
        async with Request(request.scope, receive).form(max_files=1, max_fields=max_fields) as sent:
            return [
                (name, await value.read() if isinstance(value, UploadFile) else value)
                for name, value in sent.multi_items()
            ]
    except (HTTPException, ValueError):  # Starlette raises HTTPException for any malformed form.
        raise InvalidRequest("malformed multipart/form-data") from None


async def _read_form(request: Request, body: bytes, forms: Sequence[Form]) -> InferRequest:
    """`curl -F model_id=… -F image=@photo.jpg -F top_k=3`. The name of the form's one file says which family is asked:
    no two families have a file of the same name."""
    fields: dict[str, object] = dict(await _parts(request, body, max_fields=8))
    form = next((form for form in forms if isinstance(fields.get(form.file), bytes)), None)
    if form is None:
        raise InvalidRequest(f"the form needs a file {' or '.join(repr(form.file) for form in forms)}")
    fields[form.field] = fields.pop(form.file)
    for names, pattern, number in ((form.integers, _INTEGER, int), (form.fractions, _DECIMAL, float)):
        for name in names:
            digits = fields.get(name)
            if isinstance(digits, str) and pattern.fullmatch(digits):
                fields[name] = number(digits)
    return wire.from_object({form.request.__name__: fields}, InferRequest)


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
