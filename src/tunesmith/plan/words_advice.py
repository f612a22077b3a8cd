"""Advice on tokens: a tokenizer that does not fit its model, a stop that is padding, a vocabulary that costs time."""

from __future__ import annotations

from dataclasses import dataclass

from tunesmith.plan.case import Advice, Case

# An embedding is often padded to a round number, and some models keep rows free on purpose.
SPARE_ROWS, SPARE_SHARE = 1024, 0.05
COSTLY_TOKENS_A_CHARACTER = 1.0
ENOUGH_ROWS = 1000


@dataclass(frozen=True, slots=True)
class WordFacts:
    """What rules ask of a tokenizer. tokens_a_character: measured on the first training rows, None if too few."""

    tokens: int
    pad_is_stop: bool
    tokens_a_character: float | None


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
