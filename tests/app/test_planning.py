"""plan's files: the nearest recipe that fits, comments kept; the forecast as a picture."""

from __future__ import annotations

from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.plan.test_forecast import CARD, SEVEN, plan
from tunesmith.app.cli import main
from tunesmith.app.planning import write_fitting
from tunesmith.app.render import base, memory, plan_picture
from tunesmith.errors import DoesNotFitError, UserError
from tunesmith.recipe import load

RECIPE = "# ours\nmodel: some/model\ndata: {train: rows.jsonl}  # all of them\ntuning: full\n"


def tight(gib: float = 24) -> dict[str, Any]:
    return plan(SEVEN, device=replace(CARD, memory_bytes=round(gib * 2**30)), tuning="full").to_json()


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    file = tmp_path / "recipe.yaml"
    file.write_text(RECIPE)
    return file


def test_the_recipe_that_fits_is_written_with_its_comments(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "fits.yaml"
    write_fitting(str(recipe), ["seed=7"], tight(), str(out))
    written = load(out)
    assert (written.tuning.method, written.seed) == ("lora", 7)
    assert "# ours" in out.read_text()
    assert "# all of them" in out.read_text()


def test_the_fixed_recipe_does_not_run_into_the_old_ones_folder(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mutation tried: the old output kept
    monkeypatch.chdir(tmp_path)
    assert write_fitting(str(recipe), [], tight(), "first.yaml") == load(recipe).output
    Path(load(recipe).output).mkdir(parents=True)
    other = write_fitting(str(recipe), [], tight(), "fits.yaml")
    assert other == load("fits.yaml").output == f"{load(recipe).output}-fits"
    Path(other).mkdir()
    assert write_fitting(str(recipe), [f"output={other}"], tight(), "asked.yaml") == other


# mutation tried: without asking whether the file is free
@pytest.mark.parametrize("flag", ["--fix", "--apply"])
def test_a_file_is_never_overwritten(recipe: Path, flag: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", str(recipe), flag, str(recipe), "--json"]) == 2
    assert "exists already" in " ".join(capsys.readouterr().out.split())
    assert recipe.read_text() == RECIPE


def test_where_nothing_fits_nothing_is_written(recipe: Path, tmp_path: Path) -> None:
    with pytest.raises(DoesNotFitError, match="smaller model"):
        write_fitting(str(recipe), [], tight(1), str(tmp_path / "fits.yaml"))
    assert not (tmp_path / "fits.yaml").exists()


@pytest.mark.parametrize(("name", "begin"), [("a/memory.png", b"\x89PNG"), ("memory.svg", b"<?xml")])
def test_the_picture_is_drawn(name: str, begin: bytes, tmp_path: Path) -> None:
    plan_picture.save(tight(), tmp_path / name, "recipe.yaml")
    drawn = (tmp_path / name).read_bytes()
    assert drawn.startswith(begin)
    if name.endswith("svg"):
        assert all(word in drawn.decode() for word in ("optimiser states", "backward of the head", "QLoRA"))


def test_another_kind_of_picture_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"\.png nor \.svg"):
        plan_picture.save(tight(), tmp_path / "memory.jpg", "recipe.yaml")


def test_a_bar_is_as_long_as_its_phase() -> None:
    found = memory.phases(tight())
    most = max(sum(terms.values()) for _, terms in found)
    for _, terms in found:
        assert len(memory.bar(terms, most, 40).plain) == round(40 * sum(terms.values()) / most)
    assert {term for _, terms in found for term in terms} <= set(memory.COLOURS)


# mutation tried: letters by first letter alone (two terms are c); colours asked of a file
def test_without_colours_each_term_is_a_letter_of_its_own() -> None:
    assert len(set(memory.LETTERS.values())) == len(memory.COLOURS) == len(memory.LETTERS)
    drawn = {}
    for kind in ("truecolor", None):
        file = StringIO()
        Console(file=file, width=100, color_system=kind, theme=base.THEME).print(memory.stacked(tight()))
        drawn[kind] = file.getvalue()
    assert memory.FULL in drawn["truecolor"]
    assert memory.FULL not in drawn[None]
    assert "www" in drawn[None]
    assert "w\u00a0weights" in drawn[None]
