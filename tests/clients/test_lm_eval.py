"""lm-evaluation-harness: generation by chats and by completions. Its scores need `echo` with `logprobs`."""

import pytest
from lm_eval.api.instance import Instance
from lm_eval.models.openai_completions import LocalChatCompletion, LocalCompletionsAPI


@pytest.mark.parametrize(
    ("kind", "path", "prompt"),
    [
        (LocalChatCompletion, "chat/completions", '[{"role": "user", "content": "hi"}]'),
        (LocalCompletionsAPI, "completions", "hi"),
    ],
)
def test_texts_are_generated(url, kind, path, prompt):
    model = kind(base_url=f"{url}/{path}", model="scripted", tokenizer_backend=None, tokenized_requests=False)
    if kind is LocalChatCompletion:
        from lm_eval.models.api_models import JsonChatStr

        prompt = JsonChatStr(prompt)
    asked = Instance("generate_until", {}, (prompt, {"until": ["\n\n"], "max_gen_toks": 16, "temperature": 0}), 0)
    assert model.generate_until([asked])[0].startswith("Hello")
