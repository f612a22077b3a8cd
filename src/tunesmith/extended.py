"""A model with more tokens: learn them from text, merge them into its tokenizer, give them rows, measure the gain.

model + text --learn--> tokens --> tokenizer.json, embedding and head with new rows --> a plain model folder
                                                                          vocabulary.json: what was added and saved
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.data.merged_tokenizer import first_new_id, require_extendable, save_extended
from tunesmith.data.vocabulary import Learnt, learn
from tunesmith.errors import ModelError
from tunesmith.events import Reporter, Silent
from tunesmith.export.staging import refuse_foreign, staged
from tunesmith.folder import write_json
from tunesmith.model.decoding import REPEATS, decoding_speeds
from tunesmith.model.facts import read_facts, with_rows
from tunesmith.model.vocabulary_file import FILE
from tunesmith.opened import base_model, require_mergeable, tokenizer_of
from tunesmith.readable import require_sources
from tunesmith.recipe import Model, Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tunesmith.model.facts import ModelFacts

MEASURED_TOKENS = 96  # decoded once with the old tokens and once with the new: enough to tell a speed


def learn_ahead(
    section: Vocabulary, tokenizer: PreTrainedTokenizerFast, facts: ModelFacts, reporter: Reporter
) -> tuple[PreTrainedTokenizerFast, ModelFacts]:
    """The tokenizer and the facts that a vocabulary will lead to; no weight is looked at, nothing is kept."""
    _require(facts, tokenizer, facts.name)
    learnt = learn(section, tokenizer, reporter)
    with tempfile.TemporaryDirectory() as folder:
        extended, ids = save_extended(tokenizer, learnt.tokens, Path(folder))
    rows = _rows(facts.vocab_size, ids[-1] + 1, section.multiple)
    return extended, replace(with_rows(facts, rows), new_tokens=tuple(ids))


def _rows(old: int, needed: int, multiple: int) -> int:
    return old if needed <= old else -(-needed // multiple) * multiple


def extend(
    section: Vocabulary,
    model: Model,
    output: Path,
    *,
    seed: int = 0,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write the extended model to `output`, whole or not at all; the report, which is vocabulary.json there."""
    reporter = reporter or Silent()
    refuse_foreign(output, FILE)
    require_mergeable(model)
    facts = read_facts(model)
    require_sources(section.data)
    import torch

    from tunesmith.model.new_rows import add_rows
    from tunesmith.plan.device import find_device

    tokenizer = tokenizer_of(model)
    _require(facts, tokenizer, str(model.path or model.tokenizer))
    learnt = learn(section, tokenizer, reporter)
    with staged(output, FILE) as stage:
        extended, ids = save_extended(tokenizer, learnt.tokens, stage)
        reporter.progress("adding rows", 0, 3)
        lm: Any = base_model(model, find_device(), _stored(model), seed)
        old_rows = lm.get_input_embeddings().weight.shape[0]
        text = _sample(learnt, tokenizer)
        other = _copy_where_it_fits(lm)
        speeds = _speeds(lm, None, (tokenizer, extended), text) if other is None else {}
        reporter.progress("adding rows", 1, 3)
        first = first_new_id(tokenizer)
        rows = add_rows(
            lm, [token.of for token in learnt.tokens], first, section.init, seed, section.multiple
        )
        speeds |= _speeds(other, lm, (tokenizer, extended), text)
        reporter.progress("adding rows", 2, 3)
        lm.save_pretrained(stage)
        found = _report(section, model, tokenizer, learnt, ids)
        found["summary"]["characters_a_second"] = _characters_a_second(speeds)
        found["decoding"] = {**speeds, "in_turns": other is not None, "repeats": REPEATS}
        found["tokens"] |= {"rows_before": old_rows, "rows": rows}
        found["dtype"] = str(lm.dtype).removeprefix("torch.")
        write_json(stage / FILE, found)
        del lm, other
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
    reporter.progress("adding rows", 3, 3)
    return found


def _require(facts: ModelFacts, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    require_extendable(tokenizer, name)
    if facts.stored:
        what = "is stored in 4 bits, where tables cannot simply grow"
        raise ModelError.at(name, what, "use the 16-bit model it was made from")


def _stored(model: Model) -> str:
    """The precision of the weights as they are: what stays must stay bit for bit."""
    from tunesmith.model.config import read_config

    if model.dtype != "auto":
        return model.dtype
    values = read_config(model).values
    text = values.get("text_config") or values
    stored = text.get("dtype") or text.get("torch_dtype") or values.get("torch_dtype")
    return "bf16" if stored == "bfloat16" else "fp32"


def _sample(learnt: Learnt, tokenizer: PreTrainedTokenizerFast) -> str:
    """Held-out text of about MEASURED_TOKENS old tokens: what is decoded to tell the speed."""
    text = ""
    for piece in learnt.held_out:
        text += piece
        ids = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
        if len(ids["input_ids"]) >= MEASURED_TOKENS:
            return text[: ids["offset_mapping"][MEASURED_TOKENS - 1][1]] or text
    return text


def _speeds(
    old: Any, new: Any, tokenizers: tuple[PreTrainedTokenizerFast, PreTrainedTokenizerFast], text: str
) -> dict[str, Any]:
    """Of the model before and after; `in_turns` where there was room for both."""
    both = {"before": (old, tokenizers[0]), "after": (new, tokenizers[1])}
    return {**decoding_speeds({name: pair for name, pair in both.items() if pair[0] is not None}, text)}


def _characters_a_second(speeds: dict[str, Any]) -> dict[str, float]:
    return {name: each["characters_a_second"] for name, each in speeds.items()}


def _copy_where_it_fits(lm: Any) -> Any | None:
    """The model once more, to be measured beside what becomes of it; None where memory is short."""
    import torch

    from tunesmith.engine.world import free_bytes

    size = sum(parameter.nbytes for parameter in lm.parameters())
    room = torch.cuda.mem_get_info()[0] if lm.device.type == "cuda" else free_bytes()
    return copy.deepcopy(lm) if room is None or room > 3 * size else None


def _report(
    section: Vocabulary,
    model: Model,
    tokenizer: PreTrainedTokenizerFast,
    learnt: Learnt,
    ids: Sequence[int],
) -> dict[str, Any]:
    """What was learnt, for a person and for programs."""
    characters = learnt.characters
    decoder = tokenizer.backend_tokenizer.decoder
    return {
        "schema": 1,
        "model": model.path or "model.from_config",
        "data": [source.path for source in section.data],
        "summary": {
            "new_tokens": len(ids),
            "before": learnt.before,
            "after": learnt.after,
            "saved": 1 - learnt.after / learnt.before,
        },
        "why": learnt.why,
        "curve": [{"tokens": count, "tokens_per_character": n / characters} for count, n in learnt.curve],
        "held_out": {"texts": len(learnt.held_out), "characters": characters},
        "read": learnt.read,
        "init": section.init,
        "tokens": {"before": first_new_id(tokenizer), "after": ids[-1] + 1},
        "new": [
            {
                "id": id,
                "token": token.spelling,
                "text": decoder.decode([token.spelling]),
                "of": list(token.of),
            }
            for id, token in zip(ids, learnt.tokens)
        ],
    }
