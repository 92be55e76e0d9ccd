"""A family without a model that answers at once: what is left is the way there and back. Imports no Ray."""

from deployments.contract.types import InferRequest, InferResponse
from deployments.replica.family import Family


class Measured(InferRequest, index=1000):
    image_data: bytes


class MeasuredResult(InferResponse, index=1000):
    size: int


ECHO = Family(
    name="echo", request=Measured, result=MeasuredResult, deployment="benchmarks.http.replicas:MeasuredReplica"
)
