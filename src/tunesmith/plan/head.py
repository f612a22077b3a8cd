"""What the output head holds: a chunk of logits and what is made of them, or all of them in a model's own forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.kernels.chunks import (
    PIECE_ELEMENTS,
    bytes_a_logit,
    first_rows,
    rows_per_chunk,
    running_shape,
    waiting_rows,
)
from tunesmith.plan.activations import FP32
from tunesmith.tuning.footprint import footprint

if TYPE_CHECKING:
    from tunesmith.plan.memory import Load


def head_bytes(load: Load, compute: int, table: int) -> tuple[float, float]:
    """What the head holds at the loss and in its backward; table: bytes of its gradient, where it trains.

    A model that runs through its own forward makes all logits at once, and that gradient only afterwards.
    """
    if load.facts.own_forward is None:
        return table + chunk_bytes(load, compute), table
    learnt = load.asked * load.facts.vocab_size * FP32
    logits = load.computed * load.facts.vocab_size * compute + learnt
    return logits + learnt, logits + table


def _slope(load: Load) -> int:
    """Bytes of a soft cap's derivative by a logit, which stands beside a block of them; on a card a kernel makes it."""
    return FP32 * (load.device != "cuda" and load.facts.spelling.softcap is not None)


def in_blocks(load: Load, learns: bool = True) -> bool:
    """Whether a block of words is gone when the next is made (kernels/running.py): on a processor, nothing learnt."""
    spelling, found = load.facts.spelling, footprint(load.tuning, load.facts)
    weight = spelling.embedding if load.facts.tied else spelling.head
    moves = {f"{weight}.weight", f"{spelling.head}.bias"} & (found.names | found.rows.keys())
    return load.device != "cuda" and not (learns and moves)


def head_rows(load: Load, compute: int, learns: bool = True) -> int:
    """Rows of logits made at once."""
    if in_blocks(load, learns):
        return running_shape(load.facts.vocab_size)[0]
    card = load.card_bytes if load.device == "cuda" else None
    alive = bytes_a_logit(compute, load.device == "cuda", learns)
    return rows_per_chunk(load.facts.vocab_size, card, alive)


def held_bytes(load: Load, compute: int) -> float:
    """Exponentials of a head that trains on a processor, but for those that stand where its gradient will be."""
    facts, rows = load.facts, head_rows(load, compute)
    waiting = (
        waiting_rows(load.asked, rows, facts.hidden_size)
        if load.trains.head(facts)
        else min(load.asked, rows)
    )
    return waiting * facts.vocab_size * FP32


def chunk_bytes(load: Load, compute: int, learns: bool = True) -> float:
    """Logits of a chunk, and what is made of them, all words' or a block's; the head's weight, cast, where it is
    stored wider: a block of it at a time on a processor, all of it on a card, a piece where it is in few bits.

    Where nothing is learnt logarithms stand beside the logits.
    """
    facts, rows = load.facts, min(load.asked, head_rows(load, compute, learns))
    if load.device == "cuda":
        hidden = load.asked * facts.hidden_size * compute
        summed = rows * facts.hidden_size * FP32 * (load.tuning.tables != 16)  # over the pieces
        alive = bytes_a_logit(compute, True, learns)
        return rows * facts.vocab_size * alive + hidden + _cast(load, compute, facts.vocab_size) + summed
    words = running_shape(facts.vocab_size)[1]
    narrow = compute if compute != FP32 else 0
    if learns and load.trains.head(facts):
        rows = min(load.asked, first_rows(rows, facts.hidden_size))
    logits: float = rows * words * FP32  # of a block
    if not in_blocks(load, learns):
        # all words' until all is summed, then a block's share of the weight's gradient
        logits = max(logits, held_bytes(load, compute) + words * facts.hidden_size * FP32)
        logits += rows * facts.vocab_size / words * FP32  # of each block the highest logit so far
    logits += rows * words * (narrow + learns * _slope(load))
    pull = load.asked * facts.hidden_size * FP32 + rows * facts.hidden_size * narrow
    return logits + load.asked * facts.hidden_size * narrow + pull * learns + _cast(load, compute, words)


def _cast(load: Load, compute: int, words: int) -> float:
    """The head's weight in the dtype of the products, so many words of it."""
    facts = load.facts
    at_once = min(words * facts.hidden_size, facts.embedding_parameters)
    if load.tuning.tables == 16:
        stored = FP32 if load.trains.head(facts) else load.frozen_bytes
        return at_once * compute if stored != compute else 0
    wide = FP32 + (compute if compute != FP32 else 0)  # made in fp32, then rounded
    if load.tuning.tables == 4:  # by one kernel; else codes, places and levels of each stand side by side
        wide = compute if load.device == "cuda" else 1 + 2 * FP32
    return min(at_once, PIECE_ELEMENTS) * wide
