"""A tokenizer without the lists that transformers builds it from: the same tokens and the same files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers.pre_tokenizers import ByteLevel
from transformers import AutoTokenizer, Qwen2Tokenizer

from tunesmith.model import load
from tunesmith.model.load import load_tokenizer
from tunesmith.recipe import Model

TEXT = "hello, there: hell yes\n <|im_end|> été"


def folder_of_words(place: Path) -> Path:
    letters = {letter: number for number, letter in enumerate(sorted(ByteLevel.alphabet()))}
    words = {**letters, "he": 256, "ll": 257, "hell": 258}
    made = Qwen2Tokenizer(vocab=words, merges=[("h", "e"), ("l", "l"), ("he", "ll")])
    made.add_special_tokens({"additional_special_tokens": ["<|im_end|>"]})
    made.save_pretrained(place)
    (place / "config.json").write_text('{"model_type": "qwen2"}')
    return place


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# mutation tried: the lists kept; the rules let go of instead
def test_words_and_merges_are_let_go_of_and_nothing_else_changes(tmp_path: Path) -> None:
    place = folder_of_words(tmp_path / "model")
    ours, theirs = load_tokenizer(Model(path=str(place))), AutoTokenizer.from_pretrained(place)
    assert {"_vocab", "_merges"} <= vars(theirs).keys()
    assert vars(theirs).keys() - vars(ours).keys() == {"_vocab", "_merges"}
    for tokenizer in (ours, theirs):
        tokenizer.add_tokens(["yes"])
    found, plain = (one(TEXT, return_offsets_mapping=True) for one in (ours, theirs))
    assert dict(found) == dict(plain)
    assert 258 in found["input_ids"]
    assert ours.decode(found["input_ids"]) == theirs.decode(plain["input_ids"]) == TEXT
    assert (ours.get_vocab(), len(ours), ours.vocab_size) == (
        theirs.get_vocab(),
        len(theirs),
        theirs.vocab_size,
    )
    for tokenizer, name in ((ours, "ours"), (theirs, "theirs")):
        tokenizer.save_pretrained(tmp_path / name)
    assert files(tmp_path / "ours") == files(tmp_path / "theirs")


# mutation tried: every class
@pytest.mark.parametrize(
    ("module", "writes", "kept"),
    [
        ("transformers.models.x", False, False),
        ("transformers.models.x", True, True),
        ("transformers_modules.x", False, True),
    ],
)
def test_a_class_that_reads_them_later_or_is_a_hub_s_keeps_them(
    module: str, writes: bool, kept: bool
) -> None:
    own: dict[str, Any] = {"save_vocabulary": lambda self, folder: None} if writes else {}
    tokenizer: Any = type("Odd", (), {"__module__": module, **own})()
    tokenizer._vocab, tokenizer._merges = {"a": 0}, []
    assert bool(vars(load._without_lists(tokenizer))) == kept
