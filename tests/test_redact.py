"""Secrets are never printed."""

from __future__ import annotations

import pytest

from tunesmith.redact import redact


# mutation tried: return text unchanged
@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ("401 for hf_abcdefghijklmnop", "abcdefghijklmnop"),
        ("https://me:hunter2hunter@host/repo", "hunter2hunter"),
        ("Authorization: Bearer abcdef123456", "abcdef123456"),
        ("api_key=abcdef123456", "abcdef123456"),
        ("HF_TOKEN: 'abcdef123456'", "abcdef123456"),
    ],
)
def test_what_looks_like_a_secret_is_hidden(text: str, secret: str) -> None:
    assert secret not in redact(text)


def test_a_secret_of_the_environment_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_API_KEY", "swordfish-9000")
    assert redact("it said swordfish-9000!") == "it said …!"


@pytest.mark.parametrize(
    "text",
    [
        "optim.batch_tokens=16384000",
        "tokenizer: bundled/model/tokenizer.json",
        "https://huggingface.co/Qwen/Qwen2.5-0.5B",
        "data/rows.jsonl:12: wrong_encoding",
    ],
)
def test_ordinary_words_stay(text: str) -> None:
    assert redact(text) == text
