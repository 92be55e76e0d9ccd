"""The replicas of the benchmarks' families."""

import asyncio
import time

from benchmarks.http.echo import Measured, MeasuredResult
from benchmarks.http.paced import TAKES_S, Paced, PacedResult
from deployments.contract.types import InferResponse
from deployments.replica.calls import Call, OnChunk
from deployments.replica.model_replica import ReplicaOptions
from deployments.replica.replica import Replica


class MeasuredReplica(Replica):
    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__()

    async def infer(self, call: Call, on_chunk: OnChunk | None = None) -> InferResponse:
        assert isinstance(call.request, Measured)
        return MeasuredResult(size=len(call.request.image_data))


class PacedReplica(Replica):
    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__()
        self.device = asyncio.Lock()
        self.idle_since = time.perf_counter()

    async def infer(self, call: Call, on_chunk: OnChunk | None = None) -> InferResponse:
        assert isinstance(call.request, Paced)
        async with self.device:
            idle_s = time.perf_counter() - self.idle_since
            try:
                await asyncio.sleep(TAKES_S if call.request.takes_ms is None else call.request.takes_ms / 1e3)
            finally:
                self.idle_since = time.perf_counter()
        return PacedResult(text=call.request.text, idle_ms=idle_s * 1e3)
