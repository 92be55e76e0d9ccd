"""instructor: a structured answer in its modes."""

import instructor
import pytest
from openai import OpenAI
from pydantic import BaseModel


class Place(BaseModel):
    city: str
    people: int


@pytest.mark.parametrize("mode", [instructor.Mode.TOOLS, instructor.Mode.JSON_SCHEMA])
def test_a_structured_answer(url, mode):
    client = instructor.from_openai(OpenAI(base_url=url, api_key="none"), mode=mode)
    ask = [{"role": "user", "content": "hi"}]
    place = client.create(model="scripted", messages=ask, response_model=Place)
    assert (place.city, place.people) == ("Paris", 7)
