"""Triton's own client, which speaks the Open Inference Protocol: binary tensors are its default."""

import numpy
import pytest
import tritonclient.grpc
from tritonclient.http import InferenceServerClient, InferenceServerException, InferInput, InferRequestedOutput


@pytest.fixture
def triton(url):
    with InferenceServerClient(url.removeprefix("http://").removesuffix("/v1")) as client:
        yield client


def inputs(binary, *prompts):
    texts, lengths = InferInput("prompt", [len(prompts)], "BYTES"), InferInput("max_tokens", [len(prompts)], "UINT32")
    texts.set_data_from_numpy(numpy.array(prompts, dtype=object), binary_data=binary)
    lengths.set_data_from_numpy(numpy.full(len(prompts), 50, dtype=numpy.uint32), binary_data=binary)
    return [texts, lengths]


def test_it_asks_how_the_server_and_the_model_are(triton):
    assert triton.is_server_live()
    assert triton.is_server_ready()
    assert triton.is_model_ready("scripted")
    assert triton.is_model_ready("scripted", "1")
    assert not triton.is_model_ready("none")
    assert "binary_tensor_data" in triton.get_server_metadata()["extensions"]
    assert [one["name"] for one in triton.get_model_metadata("scripted")["inputs"]] == ["prompt", "max_tokens"]


@pytest.mark.parametrize("binary", [True, False])
@pytest.mark.parametrize("version", ["", "1"])
def test_it_infers(triton, binary, version):
    wanted = [InferRequestedOutput("generated_text", binary_data=binary)]
    result = triton.infer("scripted", inputs(binary, "hi", "ho"), version, wanted, request_id="7", timeout=9_000_000)
    assert result.get_response()["id"] == "7"
    assert [text if isinstance(text, str) else text.decode() for text in result.as_numpy("generated_text")] == [
        "Hello from the script."
    ] * 2


def test_it_infers_without_naming_outputs_and_at_once(triton):
    answers = [triton.async_infer("scripted", inputs(True, "hi")) for _ in range(3)]
    for answer in answers:
        assert answer.get_result().as_numpy("finish_reason")[0] == b"stop"


def test_it_raises_the_error_of_the_server(triton):
    with pytest.raises(InferenceServerException, match="no model 'none'"):
        triton.infer("none", inputs(True, "hi"))


def test_it_infers_over_grpc(grpc_address):
    with tritonclient.grpc.InferenceServerClient(grpc_address) as client:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("scripted", "1")
        assert [one.name for one in client.get_model_metadata("scripted").inputs] == ["prompt", "max_tokens"]
        texts = tritonclient.grpc.InferInput("prompt", [2], "BYTES")
        texts.set_data_from_numpy(numpy.array(["hi", "ho"], dtype=object))
        lengths = tritonclient.grpc.InferInput("max_tokens", [2], "UINT32")
        lengths.set_data_from_numpy(numpy.full(2, 50, dtype=numpy.uint32))
        result = client.infer("scripted", [texts, lengths], request_id="7", timeout=9_000_000)
        assert list(result.as_numpy("generated_text")) == [b"Hello from the script."] * 2
        with pytest.raises(InferenceServerException, match="no model 'none'"):
            client.infer("none", [texts, lengths])
