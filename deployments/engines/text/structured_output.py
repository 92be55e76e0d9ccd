"""Text that a JSON schema constrains: which tokens may come next. Knows schemas and tokens, not models.

llguidance computes the masks; it bounds its own work and answers with an error where a schema asks for too much.
"""

import json
import threading
from collections.abc import Iterable
from typing import Any, Literal

import llguidance
import torch
from torch import Tensor

from deployments.contract.errors import InvalidRequest, quoted

MOST_SCHEMA_BYTES = 65_536
# A state takes up to 2 kB; the library's own limits hold the time of a step to some 15 ms.
_LIMITS = llguidance.LLParserLimits(max_lexer_states=20_000, verbose_errors=False)


class Grammar:
    """The state of one request's constraint."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> Tensor | None:
        """The tokens that may come next, bool [vocabulary], None for all. Raises InvalidRequest if that takes too much
        computing."""
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()
        if self._matcher.is_error():
            raise InvalidRequest("the JSON schema is too complex to follow")
        return allowed

    def accept(self, token: int) -> bool:
        """Takes the chosen token; returns whether the text is complete with it."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())


class ReasoningFirst(Grammar):
    """A constraint that begins when the model has ended its reasoning, or at once if it begins with none."""

    def __init__(self, grammar: Grammar, marks: tuple[int, int], begun: bool) -> None:
        """`marks`: the tokens before and after reasoning. `begun`: the prompt has the first one."""
        self._grammar = grammar
        self._start, self._end = marks
        self._phase: Literal["first", "reasoning", "text"] = "reasoning" if begun else "first"

    def allowed(self) -> Tensor | None:
        if self._phase == "reasoning":
            return None
        allowed = self._grammar.allowed()
        if self._phase == "first" and allowed is not None:
            allowed[self._start] = True
        return allowed

    def accept(self, token: int) -> bool:
        if self._phase == "reasoning":
            self._phase = "text" if token == self._end else "reasoning"
            return False
        if self._phase == "first" and token == self._start:
            self._phase = "reasoning"
            return False
        self._phase = "text"
        return self._grammar.accept(token)


class Grammars:
    """The grammars of one tokenizer; from any thread."""

    def __init__(self, tokenizer: str | None, vocabulary: int, stop_ids: Iterable[int]) -> None:
        """`tokenizer`: the content of tokenizer.json; None for a slow tokenizer."""
        self._source = tokenizer
        self._vocabulary = vocabulary
        self._stop_ids = [token for token in stop_ids if token < vocabulary]
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._lock = threading.Lock()

    def compile(self, schema: dict[str, Any]) -> Grammar:
        """Raises InvalidRequest if the schema is invalid, too large or too complex."""
        try:
            text = json.dumps(schema)
        except (TypeError, ValueError, RecursionError) as failure:
            raise _refused(failure) from None
        if "x-guidance" in schema:  # llguidance's own options.
            raise _refused("x-guidance is not a keyword of JSON Schema")
        _check_size(text)
        try:
            # No free white space: a model that prefers it would never end.
            source = llguidance.LLMatcher.grammar_from_json_schema(text, overrides={"whitespace_flexible": False})
        except (ValueError, RecursionError) as failure:
            raise _refused(failure) from None
        return self._grammar(source)

    def compile_calls(self, source: str) -> Grammar:
        """A grammar of `strict_calls`. Raises InvalidRequest as `compile` does."""
        _check_size(source)
        return self._grammar(source)

    def _grammar(self, source: str) -> Grammar:
        if self._source is None:
            raise InvalidRequest("this model's tokenizer does not let texts be held to a schema")
        with self._lock:  # The first one takes as long as reading a tokenizer.
            if self._tokenizer is None:
                stop_ids = self._stop_ids or None
                self._tokenizer = llguidance.LLTokenizer(self._source, n_vocab=self._vocabulary, eos_token=stop_ids)
        matcher = llguidance.LLMatcher(self._tokenizer, source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        grammar = Grammar(matcher)
        grammar.allowed()  # A schema that allows no first token is refused here.
        return grammar


def _check_size(text: str) -> None:
    if len(text.encode()) > MOST_SCHEMA_BYTES:
        raise InvalidRequest(f"the JSON schema is larger than {MOST_SCHEMA_BYTES} bytes")


def _refused(why: object) -> InvalidRequest:
    return InvalidRequest(f"the JSON schema cannot be followed: {quoted(str(why).partition(chr(10))[0])}")
