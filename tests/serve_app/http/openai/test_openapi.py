"""OpenAI's paths in the OpenAPI document."""

from typing import Any

from serve_app.http.openai.openapi import openai_paths


def test_the_schemas_have_the_fields_that_are_used_and_what_is_taken_of_others() -> None:
    schemas: dict[str, Any] = {}
    paths = openai_paths(schemas)
    assert {"prompt", "echo", "seed", "top_k"} <= schemas["CompletionBody"]["properties"].keys()
    assert schemas["ChatBody"]["properties"]["user"] == {}
    assert schemas["ChatBody"]["properties"]["typical_p"] == {"enum": [1, None]}
    assert "429" in paths["/v1/chat/completions"]["post"]["responses"]
