"""`tunesmith bench` as a command: speed of a recipe, and the memory matrix, which the forecast then reads."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.folders import make_model, write_rows
from tunesmith.app import cli
from tunesmith.bench import memory
from tunesmith.bench.cells import Cell
from tunesmith.plan.measured import FILE, stated

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(autouse=True)
def _own_registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    stated.cache_clear()


def test_a_recipe_is_timed_and_its_parts_are_the_whole(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = tmp_path / "r.yaml"
    values = {
        "model": str(make_model(tmp_path / "base")),
        "data": {"train": str(write_rows(tmp_path / "rows.jsonl", 60)), "max_length": 64},
        "optim": {"batch_tokens": 128},
        "output": str(tmp_path / "run"),
    }
    recipe.write_text(yaml.safe_dump(values))
    assert cli.main(["bench", str(recipe), "--steps", "2", "--json", "--out", str(tmp_path / "b.json")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found == json.loads((tmp_path / "b.json").read_text())
    assert found["steps"] == 2
    assert found["tokens_per_second"] > 0
    assert sum(part["share"] for part in found["breakdown"].values()) == pytest.approx(1.0)
    assert abs(found["memory"]["allocated_error"]) < 0.05
    assert not (tmp_path / "run").exists()
    assert cli.main(["bench", str(recipe), "--out", str(tmp_path / "b.json")]) == 2  # never over a file
    assert "exists already" in " ".join(capsys.readouterr().err.split())  # however long the path is


def test_the_forecast_is_held_against_what_it_is_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """One long row in 200, far from the steps that are timed."""
    # mutation tried: the fullest of the timed steps (18% below what is foreseen)
    recipe, rows = tmp_path / "r.yaml", write_rows(tmp_path / "rows.jsonl", 200)
    long = {"prompt": "what is a pen", "response": " ".join(["a pen writes"] * 80)}
    rows.write_text(rows.read_text() + json.dumps(long) + "\n")
    values = {
        "model": str(make_model(tmp_path / "base", max_position_embeddings=512)),
        "data": {"train": str(rows), "max_length": 512},
        "optim": {"batch_tokens": 64},
        "output": str(tmp_path / "run"),
    }
    recipe.write_text(yaml.safe_dump(values))
    assert cli.main(["bench", str(recipe), "--steps", "1", "--json"]) == 0
    assert abs(json.loads(capsys.readouterr().out)["memory"]["allocated_error"]) < 0.05


@pytest.fixture
def one_cell(monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("opt", {"method": "full"}, tokens=256, length=64)  # a family without a row
    monkeypatch.setattr(memory.bench_memory, "__defaults__", ((cell,),))


# mutation tried: keep() without its record
@pytest.mark.usefixtures("one_cell")
def test_the_memory_matrix_joins_what_was_measured_here_and_the_pages_are_made_from_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "memory.json"
    assert cli.main(["bench", "--memory", "--json", "--out", str(out)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["cell"]["family"] for row in found["rows"]] == ["opt"]
    assert found["allocated"]["largest_error"] < memory.MOST_EACH
    lines = (tmp_path / "cache" / FILE).read_text().splitlines()
    assert [json.loads(line)["what"] for line in lines] == ["opt full, 256 in 64"]
    made = maker()
    packaged = made.take({"note": {"en": ["old"]}, "rows": [], "time": ["kept"]}, found)
    assert [row["what"] for row in packaged["rows"]] == ["opt full, 256 in 64"]
    assert packaged["time"] == ["kept"]
    assert "note" not in packaged


@pytest.mark.parametrize("page", ["plan.md", "plan.zh-CN.md"])
def test_the_pages_are_what_is_made_of_the_packaged_table(page: str) -> None:
    made = maker()
    text = (DOCS / page).read_text(encoding="utf-8")
    packaged = json.loads(made.PACKAGED.read_text(encoding="utf-8"))
    assert made.page(text, packaged, made.WORDS[page]) == text


def maker() -> Any:
    spec = importlib.util.spec_from_file_location("make_forecast", DOCS / "make_forecast.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
