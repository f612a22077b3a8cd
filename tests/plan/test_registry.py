"""The registry of runs: those that ended on the same data, and no others."""

from __future__ import annotations

import json
from pathlib import Path

from tunesmith.plan.registry import read_runs
from tunesmith.recipe import Recipe, dump, parse


def recipe(output: Path, **changes: object) -> Recipe:
    values = {"model": "some/model", "data": {"train": "rows.jsonl"}, "output": str(output), **changes}
    return parse(values)


def ended(folder: Path, status: str = "done", **changes: object) -> None:
    folder.mkdir()
    (folder / "recipe.yaml").write_text(dump(recipe(folder, **changes)))
    (folder / "report.json").write_text(json.dumps({"status": status, "parameters": {"total": 7}}))


def test_runs_that_ended_on_the_same_data_are_read(tmp_path: Path) -> None:
    ended(tmp_path / "a", data={"train": "rows.jsonl", "limit": 100})
    ended(tmp_path / "b", "stopped")
    ended(tmp_path / "c", "interrupted")
    ended(tmp_path / "d", data={"train": "other.jsonl"})
    ended(tmp_path / "mine")
    (tmp_path / "e").mkdir()
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "recipe.yaml").write_text("no: recipe")
    found = read_runs(recipe(tmp_path / "mine"))
    assert {(run.name, run.limit, run.parameters) for run in found} == {("a", 100, 7), ("b", None, 7)}


def test_where_nothing_lies_nothing_is_found(tmp_path: Path) -> None:
    assert read_runs(recipe(tmp_path / "no" / "folder")) == ()
