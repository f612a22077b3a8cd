"""Advice on tokens: a tokenizer that does not fit its model, a stop that is padding, a vocabulary that costs time."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.plan.case import Advice, Case
from tunesmith.recipe import LowRank

# An embedding is often padded to a round number, and some models keep rows free on purpose.
SPARE_ROWS, SPARE_SHARE = 1024, 0.05
COSTLY_TOKENS_A_CHARACTER = 1.0
ENOUGH_ROWS = 1000
FAR, FAR_RANK = 1.25, 64


@dataclass(frozen=True, slots=True)
class WordFacts:
    """What rules ask of a tokenizer. Measured on the first training rows, None where they say too little:
    tokens_a_character, and distance, tokens a word against general English (distance.py)."""

    tokens: int
    pad_is_stop: bool
    tokens_a_character: float | None
    distance: float | None = None


def vocabulary_mismatch(case: Case) -> Advice | None:
    """A tokenizer and an embedding that were not made for each other."""
    words = case.data.words if case.data is not None else None
    if words is None or case.new_model:
        return None
    rows, more = case.facts.vocab_size, words.tokens - case.facts.vocab_size
    change = {"model.tokenizer": None} if case.recipe.model.tokenizer else {}
    source = "note 003, choosing a template: the tokenizer of one model, all the way"
    if more > 0:
        what = f"the tokenizer knows {more:,} tokens for which the embedding has no row ({rows:,} rows)"
        return Advice("vocabulary_mismatch", f"{what}: a text that holds one cannot be read", source, change)
    if -more <= max(SPARE_ROWS, SPARE_SHARE * rows):
        return None
    what = f"the embedding has {-more:,} rows more than the tokenizer has tokens"
    return Advice("vocabulary_mismatch", f"{what}: is it the tokenizer of another model?", source, change)


def pad_is_stop(case: Case) -> Advice | None:
    """The token that ends an answer is also the one that pads."""
    words = case.data.words if case.data is not None else None
    if words is None or not case.sft or not words.pad_is_stop:
        return None
    return Advice(
        "pad_is_stop",
        "padding and the end of an answer are one token. It is learnt here all the same (labels come from places, "
        "not from ids), but a tool that leaves padding out of the loss would teach the exported model never to stop",
        "docs/labels.md",
    )


def vocabulary_extension(case: Case) -> Advice | None:
    """A text that falls into more tokens than characters: slow to write, and the one reason to add tokens."""
    words = case.data.words if case.data is not None else None
    if words is None or case.data is None or case.new_model or words.tokens_a_character is None:
        return None
    if words.tokens_a_character <= COSTLY_TOKENS_A_CHARACTER or case.data.rows < ENOUGH_ROWS:
        return None
    return Advice(
        "vocabulary_extension",
        f"{words.tokens_a_character:.2f} tokens a character were measured on this data: a larger vocabulary would "
        "write it that much quicker. It makes answers faster, hardly better, and must be trained on much text first; "
        "a model made for this language is the simpler way. tunesmith vocab measures both",
        "note 001, points 10 and 11",
    )


def far_domain(case: Case) -> Advice | None:
    """Words that the model has seldom read, and an update too small to learn them."""
    words, tuning = case.data.words if case.data is not None else None, case.recipe.tuning
    if words is None or case.data is None or words.distance is None or words.distance < FAR or case.new_model:
        return None
    if case.data.rows < ENOUGH_ROWS or not isinstance(tuning, LowRank) or tuning.rank >= FAR_RANK:
        return None
    return Advice(
        "far_domain",
        f"the words of this data fall into {words.distance:.1f} times as many tokens as those of general English: the "
        f"model has seldom read them. An update of rank {tuning.rank} learns a form rather than such a domain: a "
        "larger one does more, as does learning from its texts first (stages: pretrain, then sft)",
        "arXiv:2405.09673, LoRA Learns Less and Forgets Less; how it is measured, and its limits: docs/advice.md",
        {"tuning.rank": FAR_RANK},
    )
