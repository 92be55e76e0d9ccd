"""One choice of a streamed response: the chunks that follow from each of its replies. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from deployments.contract.chunk import Chunk
from deployments.contract.text_generation import PromptToken, TokenLogprob
from deployments.contract.types import TextGenerationResult
from serve_app.http.openai.parsing.delta import Delta
from serve_app.http.openai.parsing.output import OutputParser
from serve_app.http.openai.responses import Object, ResponseBuilder


@dataclass(slots=True)
class ChoiceStream:
    builder: ResponseBuilder
    choice: int
    result: TextGenerationResult | None = None
    """Once it has ended."""
    _parser: OutputParser | None = None
    _logprobs: list[TokenLogprob] = field(default_factory=list)
    """Of text that has not been released."""
    _offset: int = 0
    """Characters of tokens before those of `_logprobs`."""

    def chunks(self, reply: Chunk) -> Iterator[Object]:
        if self._parser is None:
            self._parser = self.builder.parser(reply.markup)
            yield from self._first(reply.prompt_logprobs)
        self._logprobs += reply.logprobs
        yield from self._released(self._parser.feed(reply.text))

    def last_chunks(self, reply: TextGenerationResult) -> Iterator[Object]:
        self.result = reply
        if self._parser is None:
            self._parser = self.builder.parser(reply.markup)
            yield from self._first(reply.prompt_logprobs or ())
        yield from self._released(self._parser.end(), last=True)
        yield self.builder.last_chunk(self.choice, self._parser.finish_reason(reply.finish_reason))

    def _first(self, prompt: Sequence[PromptToken]) -> Iterator[Object]:
        first = self.builder.first_chunk(self.choice, prompt)
        self._offset = sum(len(token.token) for token in prompt)
        if first is not None:
            yield first

    def _released(self, delta: Delta, last: bool = False) -> Iterator[Object]:
        if delta or (last and self._logprobs):
            yield self.builder.text_chunk(self.choice, delta, self._logprobs, self._offset)
            self._offset += sum(len(token.token) for token in self._logprobs)
            self._logprobs = []
