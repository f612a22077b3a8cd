"""Pack documents into micro-batches. lengths [5 3 3 2], at most 8 tokens -> [[0 1] [2 3]] (first fit, longest first).

Within a micro-batch documents stand longest first, so that those of like length are neighbours.
"""

from __future__ import annotations

import numpy as np
from numpy import ndarray


def pack(lengths: ndarray, most_tokens: int, padded: bool = False) -> list[list[int]]:
    """Indices of the documents of each micro-batch. lengths: Int64[ndarray, "N"].

    A micro-batch computes at most `most_tokens` tokens, counting padding where `padded`; a longer document
    stands alone. Every document stands in exactly one.
    """
    order = np.argsort(-lengths, kind="stable").tolist()
    return (
        _rows_of_equal_width(lengths, order, most_tokens)
        if padded
        else _first_fit(lengths, order, most_tokens)
    )


# Rows of a product that is compiled for its shape are multiples of a power of two: of 1/16 of them, in these bounds.
LEAST_FILL, MOST_FILL = 16, 128


def filled(tokens: int, targets: int) -> tuple[int, int]:
    """What a micro-batch has when it is filled up; each of the further targets stands at a further token."""
    sixteenth = 1 << max(0, (tokens // 16).bit_length() - 1)
    size = min(MOST_FILL, max(LEAST_FILL, sixteenth))
    more, more_targets = -tokens % size, -targets % size
    while more < more_targets:
        more += size
    return tokens + more, targets + more_targets


def _first_fit(lengths: ndarray, order: list[int], most_tokens: int) -> list[list[int]]:
    bins: list[list[int]] = []
    room: list[int] = []
    for index in order:
        length = int(lengths[index])
        for at, free in enumerate(room):
            if length <= free:
                bins[at].append(index)
                room[at] -= length
                break
        else:
            bins.append([index])
            room.append(most_tokens - length)
    return bins


def _rows_of_equal_width(lengths: ndarray, order: list[int], most_tokens: int) -> list[list[int]]:
    bins: list[list[int]] = []
    for index in order:
        if bins and (len(bins[-1]) + 1) * int(lengths[bins[-1][0]]) <= most_tokens:
            bins[-1].append(index)
        else:
            bins.append([index])
    return bins
