"""The SpeechToText replica without Ray: limits, options, streams, many sounds at a time, a bad one among them."""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from deployments.contract.chunk import Chunk
from deployments.contract.types import Error, InferResponse, SpeechToText, SpeechToTextResult
from deployments.engines.audio import decoding
from deployments.engines.audio import whisper as engine_of_whisper
from deployments.families.speech_to_text.family import SPEECH_TO_TEXT, SpeechToTextOptions
from deployments.families.speech_to_text.replica import SpeechToTextReplica
from deployments.replica.calls import Call, Reply, Stations
from deployments.replica.family import model_formats
from deployments.replica.model_replica import ReplicaOptions
from deployments.replica.replica import Replica
from deployments.repository.model import find
from tests.support import sweep
from tests.support.audio.expected import frames, generated, spelled
from tests.support.audio.files import saved, words
from tests.support.audio.models import ctc, whisper

RATE = 16_000


@pytest.fixture(autouse=True)
def nothing_is_converted(monkeypatch: pytest.MonkeyPatch) -> None:
    """As tests/deployments/engines/audio/test_openvino_decoder.py shows it."""
    monkeypatch.setattr(engine_of_whisper, "convert_in_background", lambda *given: None)


@pytest.fixture(autouse=True)
def own_limits() -> Iterator[None]:
    """They are the process's."""
    before = decoding.LIMITS.seconds
    yield
    decoding.LIMITS.seconds = before


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    ctc(root / "letters")
    whisper(root / "whisper", 4)
    return root


def replica(models: Path, **settings: object) -> SpeechToTextReplica:
    options = SpeechToTextOptions.model_validate(settings)
    return SpeechToTextReplica(ReplicaOptions(SPEECH_TO_TEXT, models, model_formats([SPEECH_TO_TEXT]), options))


async def replies(to: SpeechToTextReplica, requests: list[SpeechToText]) -> list[list[Reply]]:
    found = to.options.repository().models()
    calls = [
        Call(request, f"r-{n}", 60, find(found, request.model_id, "speech_to_text"), bool(request.stream), str(n))
        for n, request in enumerate(requests)
    ]
    said: dict[int, list[Reply]] = {n: [] for n in range(len(requests))}
    async for some in Replica.exchange(to, calls):
        for n, reply in some:
            if isinstance(reply, Chunk | InferResponse):
                said[n].append(reply)
    return [said[n] for n in range(len(requests))]


async def answers(to: SpeechToTextReplica, requests: list[SpeechToText]) -> list[InferResponse]:
    last = [said[-1] for said in await replies(to, requests)]
    return [reply for reply in last if isinstance(reply, InferResponse)]


def asking(model_id: str, seconds: float = 1.0, seed: int = 0, **options: object) -> SpeechToText:
    fields = {"model_id": model_id, "audio_data": saved(words(seconds, seed=seed), RATE, subtype="FLOAT")}
    return SpeechToText.model_validate(fields | options)


async def test_an_operators_limit_holds_and_what_is_no_sound_is_invalid(models: Path) -> None:
    asked = [asking("letters", 2.1), asking("letters", 2.0), asking("letters", audio_data=b"RIFF nothing")]
    long, right, broken = await answers(replica(models, max_audio_s=2), asked)
    assert isinstance(long, Error)
    assert (long.code, long.message) == ("invalid_audio", "the audio is longer than 2 s")
    assert isinstance(broken, Error)
    assert broken.code == "invalid_audio"
    assert isinstance(right, SpeechToTextResult)
    assert (right.model_id, right.duration_s, right.segments, right.words) == ("letters", 2.0, None, None)


async def test_of_many_sounds_at_once_each_gets_its_own_text(models: Path) -> None:
    asked = [asking(("letters", "whisper")[n % 2], 1.0 + n % 3, seed=n) for n in range(6)]
    expected = []
    for n in range(6):
        sound = words(1.0 + n % 3, seed=n)
        expected += [
            generated(models / "whisper", sound, task="transcribe")
            if n % 2
            else spelled(models / "letters", frames(models / "letters", sound))
        ]
    got = await answers(replica(models), asked * 2)
    assert [getattr(answer, "text", answer) for answer in got] == expected * 2


@pytest.mark.parametrize("model_id", sweep(["letters", "whisper"], "letters"))
async def test_a_streams_segments_make_the_text_that_an_answer_has(models: Path, model_id: str) -> None:
    asked = replica(models)
    [whole] = await answers(asked, [asking(model_id, 9.0, timestamps="segment")])
    assert isinstance(whole, SpeechToTextResult)
    for timestamps in (None, "segment"):
        [said] = await replies(asked, [asking(model_id, 9.0, stream=True, timestamps=timestamps)])
        result = said[-1]
        assert isinstance(result, SpeechToTextResult)
        assert (result.text, result.segments) == (whole.text, whole.segments if timestamps else None)
        chunks = [reply for reply in said if isinstance(reply, Chunk)]
        assert [segment for chunk in chunks for segment in chunk.segments] == whole.segments
        assert "".join(chunk.text for chunk in chunks) == " ".join(segment.text for segment in whole.segments or ())


async def test_timestamps_language_and_task_are_the_callers(models: Path) -> None:
    asked = [
        asking("letters", 3.0, timestamps="word"),
        asking("letters", language="en"),
        asking("whisper", language="fr", task="translate"),
        asking("whisper", language=""),
        asking("whisper", language="it"),
        asking("whisper", timestamps="word"),
    ]
    with_words, no_language, french, detected, unknown, no_words = await answers(replica(models), asked)
    assert isinstance(with_words, SpeechToTextResult)
    assert with_words.words
    assert with_words.segments
    assert isinstance(french, SpeechToTextResult)
    assert french.language == "fr"
    assert isinstance(detected, SpeechToTextResult)
    assert detected.language in ("en", "fr", "de", "es")
    for refused in (no_language, unknown, no_words):
        assert isinstance(refused, Error)
        assert refused.code == "invalid_request"


async def test_a_request_that_is_cancelled_leaves_nothing_running(models: Path) -> None:
    asked = replica(models)
    model = find(asked.options.repository().models(), "whisper", "speech_to_text")
    await answers(asked, [asking("whisper")])
    first = asyncio.Event()
    call = Call(asking("whisper", 60.0, timestamps="segment"), "r", 60, model, True, "1")
    task = asyncio.create_task(asked.infer(call, lambda chunk: first.set()))
    await asyncio.wait_for(first.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not asked.turns._order
    assert asked.memory.held_bytes == 0


@pytest.mark.parametrize(("text", "code"), [("{text}", None), ("another text", "model_load_failed")])
async def test_a_model_must_write_its_golden_text_before_it_answers(
    tmp_path: Path, text: str, code: str | None
) -> None:
    folder = ctc(tmp_path / "letters")
    (folder / "golden.wav").write_bytes(saved(words(1.0), RATE, subtype="FLOAT"))
    right = spelled(folder, frames(folder, words(1.0)))
    golden = {"audio": "golden.wav", "text": text.format(text=right)}
    (folder / "model.yaml").write_text(json.dumps({"golden": [golden]}))
    [answer] = await answers(replica(tmp_path), [asking("letters")])
    assert (answer.code if isinstance(answer, Error) else None) == code


async def test_a_request_tells_with_how_many_it_was_computed(models: Path) -> None:
    to, told = replica(models), list[Stations]()
    found = to.options.repository().models()

    async def ask(request: SpeechToText, number: int) -> None:
        call = Call(request, f"r-{number}", 60, find(found, request.model_id, "speech_to_text"), call_id=str(number))
        await to.respond(call, None, lambda news: told.append(news) if isinstance(news, dict) else None)

    await ask(asking("whisper"), 0)
    assert told.pop()["batch_size"] == 1
    await ask(asking("whisper", timestamps="segment"), 1)
    assert told.pop()["batch_size"] == 1
