"""Builds OpenAI's response objects: completions and chats, whole and in chunks. Pure; knows no HTTP."""

import abc
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar

from deployments.contract.chat import Markup
from deployments.contract.text_generation import Alternative, PromptToken, TokenLogprob, Usage
from deployments.contract.types import TextGenerationResult
from serve_app.http.openai.parsing.delta import CallDelta, Delta, whole_calls
from serve_app.http.openai.parsing.output import OutputParser

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

    kind: ClassVar[str]
    """The type of a whole response, `object` in OpenAI's."""
    chunk_kind: ClassVar[str]

    @abc.abstractmethod
    def first_chunk(self, choice: int, prompt: Sequence[PromptToken] = ()) -> Object | None:
        """The chunk before a choice's first text, if it has one. `prompt`: its tokens, if their log-probabilities are
        asked for."""

    @abc.abstractmethod
    def _whole(self, choice: int, delta: Delta) -> Object:
        """The fields of a choice's whole text."""

    @abc.abstractmethod
    def _part(self, delta: Delta) -> Object:
        """The fields of a part of a choice's text; an empty one in the last chunk."""

    @abc.abstractmethod
    def _logprobs(self, tokens: Sequence[TokenLogprob], offset: int) -> Object: ...

    def response(self, results: Sequence[TextGenerationResult]) -> Object:
        """The whole response: all choices and the usage."""
        choices = [self._whole_choice(n, result) for n, result in enumerate(results)]
        return self._named(self.kind, choices) | {"usage": self.usage(results)}

    def _whole_choice(self, choice: int, result: TextGenerationResult) -> Object:
        parser = self.parser(result.markup)
        delta = parser.whole(result.generated_text)
        logprobs = None if result.logprobs is None else self._logprobs(result.logprobs, 0)
        return _choice(choice, self._whole(choice, delta), logprobs, parser.finish_reason(result.finish_reason))

    def parser(self, markup: Markup | None) -> OutputParser:
        """For the text of one choice."""
        return OutputParser(markup or Markup())

    def text_chunk(self, choice: int, delta: Delta, logprobs: Sequence[TokenLogprob], offset: int) -> Object:
        """A chunk of text. `offset`: how many characters of the choice came before those of `logprobs`."""
        described = self._logprobs(logprobs, offset) if logprobs else None
        return self._chunk(_choice(choice, self._part(delta), described))

    def last_chunk(self, choice: int, finish_reason: str | None) -> Object:
        """The chunk after a choice's last text."""
        return self._chunk(_choice(choice, self._part(Delta()), None, finish_reason))

    def usage_chunk(self, results: Sequence[TextGenerationResult]) -> Object:
        """The chunk without choices that carries the usage."""
        return self._chunk() | {"usage": self.usage(results)}

    def usage(self, results: Sequence[TextGenerationResult]) -> Object:
        """Each prompt counts once, each choice's tokens count."""
        usages = [result.usage or Usage(prompt_tokens=0, completion_tokens=0) for result in results]
        prompt = sum(usage.prompt_tokens for usage in usages[:: self.choices])
        completion = sum(usage.completion_tokens for usage in usages)
        return {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}

    def _chunk(self, *choices: Object) -> Object:
        return self._named(self.chunk_kind, list(choices))

    def _named(self, kind: str, choices: list[Object]) -> Object:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model, "choices": choices}


class CompletionBuilder(ResponseBuilder):
    kind = chunk_kind = "text_completion"

    def first_chunk(self, choice: int, prompt: Sequence[PromptToken] = ()) -> Object | None:
        text = self._echo(choice, prompt)
        logprobs = self._logprobs(prompt, 0) if prompt else None
        return self._chunk(_choice(choice, {"text": text}, logprobs)) if text or prompt else None

    def _echo(self, choice: int, prompt: Sequence[PromptToken]) -> str:
        return self.echoes[choice] or b"".join(bytes(token.utf8) for token in prompt).decode(errors="replace")

    def _whole(self, choice: int, delta: Delta) -> Object:
        return {"text": self.echoes[choice] + delta.text}

    def _part(self, delta: Delta) -> Object:
        return {"text": delta.text}

    def _whole_choice(self, choice: int, result: TextGenerationResult) -> Object:
        if result.prompt_logprobs is None:
            return ResponseBuilder._whole_choice(self, choice, result)
        text = self._echo(choice, result.prompt_logprobs) + result.generated_text
        logprobs = self._logprobs([*result.prompt_logprobs, *(result.logprobs or ())], 0)
        return _choice(choice, {"text": text}, logprobs, result.finish_reason)

    def _logprobs(self, tokens: Sequence[TokenLogprob | PromptToken], offset: int) -> Object:
        """Parallel lists. `text_offset` counts characters from the start of the choice's new text."""
        lengths = accumulate((len(token.token) for token in tokens), initial=offset)
        top = [{one.token: one.logprob for one in (*token.top, token)} if token.top else None for token in tokens]
        return {
            "tokens": [token.token for token in tokens],
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": top if any(top) else None,
            "text_offset": [at for at, _ in zip(lengths, tokens, strict=False)],
        }


@dataclass(frozen=True, slots=True)
class ChatBuilder(ResponseBuilder):
    parse: Callable[[Markup], OutputParser] = OutputParser

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"

    def parser(self, markup: Markup | None) -> OutputParser:
        return self.parse(markup or Markup())

    def first_chunk(self, choice: int, prompt: Sequence[PromptToken] = ()) -> Object | None:
        return self._chunk(_choice(choice, {"delta": {"role": "assistant", "content": ""}}))

    def _whole(self, choice: int, delta: Delta) -> Object:
        calls = [
            {"id": call.id, "type": "function", "function": {"name": call.name, "arguments": call.arguments}}
            for call in whole_calls(delta.calls)
        ]
        content = None if calls and not delta.text else delta.text
        message: Object = {"role": "assistant", "content": content, "refusal": None}
        if delta.reasoning:
            message["reasoning_content"] = delta.reasoning
        return {"message": message | ({"tool_calls": calls} if calls else {})}

    def _part(self, delta: Delta) -> Object:
        fields: Object = {}
        if delta.reasoning:
            fields["reasoning_content"] = delta.reasoning
        if delta.text:
            fields["content"] = delta.text
        if delta.calls:
            fields["tool_calls"] = list(map(_call_delta, delta.calls))
        return {"delta": fields}

    def _logprobs(self, tokens: Sequence[TokenLogprob], offset: int) -> Object:
        return {"content": list(map(token_logprob, tokens)), "refusal": None}


def _choice(index: int, content: Object, logprobs: Object | None = None, finish_reason: str | None = None) -> Object:
    # OpenAI names no deadline; its clients know "length" as the end of a text that is not complete.
    finish_reason = "length" if finish_reason == "deadline" else finish_reason
    return {"index": index, **content, "logprobs": logprobs, "finish_reason": finish_reason}


def _call_delta(call: CallDelta) -> Object:
    """The first one of a call has its id and its name."""
    if call.id is None:
        return {"index": call.index, "function": {"arguments": call.arguments}}
    function = {"name": call.name, "arguments": call.arguments}
    return {"index": call.index, "id": call.id, "type": "function", "function": function}


def token_logprob(token: TokenLogprob) -> Object:
    return _token(token) | {"top_logprobs": list(map(_token, token.top))}


def _token(token: Alternative) -> Object:
    return {"token": token.token, "logprob": token.logprob, "bytes": token.utf8}
