"""docs/openai.md says of every field of OpenAI's specification and of vLLM's additions what becomes of it."""

from collections.abc import Collection
from typing import Any

import pytest
from openai.types import completion_create_params as completions
from openai.types.chat import completion_create_params as chats
from openai.types.responses import response_create_params as responses

from serve_app.http.openai.chat import ChatBody
from serve_app.http.openai.fields import HINTS
from serve_app.http.openai.requests import CompletionBody, RequestBody
from serve_app.http.openai.response_body import ResponseBody
from tests.support import PROJECT

_VLLM = """
add_generation_prompt add_special_tokens allowed_token_ids bad_words cache_salt chat_template chat_template_kwargs
continue_final_message documents echo ec_transfer_params ignore_eos include_reasoning include_stop_str_in_output
kv_transfer_params length_penalty logprob_token_ids media_io_kwargs min_p min_tokens mm_processor_kwargs priority
prompt_embeds prompt_logprobs repetition_detection repetition_penalty request_id response_format return_mm_kwargs
return_prompt_text return_token_ids return_token_offsets return_tokens_as_token_ids routed_experts_prompt_start
session_id skip_special_tokens spaces_between_special_tokens stop_token_ids stream_interval structured_outputs
thinking_token_budget top_k truncate_prompt_tokens truncation_side use_beam_search vllm_xargs watermarking
"""
VLLM = _VLLM.split()
"""Of its completions and chats at 002032e."""
BODIES: dict[type[RequestBody], Any] = {
    CompletionBody: completions.CompletionCreateParamsBase,
    ChatBody: chats.CompletionCreateParamsBase,
    ResponseBody: responses.ResponseCreateParamsBase,
}


def state(body: type[RequestBody], field: str) -> str:
    if field in body.model_fields:
        return "used"
    if field in HINTS:
        return "ignored"
    return "refused" if field in body.unsupported else ""


def table() -> list[str]:
    fields = sorted(
        {*VLLM, "stream", *(name for body in BODIES for name in (*body.model_fields, *openai_fields(body)))}
    )
    return [f"| `{field}` | {' | '.join(state(body, field) for body in BODIES)} |" for field in fields]


def openai_fields(body: type[RequestBody]) -> Collection[str]:
    names: Collection[str] = BODIES[body].__annotations__.keys()
    return names


@pytest.mark.parametrize("body", BODIES)
def test_each_field_of_openais_specification_is_used_ignored_or_refused_by_name(body: type[RequestBody]) -> None:
    assert [field for field in openai_fields(body) if not state(body, field)] == []


def test_each_field_of_vllms_is_used_ignored_or_refused_by_name() -> None:
    assert [field for field in VLLM if not state(ChatBody, field) and not state(CompletionBody, field)] == []


def test_the_table_has_every_field_with_its_state() -> None:
    text = (PROJECT / "docs" / "openai.md").read_text("utf-8")
    rows = [line.replace("|  |", "| |").replace("|  |", "| |") for line in table()]
    start = text.index("| field | completions | chat | responses |")
    assert text[start:].split("\n\n")[0].splitlines()[2:] == rows
