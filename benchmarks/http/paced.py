"""A family that answers a hundred requests a second and no more: each has the one device for ten milliseconds, or for
as long as it says.

Imports no Ray.
"""

from deployments.contract.scalars import U32, Text
from deployments.contract.types import InferRequest, InferResponse
from deployments.replica.family import Family

TAKES_S = 0.01


class Paced(InferRequest, index=1001):
    text: Text
    takes_ms: U32 | None = None


class PacedResult(InferResponse, index=1001):
    text: str
    idle_ms: float
    """How long the device was idle before."""


PACED = Family(name="paced", request=Paced, result=PacedResult, deployment="benchmarks.http.replicas:PacedReplica")
