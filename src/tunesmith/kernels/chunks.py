"""How many rows are made at once, of logits and of gates: one rule for the kernels and for the forecast. No torch.

Too few, and the weight is read from memory again and again; too many, and they crowd out what training needs.
"""

from __future__ import annotations

FP32 = 4
# On a processor: 152k words at 26 rows ran at half the speed of 256. A small vocabulary takes more rows, a huge one
# fewer.
CHUNK_ROWS, CHUNK_ELEMENTS, MOST_ELEMENTS = 256, 4_000_000, 40_000_000
LEAST_ROWS = 16
# On a processor (running.py): words of a block, and, of a head that does not train, logits that are made at once
RUNNING_WORDS, RUNNING_ELEMENTS = 1024, 2**20
# On a card: bytes of logits and of what is made from them; at most a share of its memory.
CARD_BYTES, CARD_SHARE = 512 * 2**20, 1 / 32
TILE_ROWS = 128  # of a matrix product's tile there

# What a processor's own cache holds of rows that are walked several times; on a card, what may stand beside a layer.
CACHED_ELEMENTS, CARD_ELEMENTS = 125_000, 2**25

# Attention's backward pass in fp32 where a processor computes in 16 bits (wide_backward.py): tokens of the longest
# document, and of so many at once stand fp32 copies.
WIDE_LONGEST, WIDE_TOKENS = 256, 512

# Weights of a table in 8 or 4 bits that are wide at once (tables.py).
PIECE_ELEMENTS = 2**23
TABLE_BLOCK = 64  # of them share a scale


def rows_per_chunk(vocabulary: int, card_bytes: int | None, bytes_a_logit: int) -> int:
    """Rows whose logits are made at once. card_bytes: memory of the card, 0 where it is not known; None: no card."""
    if card_bytes is None:
        return max(LEAST_ROWS, CHUNK_ELEMENTS // vocabulary, min(CHUNK_ROWS, MOST_ELEMENTS // vocabulary))
    budget = min(CARD_BYTES, card_bytes * CARD_SHARE) if card_bytes else CARD_BYTES
    rows = int(budget) // (vocabulary * bytes_a_logit)
    return max(LEAST_ROWS, rows - rows % TILE_ROWS if rows > TILE_ROWS else rows)


def first_rows(rows: int, width: int) -> int:
    """Rows of the first chunk where a head's weight trains on a processor: its exponentials stand where the gradient
    will be, whose rows are so wide; so many at least as in those after it."""
    return max(rows, min(width, RUNNING_ELEMENTS // RUNNING_WORDS))


def waiting_rows(asked: int, rows: int, width: int) -> int:
    """Of so many, those whose exponentials stand at once in a place of their own."""
    first = min(asked, first_rows(rows, width))
    return max(0 if first <= width else first, min(rows, asked - first))


def walked_rows(width: int, card: bool) -> int:
    """Rows of `width` numbers that are walked several times before the next ones."""
    return max(1, (CARD_ELEMENTS if card else CACHED_ELEMENTS) // width)


def running_shape(vocabulary: int) -> tuple[int, int]:
    """(rows, words) of a block of logits of a head that does not train, on a processor."""
    words = min(vocabulary, RUNNING_WORDS)
    return max(LEAST_ROWS, RUNNING_ELEMENTS // words), words


def bytes_a_logit(compute: int, fused: bool, learns: bool = True) -> int:
    """Bytes alive for a logit at the dearest moment; compute: of an element as products are computed.

    fused: one kernel turns logits into their gradient in place; else they stand in fp32 until all are summed.
    learns: a gradient is wanted; else their logarithms stand beside them.
    """
    if not learns:
        return 2 * FP32
    return compute if fused else FP32
