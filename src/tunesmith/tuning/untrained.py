"""Control tokens that nobody has trained: refused, unless the tables that hold them train (note 003).

template writes <|im_start|>   its row of the base was never learnt   LoRA leaves it frozen   -> refused, with ways out
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.errors import RecipeError
from tunesmith.model.config import read_config
from tunesmith.model.rows import Tables, read_tables, untrained_rows, weights_folder
from tunesmith.model.vocabulary_file import new_ids
from tunesmith.tuning.footprint import footprint

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.prepare import Prepared
    from tunesmith.data.template import ChatTemplate
    from tunesmith.model.facts import ModelFacts
    from tunesmith.recipe import Model, Recipe


def with_new_tokens(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    data: Prepared,
    facts: ModelFacts,
    model: Model | None,
) -> ModelFacts:
    """The facts with `new_tokens`: a vocabulary's, and added tokens of the data whose rows the base has not learnt.

    `model` is what the tables are read of; None where they are yet to be trained.
    Raises RecipeError where a control token would stay untrained, and where new_tokens_only has none to train.
    """
    only = recipe.tuning.new_tokens_only
    told = set(facts.new_tokens) | set(new_ids(weights_folder(model) if model else None))
    tables = read_tables(model) if model else None
    if tables is None and (told or model is None):
        return replace(facts, new_tokens=tuple(sorted(told)))
    if tables is None:
        if only:
            what = "new tokens are told by the weights, which are not here yet, or have fewer than 16 bits"
            raise RecipeError.at(
                "tuning.new_tokens_only", what, "download the model first, or leave this out"
            )
        return facts
    added = set(tokenizer.get_added_vocab().values())
    read, written = _untrained(tables, data, added, len(tokenizer))
    if only and not (told or read or written):
        what = "the model has learnt every added token of the data: no row would train"
        raise RecipeError.at("tuning.new_tokens_only", what, "leave out new_tokens_only and also_train")
    facts = replace(facts, new_tokens=tuple(sorted(told | read | written)))
    assert model is not None
    _refuse(recipe, tokenizer, template, facts, read, written, _own(recipe, model, tokenizer))
    return facts


def _untrained(
    tables: Tables, data: Prepared, added: Collection[int], tokens: int
) -> tuple[set[int], set[int]]:
    """Added tokens that the data make a model read, and write, without its having learnt to."""
    read = _among(added, (source.ids() for source in data.train))
    written = _among(added, (source.ids(learnt=True) for source in data.train))
    return (
        set(untrained_rows(tables.embedding, read, added, tokens)),
        set(untrained_rows(tables.head, written, added, tokens)),
    )


def _among(wanted: Collection[int], columns: Iterable[np.ndarray]) -> set[int]:
    """Which of the wanted ids stand in the columns."""
    seen = np.zeros(max(wanted, default=0) + 1, bool)
    for column in columns:
        seen[column[(column >= 0) & (column < len(seen))]] = True
    return {id for id in wanted if seen[id]}


def _refuse(
    recipe: Recipe,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    facts: ModelFacts,
    read: set[int],
    written: set[int],
    own: set[int],
) -> None:
    """Raise RecipeError where a control token stays untrained that the base need not have learnt otherwise."""
    trains = footprint(recipe.tuning, facts)
    names = trains.names | trains.rows.keys()
    embedding, head = f"{facts.spelling.embedding}.weight", f"{facts.spelling.head}.weight"
    stay = set() if embedding in names else set(read)
    stay |= set() if (embedding if facts.tied else head) in names else written
    stay &= set(template.control.by_text.values()) - own
    if not stay:
        return
    tokens = ", ".join(tokenizer.convert_ids_to_tokens(sorted(stay)))
    modules = ", ".join(name.rpartition(".")[2] for name in (facts.spelling.embedding, facts.spelling.head))
    ways = [] if template.name == "plain" else ["set data.template: plain, which needs no token of its own"]
    ways += [f"set tuning.also_train: [{modules}]", "start from the Chat model"]
    raise RecipeError.at(
        "tuning.method",
        f"{recipe.tuning.method} leaves frozen what the base has never learnt: {tokens} "
        f"(written by the template {template.name})",
        "; or ".join(ways),
    )


def _own(recipe: Recipe, model: Model, tokenizer: PreTrainedTokenizerFast) -> set[int]:
    """BOS, EOS and padding of the base itself: no template does without, and padding's row is 0 by construction."""
    config = read_config(model).values
    text = config.get("text_config") or config.get("llm_config") or {}
    values = [part.get(f"{kind}_token_id") for part in (config, text) for kind in ("bos", "eos", "pad")]
    if recipe.model.tokenizer is None:
        values += [tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id]
    return {
        id for value in values for id in (value if isinstance(value, list) else [value]) if id is not None
    }
