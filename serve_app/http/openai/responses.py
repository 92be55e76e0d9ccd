"""Builds OpenAI's response objects: completions and chats, whole and in chunks. Pure; knows no HTTP."""

import abc
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate

from deployments.contract.types import Alternative, Chunk, TextGenerationResult, TokenLogprob, Usage

Object = dict[str, object]


@dataclass(frozen=True, slots=True)
class ResponseBuilder(abc.ABC):
    """Builds the objects of one request's response."""

    id: str
    created: int
    model: str
    choices: int
    """Choices for each prompt."""
    echoes: Sequence[str] = ()
    """The text before that of each choice. Only completions have it."""

    @abc.abstractmethod
    def response(self, results: Sequence[TextGenerationResult]) -> Object:
        """The whole response: all choices and the usage."""

    @abc.abstractmethod
    def first_chunk(self, choice: int) -> Object | None:
        """The chunk before a choice's first text, if it has one."""

    @abc.abstractmethod
    def text_chunk(self, choice: int, chunk: Chunk, offset: int) -> Object:
        """A chunk of text. `offset`: how many characters of the choice were sent before."""

    @abc.abstractmethod
    def last_chunk(self, choice: int, result: TextGenerationResult) -> Object:
        """The chunk after a choice's last text."""

    @abc.abstractmethod
    def usage_chunk(self, results: Sequence[TextGenerationResult]) -> Object:
        """The chunk without choices that carries the usage."""

    def usage(self, results: Sequence[TextGenerationResult]) -> Object:
        """Each prompt counts once, each choice's tokens count."""
        usages = [result.usage or Usage(prompt_tokens=0, completion_tokens=0) for result in results]
        prompt = sum(usage.prompt_tokens for usage in usages[:: self.choices])
        completion = sum(usage.completion_tokens for usage in usages)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _named(self, kind: str, choices: list[Object]) -> Object:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


class CompletionBuilder(ResponseBuilder):
    def response(self, results: Sequence[TextGenerationResult]) -> Object:
        choices = [
            _completion_choice(
                index,
                echo + result.generated_text,
                None if result.logprobs is None else _completion_logprobs(result.logprobs, 0),
                result.finish_reason,
            )
            for index, (echo, result) in enumerate(zip(self.echoes, results, strict=True))
        ]
        return self._named("text_completion", choices) | {"usage": self.usage(results)}

    def first_chunk(self, choice: int) -> Object | None:
        return self._chunk(_completion_choice(choice, self.echoes[choice])) if self.echoes[choice] else None

    def text_chunk(self, choice: int, chunk: Chunk, offset: int) -> Object:
        logprobs = _completion_logprobs(chunk.logprobs, offset) if chunk.logprobs else None
        return self._chunk(_completion_choice(choice, chunk.text, logprobs))

    def last_chunk(self, choice: int, result: TextGenerationResult) -> Object:
        return self._chunk(_completion_choice(choice, "", None, result.finish_reason))

    def usage_chunk(self, results: Sequence[TextGenerationResult]) -> Object:
        return self._named("text_completion", []) | {"usage": self.usage(results)}

    def _chunk(self, choice: Object) -> Object:
        return self._named("text_completion", [choice])


class ChatBuilder(ResponseBuilder):
    def response(self, results: Sequence[TextGenerationResult]) -> Object:
        choices: list[Object] = [
            {
                "index": index,
                "message": {"role": "assistant", "content": result.generated_text, "refusal": None},
                "logprobs": None if result.logprobs is None else _chat_logprobs(result.logprobs),
                "finish_reason": result.finish_reason,
            }
            for index, result in enumerate(results)
        ]
        return self._named("chat.completion", choices) | {"usage": self.usage(results)}

    def first_chunk(self, choice: int) -> Object | None:
        return self._chunk(choice, {"role": "assistant", "content": ""})

    def text_chunk(self, choice: int, chunk: Chunk, offset: int) -> Object:
        return self._chunk(choice, {"content": chunk.text}, _chat_logprobs(chunk.logprobs) if chunk.logprobs else None)

    def last_chunk(self, choice: int, result: TextGenerationResult) -> Object:
        return self._chunk(choice, {}, None, result.finish_reason)

    def usage_chunk(self, results: Sequence[TextGenerationResult]) -> Object:
        return self._named("chat.completion.chunk", []) | {"usage": self.usage(results)}

    def _chunk(
        self, choice: int, delta: Object, logprobs: Object | None = None, finish_reason: str | None = None
    ) -> Object:
        delta_of_choice: Object = {
            "index": choice,
            "delta": delta,
            "logprobs": logprobs,
            "finish_reason": finish_reason,
        }
        return self._named("chat.completion.chunk", [delta_of_choice])


def _completion_choice(
    index: int, text: str, logprobs: Object | None = None, finish_reason: str | None = None
) -> Object:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": finish_reason}


def _completion_logprobs(tokens: Sequence[TokenLogprob], offset: int) -> Object:
    """Parallel lists. `text_offset` counts characters from the start of the choice's new text."""
    lengths = accumulate((len(token.token) for token in tokens), initial=offset)
    top = [{other.token: other.logprob for other in (*token.top, token)} if token.top else None for token in tokens]
    return {
        "tokens": [token.token for token in tokens],
        "token_logprobs": [token.logprob for token in tokens],
        "top_logprobs": top if any(top) else None,
        "text_offset": [at for at, _ in zip(lengths, tokens, strict=False)],
    }


def _chat_logprobs(tokens: Sequence[TokenLogprob]) -> Object:
    return {
        "content": [_token(token) | {"top_logprobs": list(map(_token, token.top))} for token in tokens],
        "refusal": None,
    }


def _token(token: Alternative) -> Object:
    return {"token": token.token, "logprob": token.logprob, "bytes": token.utf8}
