"""A decoder that is played, and an engine around it: a scheduler, and what the loop does with its batches."""

from collections.abc import Sequence

import torch

from deployments.contract.types import SamplingOptions
from deployments.engines.text.decoders.decoder import ChunkedPrefill, StepOutput, Verified, step_output
from deployments.engines.text.next_tokens import next_tokens
from deployments.engines.text.request import Event, GenerationRequest
from deployments.engines.text.scheduler import Batch, RequestQueue, Scheduler
from deployments.engines.text.stats import StatsRecorder
from deployments.engines.text.tokenizer import Tokenizer
from tests.support.text_models import byte_level_tokenizer

TOKENIZER = Tokenizer(byte_level_tokenizer())
TOKEN, OTHER, END = 40, 41, 1
MAX_ROWS, BUDGET, CHUNK = 4, 10, 20


class PlayedDecoder:
    """Gives every row `TOKEN`. Raises for a prompt that holds `OTHER`, and where `room` is too small for all."""

    nbytes = 0
    use = 0.0
    shared_tokens = 0
    chunk_size: int | None = CHUNK
    prefill_budget = BUDGET
    joins_rows = False
    draft_budget = 0

    def __init__(self) -> None:
        self.lengths: list[int] = []
        self.released: list[int] = []
        self.closed = False
        self.room = 1000

    @property
    def rows(self) -> int:
        return len(self.lengths)

    def output(self, rows: int) -> StepOutput:
        logits = torch.zeros(rows, 100)
        logits[:, TOKEN] = 1
        return step_output(logits)

    def prefill(self, prompts: Sequence[Sequence[int]], tokens: Sequence[int] = ()) -> StepOutput:
        assert len(tokens) in (0, self.rows if self.joins_rows else 0)
        if any(OTHER in prompt for prompt in prompts):
            raise RuntimeError("a prompt that the model cannot compute")
        if sum(map(len, prompts)) > self.room:
            raise RuntimeError("can't allocate memory")
        self.lengths += map(len, prompts)
        return self.output(len(tokens) + len(prompts))

    def begin_chunked(self, prompt: Sequence[int], each: bool = False) -> ChunkedPrefill:
        chunks = self._chunks(prompt)
        next(chunks)
        return chunks

    def _chunks(self, prompt: Sequence[int]) -> ChunkedPrefill:
        output: StepOutput | None = None
        for end in range(CHUNK, len(prompt) + CHUNK, CHUNK):
            tokens = (yield output) or ()
            output = self.output(len(tokens)) if tokens else None
            if end >= len(prompt):
                output = self.prefill([prompt], tokens)
        yield output

    def step(self, tokens: Sequence[int]) -> StepOutput:
        return self.output(self.rows)

    def verify(self, rows: Sequence[Sequence[int]]) -> Verified:
        raise NotImplementedError

    def release(self, row: int, broken: bool = False) -> None:
        self.released.append(row)
        self.lengths.pop()

    def clear(self) -> None:
        self.lengths = []

    def close(self) -> None:
        self.closed = True


class Engine:
    """A scheduler, and what the loop does with a batch."""

    def __init__(self, max_waiting: int = 100) -> None:
        self.decoder = PlayedDecoder()
        self.recorder = StatsRecorder()
        queue = RequestQueue(MAX_ROWS, max_waiting, self.recorder)
        self.scheduler = Scheduler(self.decoder, queue, frozenset({END}))
        self.events: dict[GenerationRequest, list[Event]] = {}

    def add(self, prompt: list[int], max_new_tokens: int = 5) -> GenerationRequest:
        events: list[Event] = []
        request = GenerationRequest(prompt, max_new_tokens, SamplingOptions(), TOKENIZER, events.append)
        self.scheduler.queue.add(request)
        self.events[request] = events
        return request

    def step(self) -> Batch | None:
        batch = self.scheduler.schedule()
        if batch is None:
            return None
        tokens = [request.tokens[-1] for request in batch.rows]
        try:
            if batch.chunked:
                output = batch.chunked.send(tokens or None)
            elif batch.prompts:
                output = self.decoder.prefill([request.tokens for request in batch.prompts], tokens)
            else:
                output = self.decoder.step(tokens)
            self.scheduler.computed(batch)
            if output:
                requests = batch.requests[: len(output.best)]
                self.scheduler.postprocess(batch, next_tokens(output, requests))
        except RuntimeError as failure:
            self.scheduler.abandon(failure)
        return batch

    def phases(self, steps: int) -> list[str]:
        return [phase(self.step()) for _ in range(steps)]

    def end_of(self, request: GenerationRequest) -> Event:
        return self.events[request][-1]


def phase(batch: Batch | None) -> str:
    if batch is None:
        return "nothing"
    rows = [f"decode {len(batch.rows)}"] if batch.rows else []
    prompts = [f"{'chunk' if batch.chunked else 'prefill'} {len(batch.prompts)}"] if batch.prompts else []
    return ", ".join(prompts + rows)
