"""LiteLLM: chats, streams, tools, responses."""

import litellm
import pytest

TOOL = {
    "type": "function",
    "function": {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}},
}
ASK = [{"role": "user", "content": "hi"}]


def test_chats_streams_and_tools(url):
    fields = {"model": "openai/scripted", "api_base": url, "api_key": "none", "messages": ASK}
    message = litellm.completion(**fields, temperature=0, max_tokens=50).choices[0].message
    assert message.content.startswith("Hello")
    assert message.reasoning_content == "Let me think."
    parts = [chunk.choices[0].delta.content or "" for chunk in litellm.completion(**fields, stream=True)]
    assert "".join(parts).startswith("Hello")
    (call,) = litellm.completion(**fields, tools=[TOOL]).choices[0].message.tool_calls
    assert (call.function.name, call.function.arguments) == ("weather", '{"city": "Paris"}')
    chunks = list(litellm.completion(**fields, tools=[TOOL], stream=True))
    whole = litellm.stream_chunk_builder(chunks, messages=ASK)
    assert whole.choices[0].message.tool_calls[0].function.arguments == '{"city": "Paris"}'


def test_responses(url):
    answer = litellm.responses(model="openai/scripted", api_base=url, api_key="none", input="hi")
    assert answer.output[-1].content[0].text.startswith("Hello")


@pytest.mark.parametrize("form", [None, "float", "base64"])
def test_embeddings(url, form):
    answer = litellm.embedding(
        model="openai/scripted", api_base=url, api_key="none", input=["abc", "d"], encoding_format=form
    )
    assert answer.usage.prompt_tokens == 4
    if form != "base64":
        assert [one["embedding"][0] for one in answer.data] == [3, 1]
