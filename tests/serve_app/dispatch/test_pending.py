"""One call: a repeated answer's chunks come once, and a slow reader gets what came meanwhile in one."""

from deployments.contract.chat import Markup
from deployments.contract.chunk import Chunk
from deployments.contract.speech import SpeechSegment
from deployments.contract.text_generation import PromptToken, TokenLogprob
from deployments.contract.types import TextGeneration, TextGenerationResult
from deployments.replica.calls import Call
from serve_app.dispatch.pending import PendingStream
from tests.serve_app.dispatch.calls import pending_of, stream_of

LOGPROBS = [TokenLogprob(token=token, logprob=-1, utf8=list(token.encode()), top=[]) for token in "abc"]
CALL = Call(TextGeneration(model_id="m", prompt="", max_tokens=3), "r", 10)
RESULT = TextGenerationResult(generated_text="abc")


async def read(stream: PendingStream) -> list[Chunk]:
    """All chunks of a stream that has ended."""
    chunks = []
    while (chunk := await stream.next_chunk()) is not None:
        chunks.append(chunk)
    return chunks


async def test_chunks_of_a_repeated_answer_go_on_where_they_were_cut() -> None:
    stream = stream_of(CALL)
    stream.deliver(Chunk("a", 1, (LOGPROBS[0],)))
    first = await stream.next_chunk()
    stream.deliver(Chunk("b", 2, (LOGPROBS[1],)))
    stream.repeat()
    markup = Markup(tool_calls="hermes")
    stream.deliver(Chunk("abc", 3, tuple(LOGPROBS), markup))
    stream.deliver(RESULT)
    stream.end()
    assert first == Chunk("a", 1, (LOGPROBS[0],))
    assert await read(stream) == [Chunk("bc", 3, tuple(LOGPROBS[1:]), markup)]
    assert await stream.response == RESULT


async def test_segments_of_a_repeated_answer_come_once_and_a_slow_reader_gets_all_of_them() -> None:
    one, two, three = (SpeechSegment(start_s=at, end_s=at + 1, text=f"{at}") for at in range(3))
    stream = stream_of(CALL)
    stream.deliver(Chunk("0", 1, segments=(one,)))
    assert await stream.next_chunk() == Chunk("0", 1, segments=(one,))
    stream.repeat()
    for chunk in (
        Chunk("0", 1, segments=(one,)),
        Chunk(" 1", 2, segments=(two,)),
        Chunk(" 2", 3, segments=(three,)),
    ):
        stream.deliver(chunk)
    stream.deliver(RESULT)
    stream.end()
    assert await read(stream) == [Chunk(" 1 2", 3, segments=(two, three))]


async def test_the_log_probabilities_of_a_prompt_come_once_before_its_text() -> None:
    told = (PromptToken(token="p", utf8=[112], logprob=None, top=[]),)
    stream = stream_of(CALL)
    for _ in range(2):
        stream.deliver(Chunk("", 0, prompt_logprobs=told))
        stream.repeat()
    assert await stream.next_chunk() == Chunk("", 0, prompt_logprobs=told)
    stream.deliver(Chunk("a", 1))
    assert await stream.next_chunk() == Chunk("a", 1)


async def test_a_token_without_text_is_delivered_with_its_log_probability() -> None:
    stream = stream_of(CALL)
    stream.deliver(Chunk("", 1, (LOGPROBS[0],)))
    assert await stream.next_chunk() == Chunk("", 1, (LOGPROBS[0],))


async def test_a_slow_reader_gets_one_chunk_of_all_that_came() -> None:
    stream = stream_of(CALL)
    for index, letter in enumerate("abc", 1):
        stream.deliver(Chunk(letter, index))
    stream.end()
    assert await read(stream) == [Chunk("abc", 3)]


async def test_what_comes_after_the_response_or_a_failure_changes_nothing() -> None:
    answered, failed = pending_of(CALL), pending_of(CALL)
    answered.deliver(RESULT)
    answered.deliver(TextGenerationResult(generated_text="another"))
    answered.fail(RuntimeError())
    assert await answered.response == RESULT
    failed.response.cancel()
    failed.deliver(RESULT)
    failed.fail(RuntimeError())
    assert failed.response.cancelled()
