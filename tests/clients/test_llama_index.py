"""llama-index: OpenAILike, an agent with two tools."""

import asyncio

import pytest
from llama_index.core.agent.workflow import FunctionAgent
from llama_index.core.llms import ChatMessage
from llama_index.embeddings.openai_like import OpenAILikeEmbedding
from llama_index.llms.openai_like import OpenAILike


def weather(city: str) -> str:
    """The weather in a city."""
    return f"12 °C in {city}"


def time(zone: str) -> str:
    """The time in a zone."""
    return f"noon in {zone}"


def model(url):
    return OpenAILike(
        model="scripted", api_base=url, api_key="none", is_chat_model=True, is_function_calling_model=True
    )


def test_texts_whole_and_in_parts(url):
    llm = model(url)
    assert str(llm.complete("hi")).startswith("Hello")
    assert llm.chat([ChatMessage(role="user", content="hi")]).message.content.startswith("Hello")
    assert [part.delta for part in llm.stream_chat([ChatMessage(role="user", content="hi")])]


def test_an_agent_calls_its_two_tools(url):
    async def asked():
        return await FunctionAgent(tools=[weather, time], llm=model(url)).run("hi")

    assert "12 °C in Paris and noon in Paris" in str(asyncio.run(asked()))


def test_embeddings_of_one_and_of_many(url):
    embedder = OpenAILikeEmbedding(model_name="scripted", api_base=url, api_key="none", embed_batch_size=3)
    assert embedder.get_query_embedding("abc") == pytest.approx([3, 0.5, -0.25, 0.1])
    assert [vector[0] for vector in embedder.get_text_embedding_batch(["a", "bb", "ccc", "d"])] == [1, 2, 3, 1]
    smaller = OpenAILikeEmbedding(model_name="scripted", api_base=url, api_key="none", dimensions=2)
    assert len(smaller.get_text_embedding("abc")) == 2
