"""Text held to a JSON schema: which tokens may come next. Knows schemas and tokens, not models.

llguidance computes the masks; it bounds its own work and answers with an error where a schema asks for too much.
"""

import json
import threading
from collections.abc import Iterable

import llguidance
import torch
from torch import Tensor

from deployments.contract.errors import InvalidRequest, quoted

MOST_SCHEMA_BYTES = 65_536
# A state takes up to 2 kB; the library's own limits hold the time of a step to some 15 ms.
_LIMITS = llguidance.LLParserLimits(max_lexer_states=20_000, verbose_errors=False)


class Grammar:
    """What one request may still say."""

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher = matcher

    def allowed(self) -> Tensor:
        """Which tokens may come next, bool [vocabulary]. Raises InvalidRequest where that is too much to compute."""
        allowed = torch.frombuffer(bytearray(self._matcher.compute_logit_bias()), dtype=torch.uint8).bool()
        if self._matcher.is_error():
            raise InvalidRequest("the JSON schema is too complex to follow")
        return allowed

    def accept(self, token: int) -> bool:
        """Take the token that was chosen; whether the text is complete with it, so that nothing may follow."""
        self._matcher.consume_token(token)
        return bool(self._matcher.is_stopped())


class Grammars:
    """The grammars of one tokenizer; from any thread."""

    def __init__(self, tokenizer: str | None, vocabulary: int, stop_ids: Iterable[int]) -> None:
        """`tokenizer`: as a fast one is written to tokenizer.json; None where it is not."""
        self._source = tokenizer
        self._vocabulary = vocabulary
        self._stop_ids = [token for token in stop_ids if token < vocabulary]
        self._tokenizer: llguidance.LLTokenizer | None = None
        self._lock = threading.Lock()

    def of(self, schema: str) -> Grammar:
        """Raises InvalidRequest where the schema is none, is too large or asks for what cannot be followed."""
        if self._source is None:
            raise InvalidRequest("this model's tokenizer does not let texts be held to a schema")
        if len(schema.encode()) > MOST_SCHEMA_BYTES:
            raise InvalidRequest(f"the JSON schema is larger than {MOST_SCHEMA_BYTES} bytes")
        with self._lock:  # The first one takes as long as reading a tokenizer.
            if self._tokenizer is None:
                stop_ids = self._stop_ids or None
                self._tokenizer = llguidance.LLTokenizer(self._source, n_vocab=self._vocabulary, eos_token=stop_ids)
        try:
            # No free spaces: a model that likes them would never end.
            source = llguidance.LLMatcher.grammar_from_json_schema(
                _without_guidance(schema), overrides={"whitespace_flexible": False}
            )
        except (ValueError, RecursionError) as failure:
            raise _refused(failure) from None
        matcher = llguidance.LLMatcher(self._tokenizer, source, log_level=0, limits=_LIMITS)
        if matcher.is_error():
            raise _refused(matcher.get_error())
        grammar = Grammar(matcher)
        grammar.allowed()  # What cannot even begin is refused here.
        return grammar


def _without_guidance(schema: str) -> str:
    """The schema, unless it sets llguidance's own options. Raises ValueError, RecursionError."""
    parsed = json.loads(schema)
    if not isinstance(parsed, dict):
        raise ValueError("it is no object")
    if "x-guidance" in parsed:
        raise ValueError("x-guidance is not a keyword of JSON Schema")
    return schema


def _refused(why: object) -> InvalidRequest:
    return InvalidRequest(f"the JSON schema cannot be followed: {quoted(str(why).partition(chr(10))[0])}")
