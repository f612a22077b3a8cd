"""Lengths and books for people: how long samples are, what each source brings, what became of the rows."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from tunesmith.data.mix import mixed, within_repeats

if TYPE_CHECKING:
    from tunesmith.data.prepare import Prepared
    from tunesmith.data.samples import SampleSet
    from tunesmith.recipe import Data


def describe(lengths: ndarray, unit: str) -> dict[str, Any]:
    """Count, total, quantiles and a histogram by powers of two; an empty array gives zeros."""
    return describe_counts(*np.unique(lengths, return_counts=True), unit)


def describe_counts(values: ndarray, counts: ndarray, unit: str) -> dict[str, Any]:
    """The same of lengths that are told as how many there are of each: values rise, counts are above zero."""
    ends = np.cumsum(counts)
    count = int(counts.sum())
    places = [math.ceil(q * (count - 1)) for q in (0, 0.5, 0.95, 1)]
    quantiles = [int(values[np.searchsorted(ends, at, side="right")]) if count else 0 for at in places]
    names = ("min", "median", "p95", "max")
    total = int((values * counts).sum())
    return {
        "unit": unit,
        "count": count,
        "total": total,
        "mean": round(total / count, 1) if count else 0.0,
        **dict(zip(names, quantiles)),
        "histogram": _histogram(values, counts),
    }


def _histogram(values: ndarray, counts: ndarray) -> list[dict[str, int]]:
    """[{"from": 16, "to": 31, "count": 5}, ...] without empty ends."""
    if not len(values):
        return []
    edges = [0, 1]
    while edges[-1] <= values.max():
        edges.append(edges[-1] * 2)
    found, _ = np.histogram(values, [e - 0.5 for e in edges], weights=counts)
    bins = [{"from": a, "to": b - 1, "count": int(n)} for a, b, n in zip(edges, edges[1:], found)]
    filled = [i for i, item in enumerate(bins) if item["count"]]
    return bins[filled[0] : filled[-1] + 1]


def _of(sets: Sequence[SampleSet]) -> dict[str, Any]:
    """Lengths of several sets of samples together."""
    counts = np.zeros(1 + max((each.longest for each in sets), default=0), np.int64)
    for each in sets:
        counts[: len(each.length_counts)] += each.length_counts
    values = np.flatnonzero(counts)
    return describe_counts(values, counts[values], "tokens")


def stats(prepared: Prepared, data: Data) -> dict[str, Any]:
    """What `data stats` tells: lengths of the samples of each split, tokens a train source, the ledger."""
    held_out = {"validation": prepared.validation, "test": prepared.test}
    lengths = {"train": _of(prepared.train)}
    lengths |= {name: _of([part]) for name, part in held_out.items() if part is not None}
    return {
        "lengths": lengths,
        "sources": _sources(prepared, data),
        "ledger": prepared.ledger.to_json(),
        "longest": prepared.longest,
        "fingerprint": prepared.fingerprint,
    }


def _sources(prepared: Prepared, data: Data) -> list[dict[str, Any]]:
    """Of each train source: what it holds, and what it gives of an epoch's tokens as the recipe mixes them.

    `repeats` is how often its tokens are seen in that epoch.
    """
    paths = [source.path for source in prepared.ledger.sources if source.use == "train"]
    sizes = [part.token_count for part in prepared.train]
    total = sum(sizes)
    asked = mixed(sizes, prepared.weights, data.mix, [source.group for source in data.train])
    given = within_repeats(asked, sizes, total)
    return [
        {
            "path": path,
            "samples": len(part),
            "tokens": size,
            "targets": part.target_count,
            "share": round(size / max(1, total), 4),
            "weight": weight,
            "budget_share": round(share, 4),
            "budget_tokens": round(share * total),
            "repeats": round(share * total / size, 3) if size else 0.0,
        }
        for path, part, size, weight, share in zip(paths, prepared.train, sizes, prepared.weights, given)
    ]
