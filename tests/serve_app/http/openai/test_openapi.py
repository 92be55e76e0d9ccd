"""OpenAI's paths in the OpenAPI document."""

from typing import Any

from serve_app.http.openai.openapi import openai_paths


def test_the_schemas_have_the_fields_that_are_used_and_no_others() -> None:
    schemas: dict[str, Any] = {}
    paths = openai_paths(schemas)
    assert {"prompt", "echo", "seed", "top_k"} <= schemas["CompletionBody"]["properties"].keys()
    assert not {"user", "tools"} & schemas["ChatBody"]["properties"].keys()
    assert "429" in paths["/v1/chat/completions"]["post"]["responses"]
