"""The books balance, or they are not closed."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.ledger import Ledger, SourceAccount, SplitLedger, TokenLedger, TouchedRow, merge_reasons

FATES = ["whole", "shortened", "split", "expanded", "dropped", "not_read"]


# mutation tried: settle() without counting expanded rows
@given(fates=st.lists(st.sampled_from(FATES), max_size=40))
def test_every_row_has_one_fate(fates: list[str]) -> None:
    account = SourceAccount("a.jsonl", "alpaca", "train")
    for fate in fates:
        account.arrive()
        account.settle(fate, "empty_answer" if fate == "dropped" else None)  # type: ignore[arg-type]
    source = account.close()
    assert source.balance() == 0
    assert source.rows_in == len(fates)
    kept = sum(fates.count(fate) for fate in FATES[:4])
    Ledger((source,), TokenLedger(), {"train": SplitLedger(rows=kept)})


def books() -> Ledger:
    account = SourceAccount("a.jsonl", "alpaca", "train")
    account.arrive(3)
    account.settle("whole")
    account.settle("shortened", "too_long")
    account.settle("dropped", "empty_answer")
    touched = (TouchedRow("a.jsonl:2", "shortened", "too_long", cut_tokens=4, samples=1),)
    tokens = TokenLedger(kept=10, cut=4, targets=5)
    return Ledger((account.close(),), tokens, {"train": SplitLedger(2, 2, 9, 5)}, touched)


# mutation tried: __post_init__ without one of the asserts
def test_books_that_do_not_balance_are_refused() -> None:
    ledger = books()
    with pytest.raises(AssertionError, match="1 rows unaccounted for"):
        replace(ledger, sources=(replace(ledger.sources[0], rows_in=4),))
    with pytest.raises(AssertionError, match="no reason"):
        replace(ledger, sources=(replace(ledger.sources[0], reasons={}),))
    with pytest.raises(AssertionError, match="targets"):
        replace(ledger, tokens=TokenLedger(targets=6))
    with pytest.raises(AssertionError, match="rows kept"):
        replace(ledger, splits={"train": SplitLedger(1, 2, 9, 5)})


def test_json_has_the_contracted_shape() -> None:
    ledger = books().with_repeats([2.5])
    value = json.loads(json.dumps(ledger.to_json()))
    (source,) = value["sources"]
    assert set(source) >= {"path", "format", "rows_in", *FATES, "reasons", "repeats"}
    assert source["repeats"] == 2.5
    assert source["reasons"] == {"empty_answer": 1, "too_long": 1}
    assert value["tokens"]["in"] == value["tokens"]["kept"] + value["tokens"]["cut"] == 14
    assert value["splits"]["train"] == {"rows": 2, "samples": 2, "tokens": 9, "targets": 5}
    (line,) = ledger.row_lines()
    assert json.loads(line)["address"] == "a.jsonl:2"
    assert merge_reasons(ledger.sources * 2) == {"empty_answer": 2, "too_long": 2}
