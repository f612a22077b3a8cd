"""A model folder as a hub would give it, made in a moment: tiny weights, byte-level tokenizer, ChatML template."""

from __future__ import annotations

import json
from pathlib import Path

from tests.data.byte_tokenizer import byte_tokenizer
from tests.tiny import tiny_model


def make_model(folder: Path, family: str = "llama", seed: int = 0, **changes: object) -> Path:
    """Save a tiny model with its tokenizer, as plain transformers would."""
    tokenizer = byte_tokenizer()
    model = tiny_model(
        family,
        seed,
        vocab_size=len(tokenizer),
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_rows(path: Path, count: int = 12) -> Path:
    """Alpaca-like rows, prompt and response."""
    rows = [{"prompt": f"say {number}", "response": f"it is {number * 7 % 10}"} for number in range(count)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path
