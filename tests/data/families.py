"""Tokenizers and templates of the families, small and made here, as the tests of labels need them.

FAMILIES["chatml"].tokenizer() -> a byte-level BPE with ChatML's special tokens and our own chatml.jinja
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

TEMPLATES = Path(__file__).parent / "templates"

# Enough words to have merges over spaces and line breaks; what is in it does not matter otherwise.
CORPUS = [
    "system user assistant model Hello! Hi there, what is 2+2? It is 4. Be brief and kind, please.\n\n",
    "好的，世界你好。请问今天天气怎么样？今天是晴天。\n",
    "def f(x):\n    return x + 1\n\n\nUser: Assistant: USER: ASSISTANT: [INST] [/INST] <<SYS>> <</SYS>>\n",
    "the quick brown fox jumps over the lazy dog, again and again and again; end of turn, start of turn. ",
    "think im_start im_end eot_id header_id <| |> < > </ s | a b c d e f g h i j k l m n o p q r s t",
] * 8

# GPT-4's and Llama 3's way to cut text into words.
_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


@dataclass(frozen=True, slots=True)
class Family:
    """How one family writes: the tokens it adds, BOS, EOS, its stop, its kind of tokenizer."""

    template: str
    special: tuple[str, ...]
    stop: str
    eos: str
    bos: str | None = None
    others: tuple[str, ...] = ()
    kind: str = "byte_level"
    has_system: bool = True
    rstrip: bool = False

    @property
    def source(self) -> str:
        """The template as Jinja."""
        return (TEMPLATES / f"{self.template}.jinja").read_text(encoding="utf-8").removesuffix("\n")

    def tokenizer(self, template: str | None = None) -> PreTrainedTokenizerFast:
        """A fresh tokenizer with the family's template, or another."""
        backend = Tokenizer.from_str(_trained(self.kind, self.special))
        added = [
            AddedToken(text, special=True, normalized=False, rstrip=self.rstrip and text != self.bos)
            for text in self.special
        ]
        backend.add_special_tokens(added)
        backend.add_tokens([AddedToken(text, special=False, normalized=False) for text in self.others])
        made = PreTrainedTokenizerFast(tokenizer_object=backend, bos_token=self.bos, eos_token=self.eos)
        made.chat_template = template or self.source
        return made


@cache
def _trained(kind: str, special: tuple[str, ...]) -> str:
    if kind == "byte_level":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.normalizer = normalizers.NFC()
        split = pre_tokenizers.Split(Regex(_SPLIT), "isolated")
        byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=alphabet, show_progress=False)
        tokenizer.train_from_iterator(CORPUS, trainer)
        return tokenizer.to_str()
    return _sentencepiece_like(kind, special)


def _sentencepiece_like(kind: str, special: tuple[str, ...]) -> str:
    """BPE over ▁ with byte fallback. "prepend": a space before each stretch (Llama 2); "bare": none."""
    bytes_ = [f"<0x{byte:02X}>" for byte in range(256)]
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>", fuse_unk=True))
    swap = normalizers.Replace(" ", "▁")
    match kind:
        case "prepend":
            tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), swap])
        case "metaspace":
            tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
        case "bare":
            tokenizer.normalizer = swap
    before = tokenizer.pre_tokenizer
    wanted_normalizer = tokenizer.normalizer is not None
    tokenizer.normalizer = tokenizer.normalizer or swap  # words are learnt with ▁ before them in any case
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[^▁\n]+|\n"), "isolated")
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=["<unk>", *special, *bytes_], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if before is not None:
        tokenizer.pre_tokenizer = before
    source = json.loads(tokenizer.to_str())
    if before is None:
        source["pre_tokenizer"] = None
    if not wanted_normalizer:
        source["normalizer"] = None
    source["added_tokens"] = [token for token in source["added_tokens"] if token["content"] not in bytes_]
    tokenizer = Tokenizer.from_str(json.dumps(source))
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    )
    return tokenizer.to_str()


_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
FAMILIES: dict[str, Family] = {
    "chatml": Family("chatml", _IM, "<|im_end|>", "<|endoftext|>", others=("<tool_call>", "</tool_call>")),
    "llama3": Family(
        "llama3",
        ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
        "<|eot_id|>",
        "<|end_of_text|>",
        bos="<|begin_of_text|>",
    ),
    "mistral": Family(
        "mistral", ("<s>", "</s>"), "</s>", "</s>", bos="<s>", kind="prepend", has_system=False
    ),
    "gemma": Family(
        "gemma",
        ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"),
        "<end_of_turn>",
        "<eos>",
        bos="<bos>",
        others=("<b>", "<table>"),
        kind="bare",
        has_system=False,
    ),
    "qwen3": Family(
        "qwen3",
        _IM,
        "<|im_end|>",
        "<|im_end|>",
        others=("<think>", "</think>", "<tool_call>", "</tool_call>"),
    ),
    "internlm2": Family(
        "internlm2",
        ("<s>", "</s>", "<|im_start|>", "<|im_end|>"),
        "<|im_end|>",
        "</s>",
        bos="<s>",
        kind="metaspace",
    ),
    "generation": Family("generation", _IM, "<|im_end|>", "<|endoftext|>"),
    "phi3": Family(
        "phi3",
        ("<|endoftext|>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"),
        "<|end|>",
        "<|endoftext|>",
        rstrip=True,
    ),
    "llama2": Family("llama2", ("<s>", "</s>"), "</s>", "</s>", bos="<s>", kind="prepend"),
    "r1": Family(
        "r1",
        ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>"),
        "<｜end▁of▁sentence｜>",
        "<｜end▁of▁sentence｜>",
        bos="<｜begin▁of▁sentence｜>",
        others=("<think>", "</think>"),
    ),
    "spaced": Family("spaced", ("<s>", "</s>"), "</s>", "</s>", has_system=False),
    "spaced_sp": Family("spaced", ("<s>", "</s>"), "</s>", "</s>", has_system=False, kind="prepend"),
}
STYLES = ("chatml", "llama3", "mistral", "gemma", "qwen3", "internlm2")


@cache
def tokenizer_of(name: str) -> PreTrainedTokenizerFast:
    """The family's tokenizer, made once; tests must not change it."""
    return FAMILIES[name].tokenizer()
