"""The request that a body holds, read within its limits."""

import asyncio
import re

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.types import Message

from deployments.contract import wire
from deployments.contract.errors import Cancelled, InvalidRequest, PayloadTooLarge, UnsupportedMediaType, quoted
from deployments.contract.types import InferRequest

LARGE_BODY_BYTES = 256 * 1024


def media_type(request: Request) -> str:
    """The body's type without parameters; JSON where the sender does not say."""
    return request.headers.get("content-type", wire.JSON).split(";")[0].strip().lower()


async def read_request(request: Request, limit_bytes: int) -> InferRequest:
    """Raises PayloadTooLarge, UnsupportedMediaType, InvalidRequest, Cancelled."""
    _check_encoding(request)
    body = await _read_body(request, limit_bytes)
    if media_type(request) == "multipart/form-data":
        return await _read_form(request, body)
    if len(body) > LARGE_BODY_BYTES:
        # Long enough to parse that others would notice.
        return await asyncio.to_thread(wire.decode, body, media_type(request), InferRequest)
    return wire.decode(body, media_type(request), InferRequest)


async def read_json(request: Request, limit_bytes: int) -> bytes:
    """A body that is JSON, unparsed. Raises PayloadTooLarge, UnsupportedMediaType, Cancelled."""
    _check_encoding(request)
    if media_type(request) != wire.JSON:
        raise UnsupportedMediaType(f"content type {quoted(media_type(request))} is not supported; send {wire.JSON}")
    return await _read_body(request, limit_bytes)


def _check_encoding(request: Request) -> None:
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in ("identity", ""):
        raise UnsupportedMediaType(f"content encoding {quoted(encoding)} is not supported")
    charset = re.search(r"charset=\"?([\w-]+)", request.headers.get("content-type", ""), re.IGNORECASE)
    if charset and charset[1].lower() not in ("utf-8", "utf8", "us-ascii"):
        raise UnsupportedMediaType(f"charset {quoted(charset[1])} is not supported; send UTF-8")


async def _read_body(request: Request, limit_bytes: int) -> bytes:
    """The body, of which no more than the limit is ever held."""
    too_large = PayloadTooLarge(f"the body is larger than {limit_bytes} bytes")
    declared = request.headers.get("content-length", "")
    if declared.isascii() and declared.isdigit() and int(declared[:20]) > limit_bytes:
        raise too_large
    chunks: list[bytes] = []
    left = limit_bytes
    try:
        async for chunk in request.stream():
            left -= len(chunk)
            if left < 0:
                raise too_large
            chunks.append(chunk)
    except ClientDisconnect:
        raise Cancelled("the client went away") from None
    return b"".join(chunks)


async def _read_form(request: Request, body: bytes) -> InferRequest:
    """`curl -F model_id=… -F image=@photo.jpg`, and `-F top_k=3` if need be."""

    async def receive() -> Message:
        return {"type": "http.request", "body": body, "more_body": False}

    fields: dict[str, object] = {}
    try:
        async with Request(request.scope, receive).form(max_files=1, max_fields=8) as form:
            for name, value in form.multi_items():
                if isinstance(value, UploadFile):
                    fields["image_data" if name == "image" else name] = await value.read()
                else:
                    fields[name] = int(value) if name == "top_k" and value.isdecimal() else value
    except (HTTPException, ValueError):  # the first for anything wrong with the form
        raise InvalidRequest("malformed multipart/form-data") from None
    if not isinstance(fields.get("image_data"), bytes):
        raise InvalidRequest("the form needs a file 'image'")
    return wire.from_object({"ImageClassification": fields}, InferRequest)
