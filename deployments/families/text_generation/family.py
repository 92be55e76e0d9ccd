"""The row of the TextGeneration family. Imports neither torch nor Ray."""

from collections.abc import Collection, Mapping
from operator import attrgetter
from pathlib import Path
from typing import Annotated

from pydantic import Field

from deployments.contract.errors import quoted
from deployments.contract.settings import FamilySettings
from deployments.contract.types import InferResponse, TextGeneration, TextGenerationResult
from deployments.replica.family import Argument, Command, Family, Sample
from deployments.repository.diagnosis import without_tokenizer
from deployments.repository.families import architectures
from deployments.validation.golden import GoldenExample

SAMPLE_PROMPT = "ROMEO:"
# As deployments.engines.text.folder.architecture reads them from the configuration of a model that is loaded.
_LENGTHS = (
    *("max_position_embeddings", "n_positions", "max_seq_len", "max_sequence_length"),
    *("seq_length", "context_length", "model_max_length"),
)
_STRETCHED = ("linear", "dynamic", "yarn")


class TextGenerationOptions(FamilySettings):
    """The settings of a text deployment."""

    READ_AT_START = FamilySettings.READ_AT_START | {"folder_defaults"}

    folder_defaults: bool = True
    """Whether a folder's generation_config.json has the defaults of requests; model.yaml goes first."""


class GoldenText(GoldenExample):
    """A prompt and its greedy continuation."""

    prompt: str
    max_tokens: Annotated[int, Field(ge=1)]
    text: str

    @property
    def title(self) -> str:
        return self.prompt

    def request(self, model_id: str, folder: Path) -> TextGeneration:
        # Greedy, whatever the model's own defaults are.
        return TextGeneration(model_id=model_id, prompt=self.prompt, max_tokens=self.max_tokens, temperature=0.0)

    def fault(self, answer: InferResponse) -> str | None:
        if not isinstance(answer, TextGenerationResult):
            return f"answered with {type(answer).__name__}"
        if answer.generated_text != self.text:
            return f"{quoted(answer.generated_text)} instead of {quoted(self.text)}"
        return None


def matches(config: Mapping[str, object]) -> bool:
    """Also models for texts and pictures, whose texts are served. T5 and Whisper, which have no part that continues
    texts, have the ending too."""
    endings: tuple[str, ...] = ("ForCausalLM", "LMHeadModel")
    if "text_config" in config or "vision_config" in config:
        endings += ("ForConditionalGeneration",)
    return any(name.endswith(endings) for name in architectures(config))


def context_of(config: Mapping[str, object]) -> int | None:
    """Tokens of prompt and text together; None where config.json leaves it to its class in transformers."""
    parts = [config.get(name) for name in ("text_config", "decoder", "generator")]
    for part in (*parts, config):
        if isinstance(part, Mapping):
            lengths = [part.get(name) for name in _LENGTHS]
            length = next((one for one in lengths if type(one) is int and one > 0), None)
            if length is not None:
                return max(length, _stretched(part.get("rope_parameters") or part.get("rope_scaling"), length))
    return None


def _stretched(rope: object, length: int) -> int:
    """What a scaled rope makes of the length."""
    if not isinstance(rope, Mapping) or rope.get("rope_type", rope.get("type")) not in _STRETCHED:
        return length
    original, factor = rope.get("original_max_position_embeddings") or length, rope.get("factor") or 1.0
    return int(original * factor) if isinstance(original, int) and isinstance(factor, int | float) else length


def work(request: TextGeneration) -> float:
    """In steps of decoding. About eight tokens of a prompt take as long as one, and four characters are a token."""
    prompt = sum(map(len, request.prompt_texts)) / 4 + len(request.prompt_ids or ())
    return request.max_tokens + prompt / 8


def lacks(config: Mapping[str, object], names: Collection[str]) -> str | None:
    return without_tokenizer(names)


def _with_its_prompt(result: TextGenerationResult) -> str:
    return (SAMPLE_PROMPT + result.generated_text).strip()


TEXT_GENERATION = Family(
    name="text_generation",
    request=TextGeneration,
    result=TextGenerationResult,
    deployment="deployments.families.text_generation.replica:TextGenerationReplica",
    options=TextGenerationOptions,
    matches=matches,
    context=context_of,
    work=work,
    golden=GoldenText,
    lacks=lacks,
    sample=Sample({"prompt": SAMPLE_PROMPT, "max_tokens": 40}, _with_its_prompt),
    client=Command(
        "text",
        "continue a prompt",
        (
            Argument("prompt", "prompt"),
            Argument("--max-tokens", "max_tokens", int, 64),
            Argument("--temperature", "temperature", float),
            Argument("--seed", "seed", int),
        ),
        attrgetter("generated_text"),
        streams=True,
    ),
)
