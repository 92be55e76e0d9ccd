"""openai-python: completions, chats, tools, structured answers and responses."""

import json

import pytest
from openai import OpenAI
from pydantic import BaseModel


class Place(BaseModel):
    city: str
    people: int


TOOL = {"type": "function", "function": {"name": "weather", "parameters": Place.model_json_schema(), "strict": True}}
ASK = [{"role": "user", "content": "hi"}]


@pytest.fixture
def client(url):
    with OpenAI(base_url=url, api_key="none", max_retries=0) as client:
        yield client


def test_models_completions_and_chats(client):
    assert [model.id for model in client.models.list()] == ["scripted"]
    assert client.completions.create(model="scripted", prompt="hi", logprobs=0).choices[0].text.startswith("Hello")
    answer = client.chat.completions.create(model="scripted", messages=ASK, reasoning_effort="low", store=True)
    assert answer.choices[0].message.content.startswith("Hello")
    assert answer.choices[0].message.reasoning_content == "Let me think."
    stream = client.chat.completions.create(
        model="scripted", messages=ASK, stream=True, stream_options={"include_usage": True}
    )
    *chunks, last = stream
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks).startswith("Hello")
    assert last.usage.total_tokens > 3


def test_an_echoed_prompt_has_its_log_probabilities_in_streams_too(client):
    asked = {"model": "scripted", "prompt": [5, 6, 7], "echo": True, "logprobs": 1}
    [whole] = client.completions.create(**asked).choices
    chunks = [chunk.choices[0] for chunk in client.completions.create(**asked, stream=True)]
    assert "".join(chunk.text for chunk in chunks) == whole.text
    told = [logprob for chunk in chunks if chunk.logprobs for logprob in chunk.logprobs.token_logprobs]
    assert told == whole.logprobs.token_logprobs
    assert told[:3] == [None, -0.5, -0.5]


def test_tools(client):
    messages = list(ASK)
    with client.chat.completions.stream(model="scripted", messages=messages, tools=[TOOL]) as stream:
        message = stream.get_final_completion().choices[0].message
    (call,) = message.tool_calls
    assert json.loads(call.function.arguments) == {"city": "Paris", "people": 7}
    messages += [message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": "12 °C"}]
    answer = client.chat.completions.create(model="scripted", messages=messages, tools=[TOOL])
    assert answer.choices[0].message.content == "They gave 12 °C."
    forced = client.chat.completions.create(model="scripted", messages=ASK, tools=[TOOL], tool_choice="required")
    assert forced.choices[0].message.tool_calls[0].function.name == "weather"


def test_answers_by_a_schema(client):
    answer = client.chat.completions.parse(model="scripted", messages=ASK, response_format=Place)
    assert answer.choices[0].message.parsed == Place(city="Paris", people=7)


def test_responses(client):
    assert client.responses.create(model="scripted", input="hi").output_text.startswith("Hello")
    assert client.responses.parse(model="scripted", input="hi", text_format=Place).output_parsed.people == 7
    tool = {"type": "function", **TOOL["function"]}
    with client.responses.stream(model="scripted", input="hi", tools=[tool]) as stream:
        response = stream.get_final_response()
    assert [item.type for item in response.output] == ["reasoning", "message", "function_call"]
    result = {"type": "function_call_output", "call_id": response.output[-1].call_id, "output": "12 °C"}
    turns = [*ASK, *response.output, result]
    assert client.responses.create(model="scripted", input=turns, tools=[tool]).output_text == "They gave 12 °C."


def test_embeddings_in_the_format_that_the_client_asks_for(client):
    answer = client.embeddings.create(model="scripted", input=["abc", "d"])
    assert [one.embedding[0] for one in answer.data] == [3, 1]
    assert [len(one.embedding) for one in answer.data] == [4, 4]
    assert answer.usage.total_tokens == 4
    (cut,) = client.embeddings.create(model="scripted", input=[5, 6, 7], dimensions=2, encoding_format="float").data
    assert cut.embedding == [3, 0.5]
