"""What the output head holds: a chunk of logits and what is made of them, or all of them in a model's own forward."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tunesmith.kernels.chunks import PIECE_ELEMENTS, bytes_a_logit, rows_per_chunk, running_shape
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


def _alive(load: Load, compute: int, learns: bool = True) -> int:
    """Bytes alive for each logit of a chunk."""
    return _slope(load, learns) + bytes_a_logit(compute, load.device == "cuda", learns)


def _slope(load: Load, learns: bool) -> int:
    """Bytes of a soft cap's derivative by a logit, which stands beside it but on a card, where a kernel makes it."""
    return FP32 * (learns and load.device != "cuda" and load.facts.spelling.softcap is not None)


def in_blocks(load: Load, learns: bool = True) -> bool:
    """Whether a block of words is made after the other (kernels/running.py): on a processor, nothing of it learnt."""
    spelling, found = load.facts.spelling, footprint(load.tuning, load.facts)
    weight = spelling.embedding if load.facts.tied else spelling.head
    moves = {f"{weight}.weight", f"{spelling.head}.bias"} & (found.names | found.rows.keys())
    return load.device != "cuda" and not (learns and moves)


def head_rows(load: Load, compute: int, learns: bool = True) -> int:
    """Rows of logits made at once."""
    if in_blocks(load, learns):
        return running_shape(load.facts.vocab_size)[0]
    card = load.card_bytes if load.device == "cuda" else None
    return rows_per_chunk(load.facts.vocab_size, card, _alive(load, compute, learns))


def chunk_bytes(load: Load, compute: int, learns: bool = True) -> float:
    """Logits of a chunk, or of a block of words, and what is made from them; the head's weight, cast, where it is
    stored wider.

    A head in few bits is cast a piece or a block at a time. Where nothing is learnt logarithms stand beside the logits.
    """
    facts, rows = load.facts, min(load.asked, head_rows(load, compute, learns))
    stored = FP32 if load.trains.head(facts) else load.frozen_bytes
    runs, table = in_blocks(load, learns), load.facts.embedding_parameters
    words = running_shape(facts.vocab_size)[1] if runs else facts.vocab_size
    at_once = words * facts.hidden_size if runs else table
    cast = at_once * compute if stored != compute else 0
    if load.tuning.tables != 16:
        wide = FP32 + (compute if compute != FP32 else 0)  # made in fp32, then rounded
        if load.tuning.tables == 4:  # by one kernel; else codes, places and levels of each stand side by side
            wide = compute if load.device == "cuda" else 1 + 2 * FP32
        cast = min(at_once, PIECE_ELEMENTS, table) * wide
    hidden = load.asked * facts.hidden_size * compute
    if not runs:
        summed = rows * facts.hidden_size * FP32 * (load.tuning.tables != 16)  # over the pieces
        return rows * words * _alive(load, compute, learns) + hidden + cast + summed
    narrow = compute != FP32
    logit = FP32 + compute * narrow + _slope(load, learns)
    pull = load.asked * facts.hidden_size * FP32 + rows * facts.hidden_size * compute * narrow
    return rows * words * logit + hidden * narrow + pull * learns + cast
