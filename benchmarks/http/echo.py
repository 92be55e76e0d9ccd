"""A family without a model that answers at once: what is left is the way there and back."""

from deployments.contract.types import InferRequest, InferResponse
from deployments.replica.calls import Call, OnChunk
from deployments.replica.family import Family
from deployments.replica.model_replica import ReplicaOptions
from deployments.replica.replica import Replica


class Measured(InferRequest, index=1000):
    image_data: bytes


class MeasuredResult(InferResponse, index=1000):
    size: int


class MeasuredReplica(Replica):
    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__()

    async def infer(self, call: Call, on_chunk: OnChunk | None = None) -> InferResponse:
        assert isinstance(call.request, Measured)
        return MeasuredResult(size=len(call.request.image_data))


ECHO = Family(name="echo", request=Measured, result=MeasuredResult, deployment="benchmarks.http.echo:MeasuredReplica")
