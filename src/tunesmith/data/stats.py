"""Lengths and books for people: how long samples are, what each source brings, what became of the rows."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from tunesmith.data.prepare import Prepared


def describe(lengths: ndarray, unit: str) -> dict[str, Any]:
    """Count, total, quantiles and a histogram by powers of two; an empty array gives zeros."""
    if not len(lengths):
        lengths = np.zeros(0, np.int64)
        quantiles = [0, 0, 0, 0]
    else:
        quantiles = [int(q) for q in np.quantile(lengths, [0, 0.5, 0.95, 1], method="higher")]
    names = ("min", "median", "p95", "max")
    return {
        "unit": unit,
        "count": len(lengths),
        "total": int(lengths.sum()),
        "mean": round(float(lengths.mean()), 1) if len(lengths) else 0.0,
        **dict(zip(names, quantiles)),
        "histogram": _histogram(lengths),
    }


def _histogram(lengths: ndarray) -> list[dict[str, int]]:
    """[{"from": 16, "to": 31, "count": 5}, ...] without empty ends."""
    if not len(lengths):
        return []
    edges = [0, 1]
    while edges[-1] <= lengths.max():
        edges.append(edges[-1] * 2)
    counts, _ = np.histogram(lengths, [e - 0.5 for e in edges])
    bins = [{"from": a, "to": b - 1, "count": int(n)} for a, b, n in zip(edges, edges[1:], counts)]
    filled = [i for i, item in enumerate(bins) if item["count"]]
    return bins[filled[0] : filled[-1] + 1]


def stats(prepared: Prepared) -> dict[str, Any]:
    """What `data stats` tells: lengths of the samples of each split, tokens a train source, the ledger."""
    held_out = {"validation": prepared.validation, "test": prepared.test}
    train = np.concatenate([source.lengths for source in prepared.train])
    lengths = {"train": describe(train, "tokens")}
    lengths |= {name: describe(part.lengths, "tokens") for name, part in held_out.items() if part is not None}
    paths = [source.path for source in prepared.ledger.sources if source.use == "train"]
    total = max(1, int(train.sum()))
    sources = [
        {
            "path": path,
            "samples": len(part),
            "tokens": len(part.tokens),
            "targets": int(part.targets.sum()),
            "share": round(len(part.tokens) / total, 4),
            "weight": weight,
        }
        for path, part, weight in zip(paths, prepared.train, prepared.weights)
    ]
    return {
        "lengths": lengths,
        "sources": sources,
        "ledger": prepared.ledger.to_json(),
        "longest": prepared.longest,
        "fingerprint": prepared.fingerprint,
    }
