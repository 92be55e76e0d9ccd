"""OpenAI's /v1/audio routes with OpenAI's own client, in one process."""

from collections.abc import AsyncGenerator
from typing import Any

import httpx2
import openai
import pytest
from openai import AsyncOpenAI

from deployments.contract.chunk import Chunk
from deployments.contract.errors import InvalidAudio
from deployments.contract.speech import SpeechSegment
from deployments.contract.types import Error, InferRequest, SpeechToText, SpeechToTextResult
from deployments.replica.calls import Reply
from tests.support.http_runtimes import FakeRuntime, Script, responding

SEGMENTS = [
    SpeechSegment(start_s=0.0, end_s=1.25, text="Hello."),
    SpeechSegment(start_s=3661.5, end_s=3662.0, text="Who --> you?"),
]
WORDS = [SpeechSegment(start_s=0.0, end_s=0.5, text="Hello.")]
RESULT = SpeechToTextResult(
    text="Hello. Who --> you?", segments=SEGMENTS, words=WORDS, language="de", duration_s=3662.1, model_id="m"
)
SRT = "1\n00:00:00,000 --> 00:00:01,250\nHello.\n\n2\n01:01:01,500 --> 01:01:02,000\nWho -> you?\n"
VTT = "WEBVTT\n\n00:00:00.000 --> 00:00:01.250\nHello.\n\n01:01:01.500 --> 01:01:02.000\nWho -> you?\n"


@pytest.fixture
def runtime() -> FakeRuntime:
    return FakeRuntime(responding(RESULT))


def saying(*replies: Reply) -> Script:
    async def script(request: InferRequest) -> AsyncGenerator[Reply, None]:
        for reply in replies:
            yield reply

    return script


def asked(runtime: FakeRuntime) -> SpeechToText:
    [request] = runtime.asked
    assert isinstance(request, SpeechToText)
    return request


@pytest.mark.parametrize("name", ["a.mp3", "a.wav", "blob", "a.opus", "a"])
async def test_a_files_bytes_are_asked_whatever_its_name(client: AsyncOpenAI, runtime: FakeRuntime, name: str) -> None:
    """S9."""
    answer = await client.audio.transcriptions.create(model="m", file=(name, b"\xff\xfb sound"), language="de")
    assert answer.text == RESULT.text
    assert asked(runtime) == SpeechToText(model_id="m", audio_data=b"\xff\xfb sound", language="de")


@pytest.mark.parametrize(("form", "body"), [("text", f"{RESULT.text}\n"), ("srt", SRT), ("vtt", VTT)])
async def test_texts_and_subtitles_are_no_json(http: httpx2.AsyncClient, form: str, body: str) -> None:
    """S16."""
    for route in ("transcriptions", "translations"):
        sent = {"model": "m", "response_format": form}
        reply = await http.post(f"/v1/audio/{route}", data=sent, files={"file": ("a.wav", b"x")})
        assert reply.status_code == 200
        assert reply.headers["content-type"] == "text/plain; charset=utf-8"
        assert reply.text == body


@pytest.mark.parametrize(
    ("granularities", "words", "segments"),
    [(None, False, True), (["word"], True, False), (["segment"], False, True), (["word", "segment"], True, True)],
)
async def test_verbose_json_has_the_times_that_are_asked_for(
    client: AsyncOpenAI, runtime: FakeRuntime, granularities: list[str] | None, words: bool, segments: bool
) -> None:
    """S1, S11: segments by default, words only when asked for; the language is the detected one."""
    options: Any = {} if granularities is None else {"timestamp_granularities": granularities}
    answer = await client.audio.transcriptions.create(
        model="m",
        file=("a.wav", b"x"),
        response_format="verbose_json",
        **options,
    )
    assert (answer.language, answer.duration, answer.text) == ("de", 3662.1, RESULT.text)
    assert [one.word for one in answer.words or ()] == (["Hello."] if words else [])
    assert [(one.start, one.end, one.text) for one in answer.segments or ()] == (
        [(one.start_s, one.end_s, one.text) for one in SEGMENTS] if segments else []
    )
    assert asked(runtime).timestamps == ("word" if words else "segment")


async def test_curls_brackets_and_plain_names_are_one(http: httpx2.AsyncClient, runtime: FakeRuntime) -> None:
    for name in ("timestamp_granularities[]", "timestamp_granularities"):
        sent = {"model": "m", "response_format": "verbose_json", name: "word"}
        assert "words" in (await http.post("/v1/audio/transcriptions", data=sent, files={"file": b"x"})).json()
    assert [one.timestamps for one in runtime.asked if isinstance(one, SpeechToText)] == ["word", "word"]


@pytest.mark.filterwarnings("ignore:deprecated")  # newer clients say so of their own method
async def test_a_translation_is_asked_for(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    assert (await client.audio.translations.create(model="m", file=("a.wav", b"x"))).text == RESULT.text
    assert asked(runtime).task == "translate"


async def test_a_stream_has_deltas_and_then_the_whole(client: AsyncOpenAI, runtime: FakeRuntime) -> None:
    chunks = [Chunk("Hello.", 1, segments=(SEGMENTS[0],)), Chunk(" Who?", 2, segments=(SEGMENTS[1],))]
    runtime.script = saying(*chunks, RESULT)
    stream = await client.audio.transcriptions.create(model="m", file=("a.wav", b"x"), stream=True)
    events = [event async for event in stream]
    assert [event.type for event in events] == ["transcript.text.delta"] * 2 + ["transcript.text.done"]
    assert [event.delta for event in events if event.type == "transcript.text.delta"] == ["Hello.", " Who?"]
    assert events[-1].type == "transcript.text.done"
    assert events[-1].text == RESULT.text
    assert asked(runtime).stream is True


@pytest.mark.parametrize(
    ("sent", "param"),
    [
        ({}, "model"),
        ({"model": "m", "response_format": "diarized_json"}, "response_format"),
        ({"model": "m", "prompt": "names"}, "prompt"),
        ({"model": "m", "temperature": "0.7"}, "temperature"),
        ({"model": "m", "temperature": "warm"}, "temperature"),
        ({"model": "m", "stream": "maybe"}, "stream"),
        ({"model": "m", "timestamp_granularities[]": "letter"}, "timestamp_granularities"),
        ({"model": "m", "include[]": "logprobs"}, "include[]"),
    ],
)
async def test_what_cannot_be_done_names_its_field(http: httpx2.AsyncClient, sent: dict[str, str], param: str) -> None:
    reply = await http.post("/v1/audio/transcriptions", data=sent, files={"file": b"x"})
    assert reply.status_code == 400
    assert reply.json()["error"]["param"] == param


async def test_what_asks_for_nothing_is_taken(http: httpx2.AsyncClient) -> None:
    sent = {"model": "m", "prompt": "", "temperature": "0.0", "language": "", "stream": "false", "user": "u"}
    assert (await http.post("/v1/audio/transcriptions", data=sent, files={"file": b"x"})).status_code == 200


async def test_without_a_file_or_a_form_it_says_so(http: httpx2.AsyncClient) -> None:
    reply = await http.post("/v1/audio/transcriptions", data={"model": "m"})
    assert reply.status_code in (400, 415)
    assert (await http.post("/v1/audio/transcriptions", json={"model": "m"})).status_code == 415


@pytest.mark.parametrize("stream", [False, True])
async def test_an_error_is_openais(client: AsyncOpenAI, runtime: FakeRuntime, stream: bool) -> None:
    runtime.script = responding(Error.of(InvalidAudio("the audio is damaged")))
    with pytest.raises(openai.UnprocessableEntityError, match="damaged") as failure:
        await client.audio.transcriptions.create(model="m", file=("a.wav", b"x"), stream=stream)
    assert failure.value.code == "invalid_audio"
