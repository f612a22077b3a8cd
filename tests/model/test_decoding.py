"""Decoding speeds of two models are of one text, and a spread holds its median."""

from __future__ import annotations

from tests.data.byte_tokenizer import byte_tokenizer
from tests.tiny import tiny_model
from tunesmith.model.decoding import decoding_speeds


def test_speeds_are_tokens_a_second_times_characters_a_token() -> None:
    lm, tokenizer = tiny_model("llama", 0, vocab_size=len(byte_tokenizer())), byte_tokenizer()
    found = decoding_speeds({"before": (lm, tokenizer), "after": (lm, tokenizer)}, "twelve bytes", repeats=3)
    for each in found.values():
        assert each["characters_a_token"] == 1.0
        assert each["characters_a_second"] == each["tokens_a_second"]
        low, high = each["tokens_a_second_spread"]
        assert 0 < low <= each["tokens_a_second"] <= high
        assert len(each["tokens_a_second_runs"]) == 3
