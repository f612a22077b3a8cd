"""New tokens go on where the old merges end: old text keeps its ids, every text decodes to itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from tests.data.byte_tokenizer import CHATML
from tunesmith.data.merged_tokenizer import require_extendable, save_extended
from tunesmith.data.vocabulary import _choose, learn
from tunesmith.errors import DataError, ModelError
from tunesmith.recipe import Vocabulary

WORDS = "孙悟空 道 师父 莫怕 老孙 去也 order please three apples the ticket stock"
TEXT = "\n\n".join(
    " ".join(WORDS.split()[(n * step + n // 3) % 12] for n in range(40)) + "。孙悟空道：师父莫怕"
    for step in range(1, 40)
)


def base_tokenizer(folder: Path, ignore_merges: bool = False) -> PreTrainedTokenizerFast:
    """A trained byte-level BPE with GPT-2's words, and special tokens behind its vocabulary."""
    backend = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        ["the order of the three tickets and the apple, please"] * 5,
        trainers.BpeTrainer(vocab_size=290, initial_alphabet=alphabet, show_progress=False),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="<|im_end|>", additional_special_tokens=["<|im_start|>"]
    )
    tokenizer.chat_template = CHATML
    tokenizer.save_pretrained(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("text") / "text.txt"
    path.write_text(TEXT, encoding="utf-8")
    return path


@pytest.fixture(scope="module", params=[False, True], ids=["merges", "whole words first"])
def extended(request, text: Path, tmp_path_factory: pytest.TempPathFactory):
    """(base, extended, what was learnt, ids)."""
    folder = tmp_path_factory.mktemp("tokenizers")
    base = base_tokenizer(folder / "base", request.param)
    learnt = learn(Vocabulary(data=str(text), min_count=5, min_gain=1e-6), base)
    again, ids = save_extended(base, learnt.tokens, folder / "extended")
    return base, again, learnt, ids


def ids_of(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    return tokenizer(text, add_special_tokens=False)["input_ids"]


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60) | st.text(alphabet=sorted(set(TEXT)) + list("<|>im_startend"), max_size=60))
@example(TEXT[:200])
@example("<|im_start|>user\n孙悟空<|im_end|>\n")
@example("\ud83d\ude00 \x00 e\u0301 孙悟空师父莫怕".encode("utf-16", "surrogatepass").decode("utf-16"))
def test_every_new_token_stands_for_the_old_tokens_that_stood_there(extended, text: str):
    base, again, learnt, ids = extended
    old, new = ids_of(base, text), ids_of(again, text)
    of = {id: token.of for id, token in zip(ids, learnt.tokens)}
    assert [part for id in new for part in of.get(id, (id,))] == old
    assert again.decode(new) == base.decode(old) == text
    assert len(new) <= len(old)


def test_old_tokens_special_tokens_and_template_stay(extended):
    # mutation tried: new ids counted from the size of the vocabulary, not behind all ids
    base, again, learnt, ids = extended
    vocabulary = again.get_vocab()
    assert all(vocabulary[token] == id for token, id in base.get_vocab().items())
    assert len(vocabulary) == len(base.get_vocab()) + len(ids)
    assert again.get_added_vocab() == base.get_added_vocab()
    assert again.special_tokens_map == base.special_tokens_map
    assert again.chat_template == base.chat_template
    assert ids == list(range(len(base), len(base) + len(learnt.tokens)))


def test_the_curve_is_what_the_saved_tokenizer_does(extended):
    base, again, learnt, ids = extended
    assert ids
    for tokenizer, share in ((base, learnt.before), (again, learnt.after)):
        assert sum(len(ids_of(tokenizer, text)) for text in learnt.held_out) / learnt.characters == share
    counts = [count for _, count in learnt.curve]
    assert counts == sorted(counts, reverse=True)


def test_learning_is_the_same_each_time(text: Path, tmp_path: Path):
    base = base_tokenizer(tmp_path)
    section = Vocabulary(data=str(text), min_count=5, tokens=20)
    assert learn(section, base).tokens == learn(section, base).tokens


def test_auto_stops_where_a_thousand_more_save_too_little():
    # mutation tried: the gain of a segment not divided by its length
    curve = [(0, 10_000), (1000, 8000), (2000, 7500), (4000, 7350), (8000, 7300)]
    chosen, why = _choose(Vocabulary(min_gain=0.01), curve, 8000)
    assert (chosen, "0.75%" in why) == (2000, True)
    assert _choose(Vocabulary(min_gain=0.005), curve, 8000)[0] == 4000
    assert _choose(Vocabulary(min_gain=1e-4, most=8000), curve, 8000) == (8000, "vocabulary.most is 8,000")
    assert _choose(Vocabulary(tokens=9000), curve, 8000)[0] == 8000


def test_as_many_tokens_are_added_as_were_asked_for(text: Path, tmp_path: Path):
    base = base_tokenizer(tmp_path)
    assert len(learn(Vocabulary(data=str(text), min_count=5, tokens=7), base).tokens) == 7
    assert "most" in learn(Vocabulary(data=str(text), min_count=5, most=10), base).why


def test_held_out_text_is_not_learnt_from(text: Path, tmp_path: Path):
    # mutation tried: _apart returning everything as train
    learnt = learn(Vocabulary(data=str(text), min_count=5, held_out=0.3), base_tokenizer(tmp_path))
    assert 0 < learnt.characters < len(TEXT) / 2


def test_text_without_gain_is_told(tmp_path: Path):
    path = tmp_path / "a.txt"
    path.write_text("abc\n\ndef", encoding="utf-8")
    with pytest.raises(DataError, match="no token would shorten"):
        learn(Vocabulary(data=str(path)), base_tokenizer(tmp_path / "t"))


def unigram() -> Tokenizer:
    return Tokenizer(models.Unigram([("<unk>", 0.0), ("a", -1.0)], unk_id=0))


def sentencepiece() -> Tokenizer:
    return Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>", byte_fallback=True))


def characters() -> Tokenizer:
    return Tokenizer(models.BPE({"<unk>": 0, "a": 1}, [], unk_token="<unk>"))


@pytest.mark.parametrize(
    ("make", "why"), [(unigram, "Unigram"), (sentencepiece, "SentencePiece"), (characters, "not byte-level")]
)
def test_a_tokenizer_that_merges_cannot_be_added_to_is_refused_with_the_reason(make, why: str):
    with pytest.raises(ModelError, match=why):
        require_extendable(PreTrainedTokenizerFast(tokenizer_object=make(), unk_token="<unk>"), "m")


def test_special_tokens_in_a_gap_keep_their_ids_when_the_class_counts_anew(text: Path, tmp_path: Path):
    """Qwen2Tokenizer of transformers 5 numbers special tokens behind the vocabulary it is given."""
    # mutation tried: added tokens left out of the vocabulary in save_extended (then save_extended itself refuses)
    base = base_tokenizer(tmp_path / "base")
    config = tmp_path / "base" / "tokenizer_config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "tokenizer_class": "Qwen2Tokenizer"}))
    qwen = AutoTokenizer.from_pretrained(tmp_path / "base")
    assert type(qwen).__name__ == "Qwen2Tokenizer"
    learnt = learn(Vocabulary(data=str(text), tokens=20, min_count=5), qwen)
    again, _ = save_extended(qwen, learnt.tokens, tmp_path / "new")
    assert ids_of(again, "<|im_start|>hi<|im_end|>") == ids_of(qwen, "<|im_start|>hi<|im_end|>")
    assert base.get_added_vocab().items() <= again.get_vocab().items()
