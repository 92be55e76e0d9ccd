"""A third family, without a model: it shows what a family is, and that nothing else need change for one."""

import asyncio

from ray.serve import Application

from deployments.family import ReplicaOptions
from deployments.protocol import Call, InferRequest, InferResponse, Text
from serve_app.app import FAMILIES, Family, compose
from serve_app.config import RuntimeConfig


class Echo(InferRequest, index=2):
    text: Text


class EchoResult(InferResponse, index=3):
    text: str


class EchoReplica:
    def __init__(self, options: ReplicaOptions) -> None:
        self.family = options.family

    async def infer(self, call: Call) -> InferResponse:
        assert isinstance(call.request, Echo)
        if call.request.text == "fail":
            raise RuntimeError("a secret that no caller may see")
        if call.request.text == "slow":
            await asyncio.sleep(1)
        return EchoResult(text=call.request.text)

    async def ready(self) -> bool:
        return True


ECHO = Family("echo", Echo, EchoReplica, architectures=None)


def build(args: RuntimeConfig) -> Application:
    return compose(args, (*FAMILIES, ECHO))
