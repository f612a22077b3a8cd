"""New tokens written into a tokenizer: vocabulary and merges grow at their ends, everything else stays.

tokenizer.json  vocab {.., "关于": 151665}  merges [.., ["关", "于"]]      ids, special tokens, template as they were
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.data.vocabulary import NewToken
from tunesmith.errors import ModelError, Problem

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

FILE = "tokenizer.json"
_FIX = "leave its vocabulary as it is, or choose a model with a byte-level BPE, such as Qwen, Llama 3, GPT-2 or GLM"


def require_extendable(tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Raise ModelError, with the reason, for a tokenizer that merges cannot be added to."""
    why = _why_not(json.loads(tokenizer.backend_tokenizer.to_str()))
    if why:
        raise ModelError([Problem(f"{name}: tokenizer", why, _FIX)])


def _why_not(values: dict[str, Any]) -> str | None:
    model = values["model"]
    if model["type"] != "BPE":
        return (
            f"is of type {model['type']}: its tokens are chosen by scores that were fitted together, and tokens added "
            "without such a fit would change how old text is cut"
        )
    if model.get("byte_fallback"):
        return (
            "is a SentencePiece BPE with byte fallback: letters it lacks become bytes that no merge may join, and its "
            "merges are made anew from scores wherever it is converted, so added ones would not survive"
        )
    if not _byte_level(values.get("pre_tokenizer")) or not _byte_level(values.get("decoder")):
        return "is not byte-level: what it does not know becomes an unknown token, which new tokens would not mend"
    if model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        return "marks where words go on or end inside its tokens, so that two of them cannot simply be joined"
    if model.get("dropout"):
        return "drops merges at random, so the same text has no fixed tokens"
    return None


def _byte_level(part: dict[str, Any] | None) -> bool:
    if part is None:
        return False
    inner = part.get("pretokenizers") or part.get("decoders") or ()
    return part["type"] == "ByteLevel" or any(map(_byte_level, inner))


def first_new_id(tokenizer: PreTrainedTokenizerFast) -> int:
    """Behind every id there is; ids may have gaps where special tokens were added."""
    return max(tokenizer.get_vocab().values()) + 1


def save_extended(
    tokenizer: PreTrainedTokenizerFast, tokens: Sequence[NewToken], folder: Path
) -> tuple[PreTrainedTokenizerFast, list[int]]:
    """Save the tokenizer with the new tokens; what plain transformers reads back, and their ids.

    Raises ModelError where what is read back gives an old token another id.
    """
    tokenizer.save_pretrained(folder)
    file = folder / FILE
    values = json.loads(file.read_text(encoding="utf-8"))
    model, first = values["model"], first_new_id(tokenizer)
    ids = list(range(first, first + len(tokens)))
    # Some classes of transformers number added tokens anew, behind the vocabulary, unless it knows them itself
    # (Qwen2Tokenizer 5.x: <|im_start|> would move from 151644 to behind the new tokens).
    model["vocab"] |= {added["content"]: added["id"] for added in values["added_tokens"]}
    model["vocab"] |= {token.spelling: id for token, id in zip(tokens, ids)}
    # older files have "a b", newer ones ["a", "b"]: what is there decides
    joined = bool(model["merges"]) and isinstance(model["merges"][0], str)
    model["merges"] += [" ".join(token.pair) if joined else list(token.pair) for token in tokens]
    file.write_text(json.dumps(values, ensure_ascii=False), encoding="utf-8")
    from transformers import AutoTokenizer

    again: Any = AutoTokenizer.from_pretrained(folder)
    wanted = tokenizer.get_vocab() | {token.spelling: id for token, id in zip(tokens, ids)}
    moved = [spelling for spelling, id in wanted.items() if again.convert_tokens_to_ids(spelling) != id]
    if moved or len(again.get_vocab()) != len(wanted):
        what = (
            f"{type(again).__name__} gives {', '.join(moved[:3]) or 'more tokens'} another id when read back"
        )
        raise ModelError.at("tokenizer", what, "please report this tokenizer; nothing was written")
    return again, ids
