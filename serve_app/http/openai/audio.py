"""The forms of OpenAI's /v1/audio routes, the SpeechToText that they become, and the responses. Knows no routes."""

import math
import re
from collections.abc import Iterator, Sequence
from contextlib import aclosing
from dataclasses import dataclass
from typing import Literal

from deployments.contract import wire
from deployments.contract.chunk import Chunk
from deployments.contract.errors import Internal, quoted
from deployments.contract.speech import SpeechSegment
from deployments.contract.types import Error, InferRequest, SpeechToText, SpeechToTextResult
from deployments.replica.calls import Reply
from serve_app.http.openai.errors import InvalidField, error_object
from serve_app.http.openai.responses import Object
from serve_app.http.sse import Events, StartedStream, data

FORMATS = ("json", "text", "verbose_json", "srt", "vtt")
GRANULARITIES = ("word", "segment")
AUDIO_FORM: Object = {
    "type": "object",
    "properties": {
        "file": {"type": "string", "format": "binary"},
        "model": {"type": "string", "minLength": 1},
        "language": {"type": "string"},
        "prompt": {"const": ""},
        "response_format": {"enum": [*FORMATS, ""]},
        "temperature": {"enum": ["0", "0.0", ""]},
        "stream": {"enum": ["true", "false", ""]},
    },
    "required": ["file", "model"],
}
"""The form in the OpenAPI document, which has no fields of several values. Unknown ones are ignored."""
_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?")
_NONE_OF_IT = {"include[]": ("",), "chunking_strategy": ("", "auto")}

Task = Literal["transcribe", "translate"]


@dataclass(frozen=True, slots=True)
class AudioForm:
    """What a form asks for."""

    request: InferRequest
    response_format: str
    words: bool
    segments: bool
    task: Task

    @classmethod
    def of(cls, parts: Sequence[tuple[str, str | bytes]], task: Task) -> "AudioForm":
        """Raises InvalidRequest. `timestamp_granularities` may have brackets, as OpenAI's clients write it, or none."""
        fields = {name: value for name, value in parts if isinstance(value, str)}
        file = next((value for name, value in parts if name == "file" and isinstance(value, bytes)), None)
        if file is None:
            raise InvalidField("the form needs a file 'file'", "file")
        if not fields.get("model"):
            raise InvalidField("the form needs a model", "model")
        response_format = fields.get("response_format") or "json"
        if response_format not in FORMATS:
            raise InvalidField(f"response_format is none of {', '.join(FORMATS)}", "response_format")
        asked = [value for name, value in parts if name.removesuffix("[]") == "timestamp_granularities" and value]
        for one in asked:
            if one not in GRANULARITIES:
                raise InvalidField("timestamp_granularities may have word and segment", "timestamp_granularities")
        _check_what_is_not_done(fields)
        verbose = response_format == "verbose_json"
        words, segments = verbose and "word" in asked, verbose and (not asked or "segment" in asked)
        timed = words or segments or response_format in ("srt", "vtt")
        values: dict[str, object] = {
            "model_id": fields["model"],
            "audio_data": file,
            "language": fields.get("language") or None,
            "task": "translate" if task == "translate" else None,
            "timestamps": ("word" if words else "segment") if timed else None,
            "stream": _flag(fields.get("stream", "")) or None,
        }
        request = wire.from_object({SpeechToText.__name__: values}, InferRequest)
        return cls(request, response_format, words, segments, task)

    def rendered(self, result: SpeechToTextResult) -> tuple[bytes, str]:
        """The body and its media type."""
        if self.response_format == "text":
            return f"{result.text}\n".encode(), "text/plain; charset=utf-8"
        if self.response_format == "srt":
            return _srt(result.segments or ()).encode(), "text/plain; charset=utf-8"
        if self.response_format == "vtt":
            return _vtt(result.segments or ()).encode(), "text/plain; charset=utf-8"
        return data(self._verbose(result) if self.response_format == "verbose_json" else _plain(result)), wire.JSON

    def _verbose(self, result: SpeechToTextResult) -> Object:
        body: Object = {
            "task": self.task,
            "language": result.language or "und",
            "duration": result.duration_s,
            **_plain(result),
        }
        if self.segments:
            body["segments"] = [
                {"id": n, "start": one.start_s, "end": one.end_s, "text": one.text, "temperature": 0.0}
                for n, one in enumerate(result.segments or ())
            ]
        if self.words:
            body["words"] = [{"word": one.text, "start": one.start_s, "end": one.end_s} for one in result.words or ()]
        return body


async def audio_events(replies: StartedStream[Reply]) -> Events:
    """A delta for each chunk, then the whole text, or an error object."""
    async with aclosing(replies):
        async for reply in replies:
            if isinstance(reply, Chunk):
                event: Object = {"type": "transcript.text.delta", "delta": reply.text}
            elif isinstance(reply, SpeechToTextResult):
                event = {"type": "transcript.text.done", **_plain(reply)}
            else:
                error = reply if isinstance(reply, Error) else Error.of(Internal("the model gave no text"))
                event = error_object(error)
            yield b"data: " + data(event) + b"\n\n"


def _plain(result: SpeechToTextResult) -> Object:
    seconds = math.ceil(result.duration_s or 0)
    return {"text": result.text, "usage": {"type": "duration", "seconds": seconds}}


def _check_what_is_not_done(fields: dict[str, str]) -> None:
    if fields.get("prompt"):
        raise InvalidField("prompt is not supported: leave it out", "prompt")
    temperature = fields.get("temperature") or "0"
    if not _NUMBER.fullmatch(temperature) or float(temperature) != 0:
        raise InvalidField("temperature must be 0: the text is the most probable one", "temperature")
    for name, values in _NONE_OF_IT.items():
        if fields.get(name, "") not in values:
            raise InvalidField(f"{name} is not supported: leave it out", name)


def _flag(text: str) -> bool:
    if text.lower() not in ("", "true", "false", "1", "0"):
        raise InvalidField(f"stream is true or false, not {quoted(text)}", "stream")
    return text.lower() in ("true", "1")


def _srt(segments: Sequence[SpeechSegment]) -> str:
    """A comma before the milliseconds."""
    cues = (f"{n}\n{times}\n{text}\n" for n, (times, text) in enumerate(_cues(segments, ","), 1))
    return "\n".join(cues)


def _vtt(segments: Sequence[SpeechSegment]) -> str:
    """A point before the milliseconds."""
    return "\n".join(["WEBVTT\n", *(f"{times}\n{text}\n" for times, text in _cues(segments, "."))])


def _cues(segments: Sequence[SpeechSegment], point: str) -> Iterator[tuple[str, str]]:
    for one in segments:
        text = one.text.replace("-->", "->")
        yield f"{_time(one.start_s, point)} --> {_time(one.end_s, point)}", text


def _time(seconds: float, point: str) -> str:
    whole, milliseconds = divmod(round(seconds * 1000), 1000)
    return f"{whole // 3600:02}:{whole // 60 % 60:02}:{whole % 60:02}{point}{milliseconds:03}"
