"""langchain-openai: an agent with two tools, a structured answer, the same by /v1/responses."""

import pytest
from langchain.agents import create_agent
from langchain_openai import ChatOpenAI, OpenAI, OpenAIEmbeddings
from pydantic import BaseModel


class Place(BaseModel):
    """A place."""

    city: str
    people: int


def weather(city: str) -> str:
    """The weather in a city."""
    return f"12 °C in {city}"


def time(zone: str) -> str:
    """The time in a zone."""
    return f"noon in {zone}"


@pytest.mark.parametrize("responses", [False, True])
def test_an_agent_calls_its_two_tools(url, responses):
    model = ChatOpenAI(model="scripted", base_url=url, api_key="none", use_responses_api=responses)
    agent = create_agent(model, [weather, time], system_prompt="Be brief.")
    *_, last = agent.invoke({"messages": [("user", "hi")]})["messages"]
    assert last.text == "They gave 12 °C in Paris and noon in Paris."
    *_, (chunk, _) = agent.stream({"messages": [("user", "hi")]}, stream_mode="messages")
    assert chunk is not None


@pytest.mark.parametrize("method", ["json_schema", "function_calling", "json_mode"])
def test_a_structured_answer(url, method):
    model = ChatOpenAI(model="scripted", base_url=url, api_key="none")
    if method == "json_mode":
        assert model.with_structured_output(None, method=method).invoke("JSON, please") == {}
    else:
        assert model.with_structured_output(Place, method=method).invoke("hi") == Place(city="Paris", people=7)


def test_embeddings_of_one_and_of_many(url):
    embedder = OpenAIEmbeddings(model="scripted", base_url=url, api_key="none", check_embedding_ctx_length=False)
    assert embedder.embed_query("abc") == pytest.approx([3, 0.5, -0.25, 0.1])
    texts = ["a" * (n % 9) for n in range(1100)]  # sent in two requests
    assert [vector[0] for vector in embedder.embed_documents(texts)] == [len(text) for text in texts]


def test_texts_whole_and_in_parts(url):
    chat = ChatOpenAI(model="scripted", base_url=url, api_key="none", temperature=0, presence_penalty=0.1)
    assert chat.invoke("hi").text.startswith("Hello")
    assert "".join(chunk.text for chunk in chat.stream("hi")).startswith("Hello")
    assert OpenAI(model="scripted", base_url=url, api_key="none").invoke("hi").startswith("Hello")
