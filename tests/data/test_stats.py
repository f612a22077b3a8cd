"""Lengths and books, as `data stats` tells them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.byte_tokenizer import byte_template, byte_tokenizer
from tunesmith.data.prepare import prepare
from tunesmith.data.stats import describe, stats
from tunesmith.recipe import Data


# mutation tried: a histogram edge shifted by one
@given(st.lists(st.integers(0, 5000), max_size=50))
def test_the_histogram_counts_every_length_once(lengths: list[int]) -> None:
    told = describe(np.array(lengths, np.int64), "tokens")
    assert told["count"] == len(lengths) == sum(bin["count"] for bin in told["histogram"])
    assert told["total"] == sum(lengths)
    for bin in told["histogram"]:
        assert bin["count"] == sum(bin["from"] <= length <= bin["to"] for length in lengths)
    if lengths:
        assert (told["min"], told["max"]) == (min(lengths), max(lengths))


def test_stats_name_each_source_and_add_up(tmp_path: Path) -> None:
    paths = []
    for name in "ab":
        path = tmp_path / f"{name}.jsonl"
        rows = ({"prompt": f"{name}{i}", "response": "yes"} for i in range(10))
        path.write_text("\n".join(map(json.dumps, rows)))
        paths.append(str(path))
    data = Data(train=({"path": paths[0]}, {"path": paths[1], "weight": 2}), validation=2)
    told = stats(prepare(data, "sft", byte_tokenizer(), byte_template(), 0), data)
    json.dumps(told)
    assert [source["path"] for source in told["sources"]] == paths
    assert [source["weight"] for source in told["sources"]] == [None, 2.0]
    assert told["lengths"]["train"]["count"] == 18
    assert told["lengths"]["validation"]["count"] == 2
    assert sum(source["tokens"] for source in told["sources"]) == told["ledger"]["splits"]["train"]["tokens"]


# mutation tried: the mix left out of the call
@pytest.mark.parametrize(
    ("mix", "weights", "shares", "repeats"),
    [
        ({}, (None, None), (0.75, 0.25), (1, 1)),
        ({}, (1, 3), (0.25, 0.75), (0.333, 3)),
        ({"general_ratio": 1}, (None, None), (0.5, 0.5), (0.667, 2)),
        ({"general_ratio": 1, "max_repeats": 1.5}, (None, None), (0.625, 0.375), (0.833, 1.5)),
    ],
)
def test_the_epoch_is_what_the_mix_makes_of_it(
    tmp_path: Path, mix: dict[str, float], weights: Any, shares: Any, repeats: Any
) -> None:
    sources = []
    for count, weight, group in zip((30, 10), weights, ("domain", "general")):
        path = tmp_path / f"{group}.jsonl"
        path.write_text(
            "\n".join(json.dumps({"prompt": f"{i:02}", "response": group[:6]}) for i in range(count))
        )
        sources.append({"path": str(path), "weight": weight, "group": group})
    data = Data(train=sources, validation=None, mix=mix)
    told = stats(prepare(data, "sft", byte_tokenizer(), byte_template(), 0), data)["sources"]
    assert tuple(source["budget_share"] for source in told) == shares
    assert tuple(source["repeats"] for source in told) == repeats
