"""A further family, without a model: it shows what a family is, and that nothing else need change for one."""

import asyncio
import os
import resource

from ray.serve import Application

from deployments.contract.scalars import Text
from deployments.contract.settings import FamilySettings
from deployments.contract.types import InferRequest, InferResponse
from deployments.families.table import FAMILIES
from deployments.replica.calls import Call, OnChunk
from deployments.replica.family import Family
from deployments.replica.model_replica import ReplicaOptions
from deployments.replica.replica import Replica
from serve_app.app import compose
from serve_app.config.config import RuntimeConfig


class Echo(InferRequest, index=100):
    text: Text


class EchoResult(InferResponse, index=100):
    text: str


class EchoReplica(Replica):
    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__()
        self.family = options.family.name

    async def infer(self, call: Call, on_chunk: OnChunk | None = None) -> InferResponse:
        assert isinstance(call.request, Echo)
        if call.request.text == "fail":
            raise RuntimeError("a secret that no caller may see")
        if call.request.text.startswith("slow"):
            await asyncio.sleep(1)
        if call.request.text == "crash":
            resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
            os.abort()
        if call.request.text == "endless":
            await asyncio.Event().wait()
        return EchoResult(text=call.request.text)


ECHO = Family(name="echo", request=Echo, result=EchoResult, deployment="tests.support.echo:EchoReplica")

PATIENT = {"echo": FamilySettings(deadline_s=240)}
"""Its settings for tests whose replicas start anew, on a machine that may be busy."""


def build(args: RuntimeConfig) -> Application:
    return compose(args, (*FAMILIES, ECHO))
