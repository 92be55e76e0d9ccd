"""Embeddings of texts on a Hugging Face folder. Knows tensors and tokens, not HTTP or Ray."""

import inspect
import threading
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deployments.contract.errors import Internal, InvalidRequest, ServingError, quoted
from deployments.contract.types import TextEmbedding
from deployments.engines.batches import in_batches
from deployments.engines.conversion import Conversion, convert_in_background, no_faster
from deployments.engines.embedding.batching import EncodedText, FittedTokens, Turns, batch_of
from deployments.engines.embedding.encoder import EagerEncoder, load_encoder, padded, positions_of
from deployments.engines.embedding.folder import EmbeddingFolder
from deployments.engines.embedding.openvino_convert import convert
from deployments.engines.embedding.openvino_encoder import OpenVinoEncoder
from deployments.engines.embedding.pooling import head_of, pooled
from deployments.engines.embedding.tokenizer import EmbeddingTokenizer
from deployments.engines.errors import load_failure
from deployments.engines.vision.forward import storage_bytes
from deployments.engines.vision.loading import check_dtype
from deployments.system.artifact_cache import ArtifactCache

FORWARD_TOKENS = {"cpu": 4096, "cuda": 32_768}
"""The most that a forward computes: it bounds its memory, and how long others wait for it."""
ENCODERS_BYTES = 1 << 35
"""Of the cache of converted encoders."""
SAME = 1e-5
"""How far a vector may lie from the one that the text has alone, and from that of PyTorch."""
LENGTHS = (1, 5, 24, 60)
"""Of the texts that a converted encoder is compared by, as far as the model takes so many tokens."""
EXAMPLES = ("A text.", "Another text, which is a little longer than the first one is, and has a few more tokens.")


class TextEmbeddingEngine:
    """One encoder with what its folder does to the vectors of its tokens.

    `resident_bytes` is what the weights take, `dimensions` the length of a vector. `runtime_info` is how it runs.
    """

    def __init__(self, model: Any, folder: EmbeddingFolder, tokenizer: EmbeddingTokenizer, cores: int) -> None:
        self.folder = folder
        self.tokenizer = tokenizer
        self.dimensions = 0
        self.argument_names: tuple[str, ...] = ()
        """Of the encoder, in the order in which they are made."""
        self.cores = cores
        self.settled = threading.Event()
        """Set while nothing is being converted that may take the encoder's place."""
        self.settled.set()
        self._encoder: EagerEncoder | OpenVinoEncoder | None = EagerEncoder(model)
        self._note = EagerEncoder.note
        self._dtype = model.dtype
        self._head: Any = head_of(folder.modules).to(model.device)
        self._vocabulary = int(model.get_input_embeddings().num_embeddings)
        self._equal_lengths = False
        self._turns = Turns()
        self._fitted = FittedTokens()

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str = "cpu",
        dtype: str | None = None,
        cores: int | None = None,
        cache: ArtifactCache | None = None,
    ) -> "TextEmbeddingEngine":
        """An engine that has answered already. Raises ModelLoadFailed with one line that names no path.

        `dtype`: a torch name such as "bfloat16"; None is the folder's own. `cores`: to compute on; by default as many
        as torch uses. `cache`: of encoders that are converted for OpenVINO in the background, and found by later loads;
        without one nothing is converted.
        """
        try:
            check_dtype(dtype)
            settings = EmbeddingFolder.read(folder)
            model = load_encoder(folder, device, dtype)
            takes_types = "token_type_ids" in inspect.signature(model.forward).parameters
            tokenizer = EmbeddingTokenizer.load(
                folder, settings.max_tokens, positions_of(model), settings.lowercase, takes_types
            )
            engine = cls(model, settings, tokenizer, cores or torch.get_num_threads())
            engine._try_out()
            if cache is not None and torch.device(device).type == "cpu" and model.dtype == torch.float32:
                details, read = (
                    (engine.argument_names, tokenizer.max_tokens),
                    partial(OpenVinoEncoder, cores=engine.cores),
                )
                convert_in_background(engine, Conversion(cache, folder, convert, details, read))
            return engine
        except Exception as failure:
            raise load_failure(failure, folder) from failure

    @property
    def resident_bytes(self) -> int:
        return self._encoder.resident_bytes + storage_bytes(self._head) if self._encoder is not None else 0

    @property
    def runtime_info(self) -> tuple[str, ...]:
        if self._encoder is None:
            return ()
        after = "".join(f", {module.kind}" for module in self.folder.modules)
        apart = "; texts of one length only" if self._equal_lengths else ""
        note = self._note if self.settled.is_set() else f"{self._note}, being converted"
        threads = f"{self.cores} thread{'s' if self.cores > 1 else ''}"
        return (
            f"vectors: {self.dimensions} values, pooled by {' and '.join(self.folder.modes)}{after}",
            f"longest text: {self.tokenizer.max_tokens} tokens",
            f"forward: {note}, at most {self._most_tokens} tokens, on {threads}{apart}",
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
        return in_batches(texts, len(texts), self.vectors, _fault, self._fitted)

    def finished(self, vectors: np.ndarray, dimensions: int | None, normalize: bool | None) -> np.ndarray:
        """Float32 [texts, values]: cut, and of length 1 where that is wanted."""
        size = dimensions or self.folder.dimensions
        cut = vectors[:, :size]
        if normalize or (normalize is None and dimensions is not None and cut.shape != vectors.shape):
            cut = cut / np.maximum(np.linalg.norm(cut, axis=1, keepdims=True), 1e-12)
        return cut

    def close(self) -> None:
        """Drop every reference to the model, so that its memory comes back."""
        self._encoder = self._head = None

    def use(self, converted: OpenVinoEncoder | None, note: str) -> None:
        if self._encoder is not None:  # closed meanwhile
            self._encoder = converted or self._encoder
            self._note = note if converted else f"{EagerEncoder.note} ({note})"

    def fault(self, converted: OpenVinoEncoder) -> str | None:
        """Compares texts of several lengths, alone and in batches."""
        texts = [self._example(min(length, self.tokenizer.max_tokens)) for length in LENGTHS]
        for batch in [*([text] for text in texts), *self._batches(texts * 2)]:
            for ours, theirs in zip(self.vectors(batch), self.vectors(batch, converted), strict=True):
                both = isinstance(ours, np.ndarray) and isinstance(theirs, np.ndarray)
                if not both or not np.allclose(ours, theirs, atol=SAME, rtol=SAME):  # type: ignore[arg-type]
                    return "converted it gives other vectors"
        one = [texts[2]]
        return no_faster(partial(self.vectors, one), partial(self.vectors, one, converted))

    def _example(self, length: int) -> EncodedText:
        """Some text of so many tokens."""
        ids = np.random.default_rng(length).integers(0, self._vocabulary, length).tolist()
        return self.tokenizer.accept([ids], self._vocabulary)[0]

    def _batches(self, texts: Sequence[EncodedText]) -> list[list[EncodedText]]:
        """Texts of any lengths as they may share forwards."""
        if not self._equal_lengths:
            return [list(texts)]
        lengths = sorted({len(text.ids) for text in texts})
        return [[text for text in texts if len(text.ids) == length] for length in lengths]

    @property
    def _most_tokens(self) -> int:
        device = "cpu" if self._encoder is None else self._encoder.device.type
        return min(FORWARD_TOKENS[device], self._fitted.tokens)

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
        alone = [vector for text in texts for vector in self.vectors([text])]
        together = self.vectors(texts)
        self.argument_names = tuple(padded(texts, 0, 0))
        vectors = [vector for vector in (*alone, *together) if isinstance(vector, np.ndarray)]
        self.dimensions = len(vectors[0]) if vectors else 0
        close = len(vectors) == 4 and np.allclose(vectors[:2], vectors[2:], atol=SAME, rtol=SAME)
        # In half precision the order of sums alone makes more than that.
        self._equal_lengths = self._dtype == torch.float32 and not close

    @torch.inference_mode()
    def vectors(
        self, texts: Sequence[EncodedText], by: OpenVinoEncoder | None = None
    ) -> list[np.ndarray | ServingError]:
        """Of the texts in one forward, by this encoder or by `by`. Raises whatever the encoder raises."""
        encoder, head = by or self._encoder, self._head
        if encoder is None or head is None:
            return [Internal("the model is closed")] * len(texts)
        threads = 1 if encoder.own_threads else self.cores
        if torch.get_num_threads() != threads:
            torch.set_num_threads(threads)  # of the calling thread
        hidden = encoder(padded(texts, self.tokenizer.pad_id, self.tokenizer.pad_type_id))
        lengths, left_out = (
            torch.tensor(counts, device=encoder.device)
            for counts in ([len(text.ids) for text in texts], [text.left_out for text in texts])
        )
        vectors = head(pooled(hidden, lengths, left_out, self.folder.modes)).cpu().numpy()
        finite = np.isfinite(vectors).all(1)
        fault = Internal("the model gave numbers that are not finite")
        return [vector if fine else fault for vector, fine in zip(vectors, finite, strict=True)]


def _fault() -> ServingError:
    return Internal("the model failed on this text")
