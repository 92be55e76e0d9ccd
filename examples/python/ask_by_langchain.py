"""LangChain: a text, the same in parts, and an agent with a tool. `pip install langchain langchain-openai`.

python examples/python/ask_by_langchain.py http://127.0.0.1:8000/v1 MODEL
A tool is called by a chat model whose template knows tools, such as Qwen's.
"""

import sys

from langchain.agents import create_agent
from langchain_openai import ChatOpenAI


def weather(city: str) -> str:
    """The weather in a city."""
    return f"12 °C in {city}"


_, url, name = sys.argv
model = ChatOpenAI(model=name, base_url=url, api_key="none")  # or a key of `model-runtime keys new`
print(model.invoke("What is a lighthouse?").text)
for chunk in model.stream("What is a lighthouse?"):
    print(chunk.text, end="", flush=True)
print()
agent = create_agent(model, [weather], system_prompt="Answer in one sentence.")
print(agent.invoke({"messages": [("user", "Do I need a coat in Paris?")]})["messages"][-1].text)
