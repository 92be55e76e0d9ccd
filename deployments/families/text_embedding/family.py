"""The row of the TextEmbedding family. Imports neither torch nor Ray."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated

from pydantic import Field

from deployments.contract.errors import quoted
from deployments.contract.settings import Autoscaling, FamilySettings
from deployments.contract.types import InferResponse, TextEmbedding, TextEmbeddingResult
from deployments.replica.family import Argument, Command, Family
from deployments.repository.diagnosis import without_tokenizer
from deployments.repository.families import architectures
from deployments.repository.weights import MODULES
from deployments.validation.golden import GoldenExample

ENCODERS = frozenset(
    [
        *("albert", "bert", "bert-generation", "big_bird", "camembert", "convbert", "deberta", "deberta-v2"),
        *("distilbert", "electra", "ernie", "esm", "eurobert", "fnet", "jina_embeddings_v3", "longformer", "luke"),
        *("megatron-bert", "modernbert", "mpnet", "mt5", "nomic_bert", "rembert", "roberta", "roberta-prelayernorm"),
        *("roformer", "t5", "umt5", "xlm-roberta", "xlm-roberta-xl"),
    ]
)
"""Model types whose tokens see the whole text. Held to transformers' own vectors."""
DECODERS = frozenset(["gemma", "gemma2", "gemma3_text", "llama", "ministral3", "mistral", "phi3", "qwen2", "qwen3"])
"""Held to them too. Whether such a model is for embeddings its config.json does not say: a modules.json does."""


class TextEmbeddingOptions(FamilySettings):
    """The settings of an embedding deployment. It has no replica until the first request."""

    autoscaling: Autoscaling = Autoscaling(min_replicas=0)
    max_batch_size: Annotated[int, Field(ge=1)] = 256
    """Texts of one forward, of any requests. Their tokens bound it too: 4096 on a CPU, 32,768 on a GPU."""


class GoldenEmbedding(GoldenExample):
    """A text and the first values of its vector."""

    text: str
    embedding: Annotated[list[float], Field(min_length=1)]
    """As many as wished."""
    tolerance: Annotated[float, Field(ge=0)] = 0.01
    """How far each may lie from the answer's."""
    input_type: str | None = None
    """The request's."""

    @property
    def title(self) -> str:
        return self.text

    def request(self, model_id: str, folder: Path) -> TextEmbedding:
        return TextEmbedding(model_id=model_id, texts=[self.text], input_type=self.input_type)

    def fault(self, answer: InferResponse) -> str | None:
        if not isinstance(answer, TextEmbeddingResult):
            return f"answered with {type(answer).__name__}"
        [vector] = answer.embeddings
        if len(vector) < len(self.embedding):
            return f"{len(vector)} values instead of at least {len(self.embedding)}"
        for number, (value, known) in enumerate(zip(vector, self.embedding, strict=False)):
            if abs(value - known) > self.tolerance:
                return f"value {number} is {value:.4f} instead of {known:.4f}"
        return None


def matches(config: Mapping[str, object]) -> bool:
    """Encoders, with the head that they were trained with or without one. A folder with a modules.json is the family's
    by that."""
    named = architectures(config)
    plain = not named or any(name.endswith(("Model", "ForMaskedLM", "ForPreTraining")) for name in named)
    return plain and config.get("model_type") in ENCODERS


def lacks(config: Mapping[str, object], names: Collection[str]) -> str | None:
    kind = config.get("model_type")
    if kind not in ENCODERS | DECODERS:
        return f"embeddings of models of type {quoted(str(kind))} are not held to transformers' own here"
    return without_tokenizer(names)


def work(request: TextEmbedding) -> float:
    """In tokens, of about four characters."""
    return sum(map(len, request.texts)) / 4 + sum(map(len, request.token_ids or ()))


def _only(text: str) -> list[str]:
    return [text]


def _in_lines(result: TextEmbeddingResult) -> str:
    return "\n".join(map(json.dumps, result.embeddings))


TEXT_EMBEDDING = Family(
    name="text_embedding",
    request=TextEmbedding,
    result=TextEmbeddingResult,
    deployment="deployments.families.text_embedding.replica:TextEmbeddingReplica",
    options=TextEmbeddingOptions,
    matches=matches,
    marker=MODULES,
    work=work,
    golden=GoldenEmbedding,
    lacks=lacks,
    client=Command(
        "embed",
        "the vector of a text",
        (
            Argument("text", "texts", _only),
            Argument("--input-type", "input_type", help="the name of a prompt of the model, such as query"),
            Argument("--dimensions", "dimensions", int, help="so many values of the vector (default: all)"),
        ),
        _in_lines,
    ),
)
