"""model.yaml is parsed strictly, and its options take effect."""

import pytest

from deployments.repository.manifest import Manifest, Unservable, parse_manifest


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("generation: {temprature: 1}", "generation: unknown key 'temprature'; did you mean 'temperature'?"),
        ("golden: [a]", "golden.0: "),
        ("source: s3://b/m", "a model with a source has to name its family"),
        ("source: /etc", "source: "),
        ("memory_mb: .inf", "memory_mb: "),
        ("max_batch_size: 0", "max_batch_size: "),
        ("a: &a [1]\nb: *a", "uses aliases"),
        ("[" * 10000, "is nested more than 32 levels deep"),
        ("{" * 200_000, "is nested more than 32 levels deep"),
        ("draft: a\nprompt_lookup: true", "draft and prompt_lookup: one of them proposes tokens"),
        ("draft: ''", "draft"),
        ("- " * 100_000, "is nested more than 32 levels deep"),
        ("[1, " * 30, "is not YAML"),
        ("a: [" + "1," * 13_000 + "1]", "unknown key 'a'"),
        ("#" * 300_000, "is larger than 256 KiB"),
    ],
)
def test_a_mistake_in_the_manifest_is_refused_with_its_place(text: str, fault: str) -> None:
    with pytest.raises(Unservable) as refused:
        parse_manifest(text.encode())
    assert str(refused.value).startswith("model.yaml")
    assert fault in str(refused.value)


def test_a_whole_manifest_is_read() -> None:
    text = b"""
family: text_generation
memory_mb: 12.5
dtype: bfloat16
pinned: true
warm_up: true
max_batch_size: 4
generation: {temperature: 0.7, stop: ["\\n"]}
golden: [{prompt: a, max_tokens: 2, text: b}, {image: examples/a.png, label: b, probability: 0.9, tolerance: 0.1}]
draft_decoding: true
draft: org/small
source: s3://bucket/model
files: {config.json: {bytes: 3, sha256: %s}}
"""
    manifest = parse_manifest(text % (b"a" * 64))
    assert manifest.golden[1]["image"] == "examples/a.png"
    assert manifest.files["config.json"].bytes == 3
    assert parse_manifest(b"") == Manifest()
