"""pydantic-ai: two tools and a structured result, by chats and by responses."""

import pytest
from pydantic import BaseModel
from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Place(BaseModel):
    city: str
    people: int


@pytest.fixture(params=[OpenAIChatModel, OpenAIResponsesModel])
def model(request, url):
    return request.param("scripted", provider=OpenAIProvider(base_url=url, api_key="none"))


def with_tools(agent):
    @agent.tool_plain
    def weather(city: str) -> str:
        """The weather in a city."""
        return f"12 °C in {city}"

    @agent.tool_plain
    def time(zone: str) -> str:
        """The time in a zone."""
        return f"noon in {zone}"

    return agent


def test_an_agent_calls_its_two_tools(model):
    agent = with_tools(Agent(model, instructions="Be brief."))
    assert agent.run_sync("hi").output == "They gave 12 °C in Paris and noon in Paris."


@pytest.mark.parametrize("form", [Place, NativeOutput(Place)])
def test_a_structured_result(model, form):
    assert Agent(model, output_type=form).run_sync("hi").output == Place(city="Paris", people=7)


def test_a_structured_result_after_a_tool(model):
    assert with_tools(Agent(model, output_type=Place)).run_sync("hi").output == Place(city="Paris", people=7)
