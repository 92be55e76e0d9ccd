"""One request from its check to its response: quota, limits, admission, dispatch, counts. Knows no HTTP and no Ray."""

import time
from collections.abc import AsyncGenerator, Callable, Container, Iterable, Mapping, Sequence
from contextlib import aclosing

from deployments.contract.errors import Cancelled, InvalidRequest, PromptTooLong, ServingError
from deployments.contract.failures import error_of
from deployments.contract.status import AnsweredRequest
from deployments.contract.types import Error, InferRequest, InferResponse
from deployments.metrics.meter import KEY_REQUESTS, KEY_TOKENS, QUARANTINED, QUEUE, RETRIES
from deployments.metrics.recent import RecentRequests
from deployments.metrics.requests import UNKNOWN, Labels, Recorder
from deployments.replica.calls import Reply, Stations
from serve_app.access.api_keys import Access
from serve_app.access.caller import RequestContext
from serve_app.dispatch.admission import Admission
from serve_app.dispatch.dispatcher import Dispatcher, Route
from serve_app.dispatch.pending import Pending


class Runtime:
    """Every entrance leads here. `admissions`: by family. `models`: the names of all models there are."""

    def __init__(
        self,
        dispatcher: Dispatcher,
        admissions: Mapping[str, Admission],
        access: Access,
        recorder: Recorder,
        models: Callable[[], Container[str]],
        max_prompt_bytes: int,
        logged: Callable[[AnsweredRequest], None] | None = None,
        traced: Callable[[AnsweredRequest, str], None] | None = None,
    ) -> None:
        self.dispatcher = dispatcher
        self.admissions = admissions
        self.access = access
        self.recorder = recorder
        self.models = models
        self.max_prompt_bytes = max_prompt_bytes
        self.logged = logged
        self.traced = traced
        self.recent = RecentRequests()
        self.under_way = 0
        """How many requests have no response yet."""

    def use(self, routes: Iterable[Route]) -> None:
        """The settings of these routes hold from the next request on."""
        self.dispatcher.use(routes)
        for route in routes:
            self.admissions[route.family].settings = route.settings
            self.dispatcher.pools[route.family].use(route.settings.autoscaling.target_ongoing_requests)

    async def answer(self, asked: InferRequest | ServingError, context: RequestContext) -> InferResponse:
        """The response to a request. Never raises: every failure is an `Error`, also that of decoding, in `asked`."""
        with _Count(self, context) as count:
            try:
                count.request = request = self._checked(asked, context)
                call = await self.dispatcher.prepare(request, context)
                async with self.admissions[call.family].slot(call):
                    count.sent(call)
                    response = await self.dispatcher.send(call)
            except Exception as cause:
                response = error_of(cause, context.request_id)
            count.response = response
        return response

    async def stream(self, asked: InferRequest | ServingError, context: RequestContext) -> AsyncGenerator[Reply, None]:
        """Any number of chunks, then the response. Never raises; closing it cancels the request."""
        with _Count(self, context) as count:
            response: InferResponse | None = None
            try:
                count.request = request = self._checked(asked, context)
                call = await self.dispatcher.prepare_stream(request, context)
                async with self.admissions[call.family].slot(call), aclosing(self.dispatcher.stream(call)) as replies:
                    count.sent(call)
                    async for reply in replies:
                        if isinstance(reply, InferResponse):
                            response = reply
                        else:
                            yield reply
            except Exception as cause:
                response = error_of(cause, context.request_id)
            count.response = response
        assert response is not None
        yield response

    def _checked(self, asked: InferRequest | ServingError, context: RequestContext) -> InferRequest:
        if isinstance(asked, ServingError):
            raise asked
        if not isinstance(asked, InferRequest):  # A handle takes any object.
            raise InvalidRequest(f"expected an InferRequest, not {type(asked).__name__}")
        self.access.take(context.caller)
        self._refuse_long(asked.prompt_texts)
        return asked

    def _refuse_long(self, texts: Sequence[str]) -> None:
        limit = self.max_prompt_bytes
        # A character has at most four bytes: short texts are not encoded.
        if sum(map(len, texts)) * 4 > limit and (size := sum(len(text.encode()) for text in texts)) > limit:
            raise PromptTooLong(f"the prompt has {size} bytes; at most {limit} are taken")

    def labels(self, request: InferRequest | None, response: InferResponse | None) -> Labels:
        """What a request is counted under; an unknown model or family never becomes a label."""
        route = self.dispatcher.routes.get(type(request)) if request else None
        if request is None or route is None:
            return Labels(UNKNOWN, UNKNOWN, _outcome(response))
        model = request.model_id if request.model_id in self.models() else UNKNOWN
        return Labels(model, route.family, _outcome(response))


class _Count:
    """Counts one request, whatever its outcome; a cancelled one has no response."""

    def __init__(self, runtime: Runtime, context: RequestContext) -> None:
        self.request: InferRequest | None = None
        """Once it is checked."""
        self.response: InferResponse | None = None
        self._runtime = runtime
        self._context = context
        self._caller = context.caller
        self._arrived_at = time.time()
        self._queue_s: float | None = None
        self._call: Pending | None = None
        self._started = time.perf_counter()

    def __enter__(self) -> "_Count":
        self._runtime.under_way += 1
        return self

    def sent(self, call: Pending) -> None:
        """It has its slot."""
        self._call = call
        self._queue_s = time.perf_counter() - self._started

    def __exit__(self, *_: object) -> None:
        runtime, response = self._runtime, self.response
        runtime.under_way -= 1
        if response is not None and response.tokens:
            runtime.access.spend(self._caller, response.tokens)
        if self._call is not None and self._queue_s is not None:
            model_and_family = _measured(self._call)
            runtime.recorder.meter.observe(QUEUE, self._queue_s, *model_and_family)
            if self._call.repeated:
                runtime.recorder.meter.count(RETRIES, 1, *model_and_family)
            if self._call.condemned:
                runtime.recorder.meter.count(QUARANTINED, 1, *model_and_family)
        if self._caller.name and response is not None:
            runtime.recorder.meter.count(KEY_REQUESTS, 1, self._caller.name)
            runtime.recorder.meter.count(KEY_TOKENS, response.tokens, self._caller.name)
        total_s = time.perf_counter() - self._started
        labels = runtime.labels(self.request, response)
        runtime.recorder.record(labels, total_s * 1000)
        answered = self._answered(labels, total_s)
        runtime.recent.add(answered)
        if runtime.traced is not None:
            runtime.traced(answered, self._context.traceparent)
        if runtime.logged is not None:
            runtime.logged(answered)

    def _answered(self, labels: Labels, total_s: float) -> AnsweredRequest:
        response = self.response
        return AnsweredRequest(
            request_id=self._context.request_id,
            arrived_at=self._arrived_at,
            key=self._caller.name,
            family=labels.family,
            model=labels.model,
            outcome=labels.outcome,
            reason=response.message if isinstance(response, Error) else None,
            queue_s=self._queue_s,
            total_s=total_s,
            replica=self._call.replica or None if self._call is not None else None,
            repeated=self._call is not None and self._call.repeated,
            tokens=response.tokens if response is not None else 0,
            **(self._call.stations if self._call is not None else Stations()),
        )


def _measured(call: Pending) -> tuple[str, str]:
    """Its model and family, as labels."""
    return call.call.request.model_id if call.model else UNKNOWN, call.family


def _outcome(response: InferResponse | None) -> str:
    if response is None:
        return Cancelled.code
    return (response.code or "internal") if isinstance(response, Error) else "ok"
