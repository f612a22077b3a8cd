"""The error a plan states: from the table that comes with us and from what was measured here, whatever lies there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tunesmith.plan import measured
from tunesmith.plan.measured import FILE, Row, TimeRow, record, stated, stated_time

OF_CARDS = 8  # rows measured on cards that come with the package
ROW = Row("cpu", "this one", "a run", 110, 100, 102, 100)


@pytest.fixture(autouse=True)
def _here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path))
    stated.cache_clear()
    stated_time.cache_clear()


def test_the_table_that_comes_with_us_keeps_its_bar() -> None:
    rows = list(measured._packaged("rows", measured._row))
    errors = [abs(row.allocated_error or 0.0) for row in rows]
    assert len(rows) >= 24
    assert max(errors) <= 0.05
    assert sum(errors) / len(errors) <= 0.02


def test_enough_rows_of_this_device_count_alone() -> None:
    before = stated("cpu", "this one")
    for _ in range(measured.ENOUGH):
        record(ROW)
    stated.cache_clear()
    after = stated("cpu", "this one")
    assert (after.share, after.allocated_share, after.rows) == (0.10, 0.02, measured.ENOUGH)
    assert before.rows != after.rows


def test_a_broken_file_is_passed_over(tmp_path: Path) -> None:
    record(ROW)
    with (tmp_path / FILE).open("a") as file:
        file.write(
            '{"kind": "cpu"\n[1]\nnull\n{"kind": "cpu", "device": "x", "what": "y", "predicted_bytes": 0}\n\xff\n'
        )
    assert len(list(measured._own(measured._row))) == 1


def test_a_place_that_cannot_be_written_is_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", "/proc/nowhere")
    record(ROW)


def test_where_little_was_measured_the_error_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    # mutation tried: what some rows of one card say, for all cards
    assert stated("cuda", "a card").rows == OF_CARDS, "those that come with the package"
    assert stated("cuda", "a card").share == pytest.approx(0.05)
    monkeypatch.setattr(measured, "PACKAGED", Path("none.json"))
    stated.cache_clear()
    assert stated("cuda", "a card").share == 0.25
    record(replace(ROW, kind="cuda"))
    stated.cache_clear()
    assert (stated("cuda", "a card").rows, stated("cuda", "a card").share) == (1, pytest.approx(0.225))


# mutation tried: predicted over measured
def test_time_is_stated_between_the_multiples_that_runs_came_to() -> None:
    assert stated_time("cuda", "a card") is None
    for seconds in (50, 80, *[100] * 7, 150, 900):
        record(TimeRow("cuda", "a card", "a run", 100.0, float(seconds)))
    record(TimeRow("cuda", "a card", "took no time", 100.0, 0.5))
    stated_time.cache_clear()
    found = stated_time("cuda", "a card")
    assert found is not None
    assert (found.low, found.high, found.rows) == (0.5, 9.0, 11)
    assert stated("cuda", "a card").rows == OF_CARDS  # a row of time says nothing of memory
