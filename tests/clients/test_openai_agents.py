"""OpenAI's Agents: two tools, by responses and by chats, whole and streamed."""

import asyncio

import pytest
from agents import Agent, OpenAIChatCompletionsModel, OpenAIResponsesModel, Runner, function_tool, set_tracing_disabled
from openai import AsyncOpenAI
from pydantic import BaseModel

set_tracing_disabled(True)


class Place(BaseModel):
    city: str
    people: int


@function_tool
def weather(city: str) -> str:
    """The weather in a city."""
    return f"12 °C in {city}"


@function_tool
def time(zone: str) -> str:
    """The time in a zone."""
    return f"noon in {zone}"


@pytest.fixture(params=[OpenAIResponsesModel, OpenAIChatCompletionsModel])
def model(request, url):
    return request.param(model="scripted", openai_client=AsyncOpenAI(base_url=url, api_key="none"))


def test_an_agent_calls_its_two_tools(model):
    agent = Agent("assistant", instructions="Be brief.", model=model, tools=[weather, time])
    assert Runner.run_sync(agent, "hi").final_output == "They gave 12 °C in Paris and noon in Paris."

    async def streamed():
        run = Runner.run_streamed(agent, "hi")
        return [event async for event in run.stream_events()], run.final_output

    events, output = asyncio.run(streamed())
    assert events
    assert output == "They gave 12 °C in Paris and noon in Paris."


def test_a_structured_result(model):
    agent = Agent("assistant", model=model, output_type=Place)
    assert Runner.run_sync(agent, "hi").final_output == Place(city="Paris", people=7)
