"""One call on its way: what a repeated answer tells again is told once."""

from deployments.contract.types import Chunk, Message, TextGeneration, TextGenerationResult, TokenLogprob
from deployments.replica.calls import Call
from serve_app.dispatch.pending import Pending

SAID = [TokenLogprob(token=token, logprob=-1, utf8=list(token.encode()), top=[]) for token in "abc"]


def pending(told: list[Chunk], **fields: object) -> Pending:
    request = TextGeneration.model_validate({"model_id": "m", "prompt": "", "max_tokens": 3} | fields)
    return Pending(Call(request, "r", 10), told.append)


async def test_an_answer_that_begins_anew_is_told_from_where_it_was_cut() -> None:
    told: list[Chunk] = []
    call = pending(told)
    call.hear(Chunk("a", 1, (SAID[0],)))
    call.hear(Chunk("b", 2, (SAID[1],)))
    call.again()
    for chunk in (Chunk("abc", 3, tuple(SAID)), TextGenerationResult(generated_text="abc")):
        call.hear(chunk)
    assert "".join(chunk.text for chunk in told) == "abc"
    assert [logprob for chunk in told for logprob in chunk.logprobs] == SAID
    assert (await call.response) == TextGenerationResult(generated_text="abc")


async def test_a_token_without_text_is_told_with_its_log_probability() -> None:
    told: list[Chunk] = []
    pending(told).hear(Chunk("", 1, (SAID[0],)))
    assert [chunk.logprobs for chunk in told] == [(SAID[0],)]


async def test_a_request_weighs_what_it_carries() -> None:
    assert pending([], prompt="a" * 1000).size >= 1000
    assert pending([], prompt_ids=[1] * 1000).size >= 8000
    assert pending([], messages=[Message(role="user", content="a" * 1000)] * 3).size >= 3000
