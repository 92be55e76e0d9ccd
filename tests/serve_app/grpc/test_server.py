"""The port beside inference: health, reflection, and that it ends in good order."""

import asyncio
import socket
import ssl
from typing import Any

import grpc
import pytest
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection_pb2_grpc import ServerReflectionStub

from serve_app.access.api_keys import AccessSettings, KeySettings, new_key
from serve_app.grpc.server import SERVICE, GrpcServer
from serve_app.grpc.stubs.inference_pb2_grpc import InferenceStub
from tests.serve_app.front.test_tls import CERTIFICATE, KEY
from tests.serve_app.grpc.test_service import endless, message
from tests.support.http_runtimes import SIGNATURES, FakeRuntime
from tests.support.until import until

SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


async def health_of(channel: Any, service: str = SERVICE) -> int:
    stub = health_pb2_grpc.HealthStub(channel)
    return int((await stub.Check(health_pb2.HealthCheckRequest(service=service))).status)


async def listed(channel: Any) -> list[str]:
    async def requests() -> Any:
        yield reflection_pb2.ServerReflectionRequest(list_services="")

    async for reply in ServerReflectionStub(channel).ServerReflectionInfo(requests()):
        return [service.name for service in reply.list_services_response.service]
    return []


async def test_health_is_that_of_readyz_and_needs_no_key(channel: Any, runtime: FakeRuntime) -> None:
    runtime.access.update(AccessSettings(keys={"team": KeySettings(sha256=new_key()[1])}))
    await until_health(channel, SERVING)
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await health_of(channel, "none")
    assert raised.value.code() is grpc.StatusCode.NOT_FOUND


async def until_health(channel: Any, expected: int) -> None:
    async with asyncio.timeout(10):
        while await health_of(channel) != expected:
            await asyncio.sleep(0)


async def test_a_runtime_that_is_not_ready_is_not_serving(runtime: FakeRuntime) -> None:
    runtime.is_ready = False
    server = GrpcServer("127.0.0.1:0", runtime.settings, runtime.access, runtime, runtime, SIGNATURES)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        await until_health(channel, NOT_SERVING)
    await server.close()


async def test_reflection_names_the_services_and_their_messages(channel: Any) -> None:
    assert set(await listed(channel)) == {
        SERVICE,
        "inference.GRPCInferenceService",
        "grpc.health.v1.Health",
        "grpc.reflection.v1alpha.ServerReflection",
    }

    async def requests() -> Any:
        yield reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)

    pool = DescriptorPool()
    async for reply in ServerReflectionStub(channel).ServerReflectionInfo(requests()):
        for file in reply.file_descriptor_response.file_descriptor_proto:
            pool.AddSerializedFile(file)
    variants = pool.FindMessageTypeByName("model_runtime.v1.InferRequest").oneofs_by_name["variant"]
    assert {"text_generation", "image_classification", "object_detection"} <= {field.name for field in variants.fields}


async def test_reflection_needs_a_key_where_there_are_keys(channel: Any, runtime: FakeRuntime) -> None:
    runtime.access.update(AccessSettings(keys={"team": KeySettings(sha256=new_key()[1])}))
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await listed(channel)
    assert raised.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_server_that_closes_accepts_nothing_new_and_ends_what_does_not(
    runtime: FakeRuntime, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("serve_app.grpc.server.LONGEST_REQUEST_S", 0.01)
    runtime.script = endless
    server = GrpcServer("127.0.0.1:0", runtime.settings, runtime.access, runtime, runtime, SIGNATURES)
    await server.start()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        call = InferenceStub(channel).Infer(message())  # type: ignore[no-untyped-call]
        await until(lambda: runtime.under_way == 1)
        await server.close()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    await until(lambda: runtime.under_way == 0)


def certificate_at(port: int) -> str:
    """What a client of HTTP/2 is shown. Its dates are not looked at: the machine's clock is not the test's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with socket.create_connection(("127.0.0.1", port), 10) as plain, context.wrap_socket(plain) as encrypted:
        assert encrypted.selected_alpn_protocol() == "h2"
        return ssl.DER_cert_to_PEM_cert(encrypted.getpeercert(binary_form=True) or b"")


async def test_with_a_certificate_the_port_speaks_tls_alone(runtime: FakeRuntime) -> None:
    files = (CERTIFICATE, KEY)
    server = GrpcServer("127.0.0.1:0", runtime.settings, runtime.access, runtime, runtime, SIGNATURES, files)
    await server.start()
    assert await asyncio.to_thread(certificate_at, server.port) == CERTIFICATE.read_text()
    async with grpc.aio.insecure_channel(f"127.0.0.1:{server.port}") as channel:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await health_of(channel)
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    await server.close()
