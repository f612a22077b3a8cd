"""The summary of the data, from the ledger and the steps of a run."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from tunesmith.data.ledger import Ledger, SourceLedger, SplitLedger, TokenLedger
from tunesmith.data.samples import Sample, SampleSet, collect
from tunesmith.plan.summary import summarise


def samples(*lengths: int) -> SampleSet:
    return collect(Sample(np.zeros(n, np.int32), np.zeros(n, np.int32), "a:1") for n in lengths)


def source(path: str, use: Any, rows: int, **counts: int) -> SourceLedger:
    fates = {"whole": 0, "shortened": 0, "split": 0, "expanded": 0, "dropped": 0, "not_read": 0, **counts}
    reasons = {"turn_too_long": counts.get("dropped", 0)}
    return SourceLedger(path, "messages", use, rows, reasons=reasons, **fates)


def test_the_summary_counts_what_rules_ask_for() -> None:
    ledger = Ledger(
        (
            source("a.jsonl", "train", 10, whole=6, shortened=2, dropped=1, not_read=1),
            source("b.jsonl", "validation", 3, whole=3),
        ),
        TokenLedger(kept=100, cut=9, targets=60),
        {"train": SplitLedger(8, 8, 80, 50), "validation": SplitLedger(3, 3, 20, 10), "test": SplitLedger()},
    )
    data = SimpleNamespace(
        train=(samples(10, 30), samples(20, 20)),
        validation=samples(5, 5, 5),
        ledger=ledger,
        longest=30,
        streams=None,
    )
    steps = SimpleNamespace(total_tokens=200, epoch_tokens=80, passes=(2.0, 3.0), realised=(0.4, 0.6))
    found = summarise(data, steps, SimpleNamespace(name="plain"))  # type: ignore[arg-type]
    assert (found.rows, found.targets, found.sources, found.validation_rows) == (8, 50, 1, 3)
    assert found.epochs == 2.5
    assert found.most_repeats == 3.0
    assert found.cut_share == pytest.approx(3 / 9)  # two shortened, one too long, of nine that were read
    assert found.attended == pytest.approx((100 + 900 + 400 + 400) / 80)
    assert found.dialogue
    assert found.template == "plain"
