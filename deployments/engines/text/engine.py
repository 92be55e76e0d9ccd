"""Text generation on a Hugging Face folder by continuous batching. Knows tokens and text, not HTTP or Ray."""

import logging
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from deployments.contract.chat import ChatOptions, Markup, Message
from deployments.contract.errors import InvalidRequest, PromptTooLong
from deployments.contract.types import Prompt, SamplingOptions
from deployments.engines.device import end_openmp_pool
from deployments.engines.errors import load_failure
from deployments.engines.probes import Facts, ProbeCache
from deployments.engines.text.call_grammar import strict_calls
from deployments.engines.text.chat_template import ChatRenderer
from deployments.engines.text.folder.generation import FILE, FolderGeneration
from deployments.engines.text.request import Emit, GenerationRequest
from deployments.engines.text.scheduler import RequestQueue
from deployments.engines.text.select_backend import Candidate, Selected, select_backend
from deployments.engines.text.speculation.draft_model import DraftFolder
from deployments.engines.text.stats import StatsRecorder
from deployments.engines.text.structured_output import Grammar, Grammars, ReasoningFirst
from deployments.engines.text.tokenizer import Tokenizer
from deployments.system.artifact_cache import ArtifactCache

log = logging.getLogger(__name__)

MAX_WAITING = 1_024
CONVERTED_BYTES = 1 << 35
"""Of all converted models on disk: each as large as its weights."""
_DEFAULT_CHAT = ChatOptions()


class ChatPrompt(NamedTuple):
    """Token ids, how the text that follows them marks its parts, and the grammar that its calls keep to."""

    ids: list[int]
    markup: Markup
    calls: str | None = None


class TextGenerationEngine:
    """A loaded model and the loop that runs its requests."""

    def __init__(
        self, selected: Selected, tokenizer: Tokenizer, stats: StatsRecorder, generation: FolderGeneration | None = None
    ) -> None:
        """`generation`: None where the folder's defaults do not hold."""
        self._generation = generation
        self._tokenizer = tokenizer
        self.loop = selected.loop
        self.stats = stats
        self._weight_bytes = selected.weight_bytes
        facts = selected.facts
        self._vocabulary = facts.vocabulary
        self._stop_ids = facts.stop_ids
        self._grammars = Grammars(tokenizer.tokenizer_json, facts.vocabulary, facts.stop_ids)
        template = tokenizer.chat_template()
        self._chat = ChatRenderer(template) if template else None
        self._special_marks = tokenizer.added_tokens(template.marks) if template else {}
        self._marking_tokenizer = tokenizer.keeping(self._special_marks)
        self._reasoning_marks = _tokens(tokenizer, template.markup.reasoning, self._vocabulary) if template else None

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str = "cpu",
        dtype: str | None = None,
        max_batch_size: int = 16,
        max_waiting: int = MAX_WAITING,
        cache: ArtifactCache | None = None,
        facts: Facts | None = None,
        folder_defaults: bool = True,
        in_background: bool = False,
        prompt_lookup: bool = False,
        draft: DraftFolder | None = None,
    ) -> "TextGenerationEngine":
        """Load from safetensors, without the network and without code from the folder. Raises ModelLoadFailed.

        `cache`: of converted models. `facts`: what the probes of earlier loads found out. `folder_defaults`: whether
        generation_config.json holds. `in_background`: whether plain generation answers while the model is converted.
        `prompt_lookup`: whether greedy texts propose their own tokens. `draft`: a model that proposes tokens to them.
        """
        probes = ProbeCache(facts, device, dtype)
        try:
            with tempfile.TemporaryDirectory(prefix="converted-") as place:
                tokenizer, stats = Tokenizer.load(folder), StatsRecorder()
                queue = RequestQueue(max_batch_size, max_waiting, stats)
                kept = cache or ArtifactCache(Path(place), CONVERTED_BYTES)
                if draft:
                    tokenizer.check_draft(Tokenizer.load(draft.folder), draft.name)
                speculation = prompt_lookup, draft
                candidate = Candidate(folder, device, dtype, tokenizer, queue, kept, in_background, *speculation)
                selected = select_backend(candidate, probes)
                del candidate  # It holds the plain model.
                ends = selected.facts.stop_ids
                generation = FolderGeneration.read(folder, ends, device) if folder_defaults else None
        except Exception as failure:
            raise load_failure(failure, folder) from None
        finally:
            end_openmp_pool()
        return cls(selected, tokenizer, stats, generation)

    @property
    def runtime_info(self) -> tuple[str, ...]:
        """How this model runs, for the status page."""
        generation = (f"{FILE} is not used",) if self._generation is None else self._generation.notes
        return (*self.loop.runtime_info, *generation)

    @property
    def resident_bytes(self) -> int:
        """Of the weights and of the KV cache."""
        return self._weight_bytes + self.loop.nbytes

    @property
    def busy_s(self) -> float:
        return self.loop.busy_s

    def chat(
        self, messages: Sequence[Message], options: ChatOptions = _DEFAULT_CHAT, has_schema: bool = False
    ) -> ChatPrompt:
        """The prompt that asks for the next message, by the model's own template. May block for seconds.

        `has_schema`: whether the text is held to one. It may reason before that only where tokens mark reasoning.
        Control tokens that a message spells stay text. Raises InvalidRequest without a template, or if it fails.
        """
        if self._chat is None:
            raise InvalidRequest("the model has no chat template")
        if options.tools and not self._chat.template.takes_tools:
            raise InvalidRequest("the model's chat template takes no tools")
        chat, markup = self._chat.render(messages, options), self._chat.template.markup
        if has_schema and self._reasoning_marks is None:
            markup = markup.model_copy(update={"reasoning": None})
        if markup.reasoning and chat.rstrip().endswith(markup.reasoning[0]):
            markup = markup.model_copy(update={"in_reasoning": True})
        calls = None if has_schema else strict_calls(options.tools, markup.tool_calls, self._special_marks)
        return ChatPrompt(self._tokenizer.encode_chat(chat), markup, calls)

    def encode(self, request: Prompt) -> list[int]:
        """Token ids of a prompt that is text. Raises InvalidRequest for a suffix that the tokenizer cannot mark."""
        control_tokens = bool(request.control_tokens)
        if request.suffix:
            return self._tokenizer.encode_between(request.prompt, request.suffix, control_tokens)
        return self._tokenizer.encode(request.prompt, control_tokens)

    def submit(
        self,
        prompt: str | Sequence[int],
        max_new_tokens: int,
        sampling: SamplingOptions,
        emit: Emit,
        stream: bool = True,
        markup: Markup | None = None,
        calls: str | None = None,
    ) -> GenerationRequest:
        """Queue a prompt, as text or as token ids; from any thread.

        `markup`: the text has the special tokens that mark its parts so, and reasoning before what a schema allows.
        `calls`: the grammar of a text without a schema.

        `emit` is called from the loop's thread and must return quickly. Without `stream` it gets the text as one
        chunk, which costs less. Raises PromptTooLong, InvalidRequest, Overloaded, and Unavailable once closed.
        """
        ids = self._tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        ids = ids or [self._tokenizer.start_token(self._vocabulary)]
        max_length = self.loop.max_length
        if len(ids) >= max_length:
            raise PromptTooLong(f"the prompt has {len(ids)} tokens, the model takes at most {max_length - 1}")
        if min(ids) < 0 or max(ids) >= self._vocabulary:
            raise InvalidRequest(f"the prompt holds a token that is not one of the model's {self._vocabulary}")
        if max(sampling.logit_bias or (), default=0) >= self._vocabulary:
            raise InvalidRequest(f"logit_bias holds a token that is not one of the model's {self._vocabulary}")
        limit = min(max_new_tokens, max_length - len(ids))
        grammar = self._grammar(sampling, calls)
        if grammar and markup and markup.reasoning and self._reasoning_marks:
            grammar = ReasoningFirst(grammar, self._reasoning_marks, markup.in_reasoning)
        tokenizer = self._marking_tokenizer if markup else self._tokenizer
        folder = None
        if (
            self._generation and self._generation.steps and grammar is None
        ):  # A schema alone says which tokens may come.
            folder = self._generation.processors(ids, len(ids) + limit, sampling)
        request = GenerationRequest(ids, limit, sampling, tokenizer, emit, stream, grammar, self._stop_ids, folder)
        self.loop.add(request)
        return request

    def _grammar(self, sampling: SamplingOptions, calls: str | None) -> Grammar | None:
        if sampling.json_schema is not None:
            return self._grammars.compile(sampling.json_schema)
        return None if calls is None else self._grammars.compile_calls(calls)

    def close(self) -> None:
        """End the threads, fail what is running, give the memory back. May be called more than once."""
        if self._chat:
            self._chat.close()
        self.loop.close()
        self._weight_bytes = 0


def _tokens(tokenizer: Tokenizer, marks: tuple[str, str] | None, vocabulary: int) -> tuple[int, int] | None:
    """The two marks as tokens of the model, where both are."""
    ids = tuple(tokenizer.added_tokens(marks or ()).values())
    return (ids[0], ids[1]) if len(ids) == 2 and max(ids) < vocabulary else None
