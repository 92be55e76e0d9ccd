"""The defaults of generation_config.json for fields that requests leave out. Knows no tokens and reads no files."""

from collections.abc import Iterable, Mapping

from pydantic import ConfigDict, ValidationError

from deployments.contract.scalars import U32
from deployments.contract.text_generation import SamplingDefaults

DRAWS = {"temperature": 1.0, "top_k": 50}
"""The values of `generate` where a folder samples tokens and has none."""
_DRAWING = ("temperature", "top_k", "top_p", "min_p")
_ALWAYS = {"repetition_penalty": "repetition_penalty", "stop": "stop_strings", "max_tokens": "max_new_tokens"}


class FolderDefaults(SamplingDefaults):
    """The fields of requests that do not set them, as the model's folder has them."""

    model_config = ConfigDict(frozen=True)

    max_tokens: U32 | None = None
    """Only where a protocol lets a request leave it open."""


def folder_defaults(generation: object) -> FolderDefaults:
    """Of a parsed generation_config.json. As `generate` reads it: temperature and the like count where tokens are
    drawn (`do_sample`). What is not valid is left out."""
    if not isinstance(generation, Mapping):
        return FolderDefaults()
    values: dict[str, object] = {field: generation.get(name) for field, name in _ALWAYS.items()}
    if generation.get("do_sample") is True:
        values |= DRAWS | {name: generation[name] for name in _DRAWING if generation.get(name) is not None}
    elif generation.get("do_sample") is False:
        values["temperature"] = 0.0
    return FolderDefaults.model_validate({name: value for name, value in values.items() if _is_valid(name, value)})


def _is_valid(name: str, value: object) -> bool:
    try:
        return FolderDefaults.model_validate({name: value}).model_dump()[name] is not None
    except ValidationError:
        return False


def filled(
    request: SamplingDefaults, sources: Iterable[SamplingDefaults], left_open: Mapping[str, object]
) -> dict[str, object]:
    """The fields that the request does not set, each from the first source that has it, else from `left_open`.

    What stands there was set for want of a value, and gives way to the sources.
    """
    sources = list(sources)
    update = {}
    for name in SamplingDefaults.model_fields.keys() | left_open.keys():
        if getattr(request, name, None) is None or name in left_open:
            found = (getattr(source, name, None) for source in sources)
            value = next((value for value in found if value is not None), left_open.get(name))
            if value is not None:
                update[name] = value
    return update
