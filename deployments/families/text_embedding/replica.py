"""The replica of the TextEmbedding family: texts of all requests share forwards, which run one after another."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar

import numpy as np

from deployments.contract.text_generation import Usage
from deployments.contract.types import TextEmbedding, TextEmbeddingResult
from deployments.engines.decimals import shortest
from deployments.families.computing.torch_replica import Batched, TorchReplica
from deployments.replica.batching import Batcher, BatchPolicy
from deployments.replica.calls import OnChunk
from deployments.replica.model_replica import ReplicaOptions
from deployments.repository.model import Model

if TYPE_CHECKING:
    from deployments.engines.embedding.batching import EncodedText
    from deployments.engines.embedding.engine import TextEmbeddingEngine

SHORT = 2000
"""Characters whose tokens are found sooner than a thread takes them over."""
FEW = 4
"""The same of vectors that become numbers of the answer."""
Made = TypeVar("Made")


Embedder: TypeAlias = "Batched[TextEmbeddingEngine, EncodedText, np.ndarray]"


class TextEmbeddingReplica(TorchReplica[TextEmbedding, Embedder]):
    """Answers TextEmbedding requests. The forwards of all models run one after another, each on all cores."""

    def __init__(self, options: ReplicaOptions) -> None:
        super().__init__(options)
        # Imported here: only replicas import torch, not the process that builds the application.
        from deployments.engines.embedding.engine import ENCODERS_BYTES, TextEmbeddingEngine
        from deployments.system.artifact_cache import ArtifactCache

        self.load_engine = TextEmbeddingEngine.load
        self.converted = ArtifactCache(self.cache / "encoders", ENCODERS_BYTES)
        self.forwards = ThreadPoolExecutor(1, "forward")
        self.others = ThreadPoolExecutor(self.cores, "tokenise")

    def load(self, model: Model) -> Embedder:
        engine = self.load_engine(model.folder, self.device, model.manifest.dtype, self.cores, self.converted)
        most = self.batch_limit(model)
        embed = self.cpu.working(model.name)(engine.embed)
        choose = partial(engine.next_batch, most_texts=most)
        return Batched(engine, Batcher(lambda: BatchPolicy(embed, self.forwards, 1, most, choose), self.batched(model)))

    async def answer(
        self, request: TextEmbedding, model: Model, engine: Embedder, on_chunk: OnChunk | None
    ) -> TextEmbeddingResult:
        work = self.cpu.working(model.name)
        size = sum(map(len, request.texts)) + sum(map(len, request.token_ids or ()))
        texts = await self._made(size <= SHORT, work(engine.engine.encode), request)
        embeddings: list[list[float]] = []
        if texts:
            vectors = np.stack(await engine.batcher.submit_all(engine.engine.in_turn(texts)))
            finished = engine.engine.finished(vectors, request.dimensions, request.normalize)
            embeddings = await self._made(len(texts) <= FEW, work(shortest), finished)
        tokens = sum(len(text.ids) for text in texts)
        usage = Usage(prompt_tokens=tokens, completion_tokens=0)
        return TextEmbeddingResult(embeddings=embeddings, model_id=model.name, usage=usage)

    async def _made(self, at_once: bool, make: Callable[..., Made], *given: object) -> Made:
        """In a thread, unless that would take longer."""
        if at_once:
            return make(*given)
        return await asyncio.get_running_loop().run_in_executor(self.others, make, *given)
