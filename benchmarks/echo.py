"""A family without a model that answers at once: what is left is the way there and back."""

from deployments.family import ReplicaOptions
from deployments.protocol import Call, InferRequest, InferResponse
from serve_app.app import Family


class Measured(InferRequest, index=1000):
    image_data: bytes


class MeasuredResult(InferResponse, index=1000):
    size: int


class MeasuredReplica:
    def __init__(self, options: ReplicaOptions) -> None:
        self.family = options.family

    async def infer(self, call: Call) -> InferResponse:
        assert isinstance(call.request, Measured)
        return MeasuredResult(size=len(call.request.image_data))

    async def ready(self) -> bool:
        return True


ECHO = Family("echo", Measured, MeasuredReplica, architectures=None)
