"""A family that answers a hundred requests a second and no more: each has the one device for ten milliseconds."""

import asyncio
import time

from deployments.contract.types import InferRequest, InferResponse, Text
from deployments.replica.calls import Call, OnChunk
from deployments.replica.family import Family
from deployments.replica.model_replica import ReplicaOptions
from deployments.replica.replica import Replica

TAKES_S = 0.01


class Paced(InferRequest, index=1001):
    text: Text


class PacedResult(InferResponse, index=1001):
    text: str
    idle_ms: float
    """How long the device had stood idle before."""


class PacedReplica(Replica):
    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__()
        self.device = asyncio.Lock()
        self.free_since = time.perf_counter()

    async def infer(self, call: Call, on_chunk: OnChunk | None = None) -> InferResponse:
        assert isinstance(call.request, Paced)
        async with self.device:
            idle_s = time.perf_counter() - self.free_since
            try:
                await asyncio.sleep(TAKES_S)
            finally:
                self.free_since = time.perf_counter()
        return PacedResult(text=call.request.text, idle_ms=idle_s * 1e3)


PACED = Family(name="paced", request=Paced, result=PacedResult, deployment="benchmarks.http.paced:PacedReplica")
