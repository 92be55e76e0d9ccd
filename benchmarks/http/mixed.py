"""Requests of every kind that a runtime meets, good, bad and given up, as bytes for a socket; closed-loop load."""

import asyncio
import json
import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import urlsplit

from deployments.contract import wire
from deployments.contract.types import ImageClassification, InferRequest, TextGeneration

ANSWER_S = 60.0
_OK = frozenset({200})


@dataclass(frozen=True, slots=True)
class Kind:
    """One kind of request. `statuses`: those that may come. `leave_after`: the client goes once it has read so many
    bytes of the answer; None: it reads it all."""

    name: str
    said: bytes
    weight: int
    statuses: frozenset[int] = _OK
    leave_after: int | None = None


def kinds(image_model: str, text_model: str, picture: bytes) -> list[Kind]:
    """Texts are two tokens long, so that there can be many."""
    image = ImageClassification(model_id=image_model, image_data=picture)
    text = TextGeneration(model_id=text_model, prompt="ROMEO:", max_tokens=2)
    spoken = TextGeneration(model_id=text_model, prompt="ROMEO:", max_tokens=4, stream=True)
    long = TextGeneration(model_id=text_model, prompt="ROMEO:", max_tokens=200, stream=True)
    nowhere = TextGeneration(model_id="nowhere", prompt="ROMEO:", max_tokens=2)
    no_image = ImageClassification(model_id=image_model, image_data=b"none")
    integers = json.dumps({"ImageClassification": {"model_id": image_model, "image_data": list(picture)}}).encode()
    json_of = {name: wire.encode(request, wire.JSON) for name, request in (("image", image), ("text", text))}
    several = [json_of["image"], json_of["text"], wire.encode(nowhere, wire.JSON), b"5"]
    openai: dict[str, object] = {"model": text_model, "prompt": "ROMEO:", "max_tokens": 2}
    infer, batch, completions = "/infer", "/infer/batch", "/v1/completions"
    lines = b"\n".join(several)
    return [
        Kind("picture, base64", _post(infer, wire.JSON, json_of["image"]), 24),
        Kind("picture, integers", _post(infer, wire.JSON, integers), 3),
        *(Kind(f"picture, {form}", _encoded(image, form), 10) for form in (wire.MSGPACK, wire.BINCODE)),
        Kind("picture, form", _form(image_model, picture), 8),
        *(Kind(f"text, {form}", _encoded(text, form), 2) for form in wire.MEDIA_TYPES),
        Kind("stream", _encoded(spoken, wire.JSON), 2),
        Kind("batch", _post(batch, wire.JSON, b"[" + b",".join(several) + b"]"), 2),
        Kind("batch, JSON lines in chunks", _chunked(batch, "application/x-ndjson", [lines[:50], lines[50:]]), 2),
        Kind("OpenAI", _post(completions, wire.JSON, json.dumps(openai).encode()), 2),
        Kind("OpenAI, stream", _post(completions, wire.JSON, json.dumps(openai | {"stream": True}).encode()), 1),
        *(Kind(path, _head("GET", path) + b"\r\n", 1) for path in ("/models", "/metrics", "/healthz", "/readyz")),
        Kind("malformed", _post(infer, wire.JSON, b'{"TextGeneration":'), 3, frozenset({400})),
        Kind("unknown model", _encoded(nowhere, wire.JSON), 3, frozenset({404})),
        Kind("no picture", _encoded(no_image, wire.BINCODE), 3, frozenset({422})),
        Kind("unknown type", _post(infer, "text/csv", b"1,2"), 2, frozenset({415})),
        Kind("unknown route", _post("/nowhere", wire.JSON, b"{}"), 2, frozenset({404})),
        Kind("too many headers", _head("GET", "/healthz", *["x: 1"] * 100) + b"\r\n", 1, frozenset({431})),
        Kind("no HTTP", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 1, frozenset({400})),
        Kind("gone in the stream", _encoded(long, wire.JSON), 1, leave_after=200),
        Kind("gone before the answer", _encoded(image, wire.JSON), 3, leave_after=0),
        Kind("gone in the body", _encoded(image, wire.JSON)[:-500], 3, leave_after=0),
    ]


def _head(method: str, path: str, *headers: str) -> bytes:
    return "".join(f"{line}\r\n" for line in (f"{method} {path} HTTP/1.1", "Host: runtime", *headers)).encode()


def _post(path: str, content_type: str, body: bytes) -> bytes:
    return _head("POST", path, f"Content-Type: {content_type}", f"Content-Length: {len(body)}") + b"\r\n" + body


def _encoded(request: InferRequest, media_type: str) -> bytes:
    return _post("/infer", media_type, wire.encode(request, media_type))


def _chunked(path: str, content_type: str, parts: Sequence[bytes]) -> bytes:
    head = _head("POST", path, f"Content-Type: {content_type}", "Transfer-Encoding: chunked")
    return head + b"\r\n" + b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in [*parts, b""])


def _form(model_id: str, picture: bytes) -> bytes:
    parts = [
        b'Content-Disposition: form-data; name="model_id"\r\n\r\n' + model_id.encode(),
        b'Content-Disposition: form-data; name="image"; filename="a.jpg"\r\n\r\n' + picture,
    ]
    body = b"".join(b"--edge\r\n%s\r\n" % part for part in parts) + b"--edge--\r\n"
    return _post("/infer", "multipart/form-data; boundary=edge", body)


@dataclass
class Mixture:
    """Sends kinds by their weights, in an order that the seed decides. `unlike`: what was not answered as it should
    have been, by kind and status; 0 is no answer."""

    url: str
    kinds: Sequence[Kind]
    callers: int = 32
    seed: int = 0

    def __post_init__(self) -> None:
        self.sent: Counter[str] = Counter()
        self.unlike: Counter[tuple[str, int]] = Counter()
        self._dice = random.Random(self.seed)

    async def send(self, count: int) -> None:
        """By all callers, each asking again as soon as it has its answer."""
        order = iter(self._dice.choices(self.kinds, [kind.weight for kind in self.kinds], k=count))
        parts = urlsplit(self.url)
        address = (parts.hostname or "127.0.0.1", parts.port or 80)

        async def ask() -> None:
            connection = _Connection(address)
            for kind in order:
                self.sent[kind.name] += 1
                status = await connection.say(kind)
                if status not in kind.statuses:
                    self.unlike[kind.name, status] += 1
            connection.close()

        await asyncio.gather(*(ask() for _ in range(self.callers)))


class _Connection:
    """Kept as long as the server keeps it."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._address = address
        self._ends: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def say(self, kind: Kind) -> int:
        """The status; 0 where none came, that of success where the client left."""
        try:
            async with asyncio.timeout(ANSWER_S):
                reader, writer = self._ends = self._ends or await asyncio.open_connection(*self._address)
                writer.write(kind.said)
                await writer.drain()
                if kind.leave_after is not None:
                    await reader.readexactly(kind.leave_after)
                    self.close()
                    return 200
                return await self._answer(reader)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, ValueError):
            self.close()
            return 0

    async def _answer(self, reader: asyncio.StreamReader) -> int:
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        if b"\r\ncontent-length:" in head:
            await reader.readexactly(int(head.split(b"\r\ncontent-length:", 1)[1].split(b"\r\n", 1)[0]))
        else:
            while size := int(await reader.readline(), 16):
                await reader.readexactly(size + 2)
            await reader.readline()
        if b"\r\nconnection: close" in head:
            self.close()
        return int(head.split(b" ", 2)[1])

    def close(self) -> None:
        if self._ends is not None:
            self._ends[1].close()
            self._ends = None
