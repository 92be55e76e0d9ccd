"""Fields that clients send for other servers: hints, what this server has not, and ways to say "off". Pure."""

from collections.abc import Collection, Iterable, Mapping

from serve_app.http.openai.errors import InvalidField

WHOLE_CONTEXT = 2**32 - 1
"""More tokens than any context has: the text ends where the context ends."""

HINTS = frozenset(
    [
        # OpenAI: about the account, its cache and its speed.
        *("user", "metadata", "store", "service_tier", "safety_identifier", "prediction"),
        *("prompt_cache_key", "prompt_cache_options", "prompt_cache_retention"),
        # vLLM
        *("priority", "request_id", "session_id", "cache_salt", "stream_interval", "truncation_side"),
        *("return_token_offsets", "return_mm_kwargs"),
        # llama.cpp, Ollama, LM Studio, OpenRouter
        *("cache_prompt", "id_slot", "n_keep", "timings_per_token", "return_progress", "keep_alive", "ttl", "usage"),
    ]
)
"""Fields that change no text, whatever their value."""

NOTHING: tuple[object, ...] = (False, 0, "", [], {})

UNSUPPORTED: dict[str, tuple[object, ...]] = {
    **dict.fromkeys(
        [
            # vLLM
            *("use_beam_search", "include_stop_str_in_output", "truncate_prompt_tokens", "allowed_token_ids"),
            *("bad_words", "prompt_embeds", "structured_outputs", "guided_json", "guided_regex", "guided_choice"),
            *("guided_grammar", "return_tokens_as_token_ids", "return_token_ids", "logprob_token_ids"),
            *(
                "return_prompt_text",
                "routed_experts_prompt_start",
                "repetition_detection",
                "watermarking",
                "vllm_xargs",
                "kv_transfer_params",
                "ec_transfer_params",
            ),
            # llama.cpp, Ollama
            *("mirostat", "dynatemp_range", "dry_multiplier", "xtc_probability", "n_probs", "grammar", "options"),
        ],
        NOTHING,
    ),
    "prompt_logprobs": (),
    "thinking_token_budget": (-1,),
    "length_penalty": (1,),
    "typical_p": (1,),
    "repeat_penalty": (1,),
    "skip_special_tokens": (True,),
    "spaces_between_special_tokens": (True,),
}
"""Fields that would change the text or the answer, with the values that ask for nothing, as null does."""

OFF: Mapping[str, tuple[tuple[object, object], ...]] = {
    "max_tokens": ((-1, WHOLE_CONTEXT),),
    "max_completion_tokens": ((-1, WHOLE_CONTEXT),),
    "top_k": ((-1, None),),
    "seed": ((-1, None),),
    "top_p": ((0, 1e-9),),  # The most probable token always stays.
    "logprobs": ((False, None),),
}
"""Fields that are used, with the values that other servers read in another way, and what they mean here."""


def used_fields(
    body: Mapping[str, object], unsupported: Mapping[str, tuple[object, ...]], used_hints: Collection[str] = ()
) -> dict[str, object]:
    """The fields that ask for something. Raises InvalidField for one of `unsupported` that does.

    A field that is null asks for nothing, and a float that is whole is an integer.
    """
    used: dict[str, object] = {}
    for name, value in body.items():
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        value = next((meant for given, meant in OFF.get(name, ()) if _same(given, value)), value)
        if value is None or (name in HINTS and name not in used_hints):
            continue
        if name not in unsupported:
            used[name] = value
        elif not _is_any(value, unsupported[name]):
            raise InvalidField(f"{name}: is not supported by this server", name)
    return used


def _is_any(value: object, values: Iterable[object]) -> bool:
    return any(_same(value, other) for other in values)


def _same(value: object, other: object) -> bool:
    """As JSON has it, where `true` is not 1."""
    return isinstance(value, bool) == isinstance(other, bool) and value == other
