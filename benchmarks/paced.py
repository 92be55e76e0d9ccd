"""A family that answers a hundred requests a second and no more: each has the one device for ten milliseconds."""

import asyncio

from deployments.calls import Call, Tell
from deployments.family import ReplicaOptions
from deployments.protocol import InferRequest, InferResponse, Text
from deployments.replica import Replica
from serve_app.app import Family

TAKES_S = 0.01


class Paced(InferRequest, index=1001):
    text: Text


class PacedResult(InferResponse, index=1001):
    text: str


class PacedReplica(Replica):
    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__()
        self.family = options.family
        self.device = asyncio.Lock()

    async def infer(self, call: Call, tell: Tell | None = None) -> InferResponse:
        assert isinstance(call.request, Paced)
        async with self.device:
            await asyncio.sleep(TAKES_S)
        return PacedResult(text=call.request.text)


PACED = Family("paced", Paced, PacedReplica, architectures=None)
