"""What a folder says of requests that say nothing, as `generate` reads it, and which source comes first."""

import pytest

from deployments.contract.generation import FolderDefaults, filled, folder_defaults
from deployments.contract.text_generation import SamplingDefaults
from deployments.contract.types import TextGeneration

SILENT = TextGeneration(model_id="m", prompt="p", max_tokens=16)


@pytest.mark.parametrize(
    ("generation", "expected"),
    [
        ({}, {}),
        ([], {}),
        ({"temperature": 0.6, "top_p": 0.9}, {}),
        ({"do_sample": False, "temperature": 0.6}, {"temperature": 0.0}),
        ({"do_sample": True}, {"temperature": 1.0, "top_k": 50}),
        (
            {"do_sample": True, "temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.1},
            {"temperature": 0.6, "top_k": 20, "top_p": 0.9, "min_p": 0.1},
        ),
        ({"do_sample": True, "top_k": 0, "temperature": None}, {"temperature": 1.0, "top_k": 0}),
        (
            {"repetition_penalty": 1.1, "stop_strings": ["\n"], "max_new_tokens": 9},
            {"repetition_penalty": 1.1, "stop": ["\n"], "max_tokens": 9},
        ),
        ({"do_sample": True, "temperature": "hot", "top_k": -1, "repetition_penalty": 0}, {}),
    ],
)
def test_generation_config_gives_the_defaults_that_generate_would_take(
    generation: object, expected: dict[str, object]
) -> None:
    assert folder_defaults(generation) == FolderDefaults.model_validate(expected)


def test_the_request_comes_first_then_each_source_in_turn_then_the_protocol() -> None:
    manifest, folder = SamplingDefaults(top_k=5), FolderDefaults(temperature=0.6, top_k=20, max_tokens=9)
    asked = SILENT.model_copy(update={"top_p": 0.5})
    assert filled(asked, [manifest, folder], {"temperature": 1.0}) == {"temperature": 0.6, "top_k": 5}
    assert filled(asked, [manifest], {"temperature": 1.0}) == {"temperature": 1.0, "top_k": 5}
    assert filled(asked.model_copy(update={"temperature": 0.0}), [folder], {}) == {"top_k": 20}


def test_a_length_is_the_folders_only_where_the_protocol_leaves_it_open() -> None:
    folder = FolderDefaults(max_tokens=9)
    assert filled(SILENT, [folder], {}) == {}
    assert filled(SILENT, [folder], {"max_tokens": 16}) == {"max_tokens": 9}
    assert filled(SILENT, [], {"max_tokens": 16}) == {"max_tokens": 16}
