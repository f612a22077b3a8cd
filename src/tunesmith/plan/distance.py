"""How far a text is from what a model has read, as its tokenizer tells: into how many pieces its words fall.

tokens a word of this data / tokens a word of general English (the bundled questions), one tokenizer for both

A tokenizer keeps whole the words that were common in the text it was made from, which is much like what its model has
read. Measured with the tokenizers of GPT-2 and of a model of 26M: instructions, dialogues, sums, calls 0.9 to 1.05,
program code 1.0 to 1.1, a novel of 1813 1.0, an encyclopaedia 1.1 to 1.2, anatomy 1.3, names of compounds 3.
Limits: it speaks of words alone, not of style, facts or tasks; of words in Latin letters only, so that of Chinese
nothing is said; a vocabulary of few thousand tokens is made from so little that all but its own text is far.
The model's own loss on held-out rows says more and costs loading it: before.heldout.bits_per_byte of a first report.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from typing import Any

from tunesmith import bundled

_WORD = re.compile(r"[A-Za-zÀ-ɏ]{2,}")
LEAST_WORDS, LEAST_SHARE_OF_LETTERS, MOST_GENERAL_PIECES = 300, 0.5, 2.5
LEAST_TOKENS = 6000


def distance(text: str, backend: Any) -> float | None:
    """Tokens a word, as many times as those of general English; None where that says nothing."""
    if backend.get_vocab_size() < LEAST_TOKENS:
        return None
    here, general = _pieces(text, backend), _pieces(_general(), backend)
    if here is None or general is None or general > MOST_GENERAL_PIECES:
        return None
    return here / general


def _pieces(text: str, backend: Any) -> float | None:
    """Mean tokens of a word, within a sentence; None where too little of the text is words."""
    words = Counter(_WORD.findall(text))
    letters, count = sum(len(word) * n for word, n in words.items()), sum(words.values())
    if count < LEAST_WORDS or letters < LEAST_SHARE_OF_LETTERS * len(text):
        return None
    backend.no_padding()
    backend.no_truncation()
    spelt = backend.encode_batch([f" {word}" for word in words], add_special_tokens=False)
    return sum(len(one.ids) * n for one, n in zip(spelt, words.values())) / count


def _general() -> str:
    lines = (bundled.path("data") / "general.jsonl").read_text(encoding="utf-8").splitlines()
    return " ".join(turn["content"] for line in lines for turn in json.loads(line)["messages"])
