"""The RPCs of proto/inference.proto, answered by the runtime. A failure is a status, and an Error beside it."""

import asyncio
import itertools
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import aclosing, contextmanager
from dataclasses import replace
from typing import Any

import grpc
from starlette.datastructures import Headers

from deployments.contract.chunk import Chunk
from deployments.contract.errors import ERRORS, Internal, PayloadTooLarge, ServingError
from deployments.contract.failures import error_of
from deployments.contract.types import Error, InferRequest, InferResponse
from serve_app.access.api_keys import Access
from serve_app.access.caller import TRACE_HEADER, Caller, RequestContext
from serve_app.grpc.messages import fill, from_message, to_message
from serve_app.grpc.stubs import inference_pb2 as pb
from serve_app.grpc.stubs.inference_pb2_grpc import InferenceServicer
from serve_app.http.batch import MAX_CONCURRENT_LINES
from serve_app.http.interfaces import Asked, Runtime
from serve_app.http.middleware import BodyMemory
from serve_app.http.requests import request_id_of

ERROR_DETAILS = "error-bin"
"""The trailing metadata that holds the Error."""
ROUTE = "/infer"
"""What a key has to be allowed."""

Answers = asyncio.Queue["asyncio.Task[InferResponse] | None"]


class InferenceService(InferenceServicer):
    """`memory` bounds the messages of all requests under way together, `limit_bytes` each one."""

    def __init__(self, runtime: Runtime, access: Access, memory: BodyMemory, limit_bytes: int) -> None:
        self.runtime = runtime
        self.access = access
        self.memory = memory
        self.limit_bytes = limit_bytes

    async def Infer(self, request: pb.InferRequest, context: Any) -> pb.InferResponse:
        called = await self.called(context)
        answer = await self._answer(request, called)
        if isinstance(answer, Error):
            await refuse(context, answer)
        return to_message(answer, pb.InferResponse())

    async def InferStream(self, request: pb.InferRequest, context: Any) -> AsyncIterator[pb.StreamReply]:
        called = await self.called(context)
        with self._asked(request, called) as asked:
            async with aclosing(self.runtime.stream(asked, called)) as replies:
                async for reply in replies:
                    if isinstance(reply, Error):
                        await refuse(context, reply)
                    if isinstance(reply, Chunk):
                        yield pb.StreamReply(chunk=_chunk(reply))
                    else:
                        yield pb.StreamReply(response=to_message(reply, pb.InferResponse()))

    async def InferBatch(
        self, requests: AsyncIterator[pb.InferRequest], context: Any
    ) -> AsyncGenerator[pb.InferResponse, None]:
        called = await self.called(context)
        answers: Answers = asyncio.Queue()
        slots = asyncio.Semaphore(MAX_CONCURRENT_LINES)
        numbers = itertools.count()

        async def read() -> None:
            async for request in requests:
                await slots.acquire()
                answers.put_nowait(asyncio.create_task(self._answer(request, called.of(next(numbers)))))

        reading = asyncio.create_task(read())
        reading.add_done_callback(lambda _: answers.put_nowait(None))
        try:
            while (answer := await answers.get()) is not None:
                yield to_message(await answer, pb.InferResponse())
                slots.release()
        finally:
            reading.cancel()
            while not answers.empty():
                if (left := answers.get_nowait()) is not None:
                    left.cancel()

    async def called(self, context: Any) -> RequestContext:
        """Who calls, until when. Refuses the RPC of a caller without a key. Sends the request's id."""
        headers = metadata_of(context.invocation_metadata())
        request_id = request_id_of(Headers(headers))
        await context.send_initial_metadata((("x-request-id", request_id),))
        try:
            caller = self.access.caller("POST", ROUTE, headers)
        except ServingError as failure:
            await refuse(context, error_of(failure, request_id))
        within = _within(caller, context.time_remaining())
        return RequestContext(request_id, within, traceparent=Headers(headers).get(TRACE_HEADER, ""))

    async def _answer(self, message: pb.InferRequest, called: RequestContext) -> InferResponse:
        with self._asked(message, called) as asked:
            return await self.runtime.answer(asked, called)

    @contextmanager
    def _asked(self, message: pb.InferRequest, called: RequestContext) -> Iterator[Asked]:
        """The request that the message holds, or why it holds none. Its bytes count until the block ends."""
        size = message.ByteSize()
        try:
            if size > self.limit_bytes:
                raise PayloadTooLarge(f"the message is larger than {self.limit_bytes} bytes")
            asked: Asked = from_message(message, InferRequest)
            held = self.held(size)
            held.__enter__()
        except Exception as cause:
            yield error_of(cause, called.request_id).exception()
            return
        try:
            yield asked
        finally:
            held.__exit__(None, None, None)

    @contextmanager
    def held(self, size: int) -> Iterator[None]:
        """Counts a message of so many bytes until the block ends. Raises Overloaded."""
        self.memory.reserve(size)
        try:
            yield
        finally:
            self.memory.bytes -= size


def metadata_of(metadata: Any) -> dict[str, str]:
    """By lower-case name, without what is bytes."""
    return {name: value for name, value in metadata or () if isinstance(value, str)}


def _within(caller: Caller, left_s: float | None) -> Caller:
    """With the deadline of the RPC, where the caller names no earlier one."""
    if left_s is None:
        return caller
    at = time.monotonic() + left_s
    return replace(caller, deadline_at=at if caller.deadline_at is None else min(at, caller.deadline_at))


async def refuse(context: Any, error: Error) -> None:
    """Ends the RPC with the error's status. Raises."""
    kind = ERRORS.get(error.code or "", Internal)
    details = pb.Error()
    fill(details, error)
    context.set_trailing_metadata(((ERROR_DETAILS, details.SerializeToString()),))
    await context.abort(grpc.StatusCode[kind.grpc], error.message)


def _chunk(chunk: Chunk) -> pb.Chunk:
    message = pb.Chunk(text=chunk.text, index=chunk.index)
    for token in chunk.logprobs:
        fill(message.logprobs.add(), token)
    for segment in chunk.segments:
        fill(message.segments.add(), segment)
    for scored in chunk.prompt_logprobs:
        fill(message.prompt_logprobs.add(), scored)
    return message
