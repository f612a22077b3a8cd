"""Whole runs that learn from a stream: to the end, stopped and gone on with, ended early, and waiting."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests.faults.kills import differences, make, outcome, recipe
from tunesmith import run
from tunesmith.data.streaming.plan import StreamPlan
from tunesmith.engine import faults
from tunesmith.errors import DiskFullError, RecipeError
from tunesmith.events import read
from tunesmith.recipe import Recipe, dump, parse


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_WORKERS", "0")


def shown(plan: dict[str, Any]) -> str:
    import io

    from rich.console import Console

    from tunesmith.app.render.base import THEME
    from tunesmith.app.render.plan import page

    console = Console(width=200, record=True, file=io.StringIO(), theme=THEME)
    console.print(page(plan))
    return console.export_text()


def changed(folder: Path, **changes: Any) -> Recipe:
    import yaml

    values = yaml.safe_load(dump(recipe(folder)))
    for key, value in changes.items():
        values[key] = {**values[key], **value} if isinstance(value, dict) else value
    return parse(values)


# mutation tried: a plan that goes on does not count the last window of its log
def test_a_streaming_run_goes_on_after_a_stop_and_ends_the_same(tmp_path: Path) -> None:
    whole = make(tmp_path / "whole", "streaming")
    run.train(recipe(whole))
    expected = outcome(whole)
    (whole / "run").rename(tmp_path / "first")
    for stop in (7, None):
        run.train(recipe(whole), resume=stop != 7, stop_after=stop)
    assert differences(expected, outcome(whole)) == []
    ledger = json.loads((whole / "run" / "ledger.json").read_text())
    stream = ledger["sources"][0]
    assert stream["path"].endswith("stream.py:rows")
    assert stream["rows_in"] == stream["whole"] + stream["dropped"]
    assert stream["reasons"] == {"missing_key": stream["dropped"]}
    assert stream["dropped"]
    written = (whole / "run" / "report.md").read_text()
    assert "| tokens asked | tokens given | times read |" in written
    assert f"{stream['learnt_samples']} samples of the {stream['rows_in']} rows" in written
    shards = list((whole / "run" / "stream" / "0").glob("shard-*.bin"))
    assert len(shards) < stream["rows_in"] / 5, "shards before every checkpoint are gone"


def test_a_stream_that_ends_early_ends_the_run_in_good_order(tmp_path: Path) -> None:
    folder = make(tmp_path / "one", "streaming")
    (folder / "stream.py").write_text((folder / "stream.py").read_text().replace("10**9", "24"))
    outcome = run.train(recipe(folder))
    assert outcome.status == "done"
    assert 3 < outcome.steps < 20
    told = [event for event in read(folder / "run" / "events.jsonl") if event["kind"] == "rescued"]
    assert len(told) == 1
    assert "ended after 24 rows" in told[0]["reason"]
    assert f"step {outcome.steps} of 20" in told[0]["reason"]
    assert (folder / "run" / "adapter").is_dir()
    evaluated = [
        event["step"] for event in read(folder / "run" / "events.jsonl") if event["kind"] == "evaluated"
    ]
    assert evaluated[-1] == outcome.steps
    assert run.train(recipe(folder), resume=True).status == "done"


def test_a_stream_that_stalls_is_named(tmp_path: Path) -> None:
    folder = make(tmp_path / "one", "streaming")
    text = "    import time\n    for n in range(start, 60):\n        if n == 24: time.sleep(1.5)\n"
    (folder / "stream.py").write_text(
        f"def rows(start):\n{text}        yield {{'prompt': f'q{{n}}', 'response': 'a'}}\n"
    )
    run.train(changed(folder, rescue={"stall_minutes": 0.4 / 60}, budget={"steps": 12}))
    told = [event["reason"] for event in read(folder / "run" / "events.jsonl") if event["kind"] == "rescued"]
    assert any("while waiting for rows of" in reason and "stream.py:rows" in reason for reason in told)


def test_a_full_disk_under_a_stream_ends_the_run_which_goes_on_from_its_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make(tmp_path / "one", "streaming")
    monkeypatch.setenv("TUNESMITH_FAULT", "stream_window:1:enospc")
    faults.forget_visits()
    with pytest.raises(DiskFullError, match="no space for the rows of a stream"):
        run.train(changed(folder, budget={"steps": 9}))
    failed = next(e for e in read(folder / "run" / "events.jsonl") if e["kind"] == "failed")
    assert (failed["code"], failed["problems"][0]["where"]) == ("disk_full", str(folder / "run" / "stream"))
    monkeypatch.delenv("TUNESMITH_FAULT")
    assert run.train(changed(folder, budget={"steps": 9}), resume=True).steps == 9


def test_a_stream_needs_to_know_how_long_to_train(tmp_path: Path) -> None:
    folder = make(tmp_path / "one", "streaming")
    values = {"model": "m", "data": {"train": {"path": "s.py:rows", "stream": True}, "validation": None}}
    for budget in ({}, {"budget": {"epochs": 2}}, {"budget": {"tokens": 1000}}):
        with pytest.raises(RecipeError) as caught:
            parse({**values, **budget})
        problem = caught.value.problems[0]
        assert problem.where.endswith("budget")
        assert problem.fix == "say how long to train: {steps: 200}"
    plan = run.plan(recipe(folder))
    assert plan["run"]["steps"] == 20
    assert plan["heads"] == [{"path": f"{folder}/stream.py:rows", "rows": 5}]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StreamPlan, "held_bytes", lambda self, between: between * 10**9)
        windows = run.plan(recipe(folder))["run"]["disk_bytes"] - plan["run"]["disk_bytes"]
    assert windows == pytest.approx(3 * 2 * 10**9, rel=1e-3), (
        "two checkpoints and the one being written, 2 steps apart"
    )
    page = shown(plan)
    assert "from the first 5 rows of" in page
    assert "23.1%" in page
