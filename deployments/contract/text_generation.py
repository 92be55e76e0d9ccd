"""Options of a request for a text, and what a result says of its tokens."""

from typing import Annotated

from pydantic import BaseModel, Field

from deployments.contract.scalars import U32, Text, TokenId


class SamplingDefaults(BaseModel):
    """How the next token is chosen, as the owner of a model may set it too. None is the neutral value.

    The options apply in the order of `transformers`: penalties, temperature, top_k, top_p, min_p.
    """

    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    """None and 0 are greedy decoding."""
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: U32 | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100)] | None = None
    presence_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Taken once from the logit of each token that the text so far holds; the prompt does not count."""
    frequency_penalty: Annotated[float, Field(ge=-2, le=2)] | None = None
    """Taken as often as the text so far holds the token."""
    stop: Text | Annotated[list[Text], Field(max_length=16)] | None = None
    """The text ends before any of these."""


class TokenOptions(BaseModel):
    """Options that name tokens of one model, or count them."""

    logit_bias: Annotated[dict[TokenId, Annotated[float, Field(ge=-100, le=100)]], Field(max_length=1024)] | None = None
    """Added to the logits of these tokens."""
    min_tokens: U32 | None = None
    """The text does not end before it has so many tokens: neither at a token nor at a stop string."""
    stop_token_ids: Annotated[list[U32], Field(max_length=256)] | None = None
    """The text ends before any of these, as before the model's own end tokens."""
    ignore_eos: bool | None = None
    """The text goes on after the model's own end tokens."""


class Usage(BaseModel):
    """Tokens in and out of one generation."""

    prompt_tokens: int
    completion_tokens: int


class Alternative(BaseModel):
    """A token and its natural logarithm of probability. `utf8`: its bytes, where it is but a part of a character."""

    token: str
    logprob: float
    utf8: list[int]


class TokenLogprob(Alternative):
    """A token of the text, and the most probable ones in its place, best first."""

    top: list[Alternative]


class PromptToken(BaseModel):
    """A token of the prompt, as TokenLogprob; the first one, which nothing precedes, has no probability."""

    token: str
    utf8: list[int]
    logprob: float | None = None
    top: list[Alternative]
