"""The gRPC server of an ingress replica: inference, health checking and reflection on one port. Starts nothing else.

Ray Serve's own gRPC proxy is not used. It is configured where Serve is started, so that `serve run` into a Serve that
runs would have none; it leaves out the client's deadline; and it has no grpc.health.v1.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2_grpc
from grpc_health.v1.health import SERVICE_NAME as HEALTH
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_reflection.v1alpha import reflection
from starlette.datastructures import Headers

from deployments.contract.errors import ServingError
from deployments.contract.failures import error_of
from deployments.contract.settings import LONGEST_REQUEST_S
from serve_app.access.api_keys import Access
from serve_app.config.config import IngressSettings
from serve_app.grpc.oip_service import OIP_SERVICE, OipService
from serve_app.grpc.service import ROUTE, InferenceService, metadata_of, refuse
from serve_app.grpc.stubs import inference_pb2 as pb
from serve_app.grpc.stubs.inference_pb2_grpc import add_InferenceServicer_to_server
from serve_app.http.interfaces import Operations, Runtime
from serve_app.http.middleware import BodyMemory
from serve_app.http.oip.inference import Inference
from serve_app.http.oip.requests import Signature
from serve_app.http.requests import request_id_of

SERVICE = pb.DESCRIPTOR.services_by_name["Inference"].full_name
CONCURRENT_RPCS = 1024
HEALTH_EVERY_S = 5.0


class GrpcServer:
    """Listens on `address` (`host:port`) from `start` to `close`. `port`: the one that it has."""

    def __init__(
        self,
        address: str,
        settings: IngressSettings,
        access: Access,
        runtime: Runtime,
        operations: Operations,
        signatures: Mapping[str, Signature],
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        """`tls`: the files of a certificate and its key; the port then speaks TLS alone."""
        self._operations = operations
        limit = settings.max_body_bytes
        # gRPC refuses what is larger unread, with RESOURCE_EXHAUSTED; what is a little too large, the service.
        options = [("grpc.max_receive_message_length", 2 * limit), ("grpc.max_send_message_length", -1)]
        self._server = grpc.aio.server(
            interceptors=[_Guard(access)], options=options, maximum_concurrent_rpcs=CONCURRENT_RPCS
        )
        memory = BodyMemory(int(settings.max_held_mb * 2**20))
        service = InferenceService(runtime, access, memory, limit)
        add_InferenceServicer_to_server(service, self._server)  # type: ignore[no-untyped-call]
        oip = OipService(Inference(access, runtime, operations, signatures), service)
        self._server.add_generic_rpc_handlers((oip.handlers(),))
        self._health = health.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._server)
        reflection.enable_server_reflection((SERVICE, OIP_SERVICE, HEALTH, reflection.SERVICE_NAME), self._server)
        if tls is None:
            self.port: int = self._server.add_insecure_port(address)
        else:
            certificate, key = (file.read_bytes() for file in tls)
            self.port = self._server.add_secure_port(address, grpc.ssl_server_credentials([(key, certificate)]))
        self._following: asyncio.Task[None] | None = None

    async def start(self) -> None:
        await self._server.start()
        self._following = asyncio.create_task(self._follow_health())

    async def close(self) -> None:
        """Accepts no more requests and answers those that it has."""
        if self._following is not None:
            self._following.cancel()
            with suppress(asyncio.CancelledError):
                await self._following
        await self._server.stop(LONGEST_REQUEST_S)

    async def _follow_health(self) -> None:
        while True:
            status = HealthCheckResponse.SERVING
            if await self._operations.not_ready():
                status = HealthCheckResponse.NOT_SERVING
            for service in ("", SERVICE, OIP_SERVICE):
                await self._health.set(service, status)
            await asyncio.sleep(HEALTH_EVERY_S)


class _Guard(grpc.aio.ServerInterceptor):  # type: ignore[misc] # grpc has no types
    """Refuses callers without a key before their message is read. Health needs none, as over HTTP."""

    def __init__(self, access: Access) -> None:
        self._access = access

    async def intercept_service(self, continuation: Callable[[Any], Awaitable[Any]], details: Any) -> Any:
        if details.method.startswith(f"/{HEALTH}/"):
            return await continuation(details)
        headers = metadata_of(details.invocation_metadata)
        try:
            self._access.check(self._access.caller("POST", ROUTE, headers))
        except ServingError as failure:
            error = error_of(failure, request_id_of(Headers(headers)))

            async def refused(requests: Any, context: Any) -> None:
                await refuse(context, error)

            return grpc.stream_stream_rpc_method_handler(refused)
        return await continuation(details)
