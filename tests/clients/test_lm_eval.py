"""lm-evaluation-harness: generation by chats and by completions, scores by completions."""

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


class Words:
    """A tokenizer of single words, as tiktoken has it."""

    eot_token = 0

    def encode(self, text):
        return [len(word) for word in text.split()]

    def decode(self, tokens):
        return " ".join(map(str, tokens))


def test_continuations_are_scored(url):
    model = LocalCompletionsAPI(base_url=f"{url}/completions", model="scripted", tokenizer_backend=None)
    model.tokenizer, model.tokenizer_backend, model.tokenized_requests = Words(), "tiktoken", True
    asked = [Instance("loglikelihood", {}, ("hi", f" there{more}"), 0) for more in ("", " friend")]
    assert model.loglikelihood(asked) == [(-0.5, True), (-1.0, True)]
