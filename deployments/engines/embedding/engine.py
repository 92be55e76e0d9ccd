"""Embeddings of texts on a Hugging Face folder. Knows tensors and tokens, not HTTP or Ray."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deployments.contract.errors import Internal, InvalidRequest, ModelLoadFailed, ServingError, quoted
from deployments.contract.types import TextEmbedding
from deployments.engines.batches import in_batches
from deployments.engines.embedding.batching import EncodedText, Turns, batch_of
from deployments.engines.embedding.encoder import load_encoder, padded, positions_of
from deployments.engines.embedding.folder import EmbeddingFolder
from deployments.engines.embedding.pooling import head_of, pooled
from deployments.engines.embedding.tokenizer import EmbeddingTokenizer
from deployments.engines.errors import load_failure
from deployments.engines.vision.forward import storage_bytes
from deployments.engines.vision.loading import check_dtype

FORWARD_TOKENS = {"cpu": 4096, "cuda": 32_768}
"""The most that a forward computes: it bounds its memory, and how long others wait for it."""
SAME = 1e-5
"""How far a vector may lie from the one that the text has alone."""
EXAMPLES = ("A text.", "Another text, which is a little longer than the first one is, and has a few more tokens.")


class TextEmbeddingEngine:
    """One encoder with what its folder does to the vectors of its tokens.

    `resident_bytes` is what the weights take, `dimensions` the length of a vector. `runtime_info` is how it runs.
    """

    def __init__(self, model: Any, folder: EmbeddingFolder, tokenizer: EmbeddingTokenizer, cores: int) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.dimensions = 0
        self._model: Any = model
        self._head: Any = head_of(folder.modules).to(model.device)
        self._vocabulary = int(model.get_input_embeddings().num_embeddings)
        self._equal_lengths = False
        self._turns = Turns()
        self._cores = cores

    @classmethod
    def load(
        cls, folder: Path, device: str = "cpu", dtype: str | None = None, cores: int | None = None
    ) -> "TextEmbeddingEngine":
        """An engine that has answered already. Raises ModelLoadFailed with one line that names no path.

        `dtype`: a torch name such as "bfloat16"; None is the folder's own. `cores`: to compute on; by default as many
        as torch uses.
        """
        try:
            check_dtype(dtype)
            said = EmbeddingFolder.read(folder)
            model = load_encoder(folder, device, dtype)
            takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
            tokenizer = EmbeddingTokenizer.load(
                folder, said.max_tokens, positions_of(model), said.lowercase, takes_types
            )
            engine = cls(model, said, tokenizer, cores or torch.get_num_threads())
            engine._try_out()
            return engine
        except Exception as failure:
            raise load_failure(failure, folder) from failure

    @property
    def resident_bytes(self) -> int:
        return storage_bytes(self._model) + storage_bytes(self._head) if self._model is not None else 0

    @property
    def runtime_info(self) -> tuple[str, ...]:
        if self._model is None:
            return ()
        after = "".join(f", {module.kind}" for module in self.folder.modules)
        apart = "; texts of one length only" if self._equal_lengths else ""
        threads = f"{self._cores} thread{'s' if self._cores > 1 else ''}"
        return (
            f"vectors: {self.dimensions} values, pooled by {' and '.join(self.folder.modes)}{after}",
            f"longest text: {self.tokenizer.max_tokens} tokens",
            f"forward: PyTorch, eager, at most {self._most_tokens} tokens, on {threads}{apart}",
        )

    def encode(self, request: TextEmbedding) -> list[EncodedText]:
        """The tokens of the request's texts. Raises InvalidRequest, PromptTooLong. For any thread."""
        self._check_size(request.dimensions)
        truncate = request.truncate is not False
        if request.token_ids is not None:
            return self.tokenizer.accept(request.token_ids, self._vocabulary, truncate)
        return self.tokenizer.encode(
            request.texts, self._prompt(request.input_type), not self.folder.include_prompt, truncate
        )

    def in_turn(self, texts: Sequence[EncodedText]) -> list[EncodedText]:
        """The texts of one request, with their turns among those of others."""
        return self._turns.of(texts)

    def next_batch(self, waiting: Sequence[EncodedText], most_texts: int) -> list[int]:
        """Which of the texts share the next forward."""
        chosen = batch_of(waiting, most_texts, self._most_tokens, self._equal_lengths)
        self._turns.served(waiting[chosen[0]])
        return chosen

    def embed(self, texts: Sequence[EncodedText]) -> list[np.ndarray | ServingError]:
        """One item a text, in order: its vector, float32 [dimensions], or the error of that text alone."""
        return in_batches(texts, len(texts), self._vectors, lambda: Internal("the model failed on this text"))

    def finished(self, vectors: np.ndarray, dimensions: int | None, normalize: bool | None) -> np.ndarray:
        """Float32 [texts, values]: cut, and of length 1 where that is wanted."""
        size = dimensions or self.folder.dimensions
        cut = vectors[:, :size]
        if normalize or (normalize is None and dimensions is not None and cut.shape != vectors.shape):
            cut = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
        return cut

    def close(self) -> None:
        """Drop every reference to the model, so that its memory comes back."""
        self._model = self._head = None

    @property
    def _most_tokens(self) -> int:
        return FORWARD_TOKENS[self._model.device.type]

    def _check_size(self, dimensions: int | None) -> None:
        if dimensions is not None and dimensions > self.dimensions:
            raise InvalidRequest(f"dimensions {dimensions} are more than the model's {self.dimensions}")

    def _prompt(self, input_type: str | None) -> str:
        if input_type is None:
            return self.folder.default_prompt
        if input_type not in self.folder.prompts:
            known = ", ".join(sorted(map(quoted, self.folder.prompts)))
            raise InvalidRequest(f"the model has no prompt {quoted(input_type)} (input_type); it has {known}")
        return self.folder.prompts[input_type]

    def _try_out(self) -> None:
        """A folder whose parts do not fit together is found here, not by the first caller; and whether texts of unequal
        length may share a forward."""
        texts = self.tokenizer.encode(EXAMPLES, "")
        alone = [vector for text in texts for vector in self._vectors([text])]
        together = self._vectors(texts)
        vectors = [vector for vector in (*alone, *together) if isinstance(vector, np.ndarray)]
        self.dimensions = len(vectors[0]) if vectors else 0
        close = len(vectors) == 4 and np.allclose(vectors[:2], vectors[2:], atol=SAME, rtol=SAME)
        # In half precision the order of sums alone makes more than that.
        self._equal_lengths = self._model.dtype == torch.float32 and not close

    @torch.inference_mode()
    def _vectors(self, texts: Sequence[EncodedText]) -> list[np.ndarray | ServingError]:
        """Raises whatever the model raises."""
        if self._model is None:
            return [Internal("the model is closed")] * len(texts)
        if torch.get_num_threads() != self._cores:
            torch.set_num_threads(self._cores)  # of the calling thread
        arguments = padded(texts, self.tokenizer.pad_id, self.tokenizer.pad_type_id)
        device = self._model.device
        outputs = self._model(**{name: tensor.to(device) for name, tensor in arguments.items()})
        hidden = getattr(outputs, "last_hidden_state", None)
        if hidden is None or hidden.shape[:2] != arguments["input_ids"].shape:
            raise ModelLoadFailed("the model gives no vectors of a text's tokens")
        lengths, left_out = (
            torch.tensor(counts, device=device)
            for counts in ([len(text.ids) for text in texts], [text.left_out for text in texts])
        )
        vectors = self._head(pooled(hidden.float(), lengths, left_out, self.folder.modes)).cpu().numpy()
        finite = np.isfinite(vectors).all(1)
        fault = Internal("the model gave numbers that are not finite")
        return [vector if fine else fault for vector, fine in zip(vectors, finite, strict=True)]
