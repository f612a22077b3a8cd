"""A sweep: ordinary runs at equal tokens, what ended is kept, and every model reads every cut."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.app.render.test_base import printed
from tests.folders import make_model
from tunesmith import run
from tunesmith.app.render import sweep as pages
from tunesmith.errors import DivergedError, FolderError, Interrupted, Problem, RecipeError
from tunesmith.events import Reporter, Silent
from tunesmith.folder import RunFolder, is_run, read_json
from tunesmith.recipe import load
from tunesmith.search import cross
from tunesmith.search.sweep import sweep


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


def dialogues(path: Path, count: int = 24) -> Path:
    """Dialogues of 1 to 4 exchanges: the deep ones lose their beginning at 96 tokens."""
    rows = []
    for number in range(count):
        turns = []
        for turn in range(1 + number % 4):
            turns += [
                {"role": "user", "content": f"say {number} and {turn}"},
                {"role": "assistant", "content": f"it is {number * 7 % 10}"},
            ]
        rows.append({"messages": turns})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


@pytest.fixture
def recipe(model: Path, tmp_path: Path) -> str:
    values = {
        "model": str(model),
        "data": {"train": str(dialogues(tmp_path / "rows.jsonl")), "validation": 8, "max_length": 160},
        "tuning": {"method": "lora", "rank": 2},
        "optim": {"lr": 1e-2, "batch_tokens": 400},
        "compute": {"precision": "fp32"},
        "output": str(tmp_path / "run"),
    }
    file = tmp_path / "recipe.yaml"
    file.write_text(yaml.safe_dump(values))
    return str(file)


class Here:
    """Trains in this process, and remembers what it was asked."""

    def __init__(self, stop_at: int | None = None, fail_at: int | None = None) -> None:
        self.asked: list[tuple[str, bool]] = []
        self.stop_at, self.fail_at = stop_at, fail_at

    def __call__(self, file: Path, resume: bool, reporter: Reporter) -> list[Problem]:
        self.asked.append((file.stem, resume))
        chosen = load(file)
        if len(self.asked) == self.stop_at:
            run.train(chosen, stop_after=1)
            return []
        if len(self.asked) == self.fail_at:
            return list(DivergedError.at("step 3", "no finite loss", "lower optim.lr").problems)
        run.train(chosen, resume=resume)
        return []


def test_runs_held_out_alike_are_compared_pair_by_pair_and_the_best_is_named(recipe: str) -> None:
    found = sweep(recipe, ["optim.lr=1e-6,1e-2"], launch=Here())
    assert found["same_heldout"]
    assert found["cross"] is None
    low, high = found["runs"]
    assert found["best"] == high["name"] == "lr=0.01"
    change = high["against_first"]["heldout"]
    assert change["change"] == pytest.approx(high["heldout"]["loss_nats"] - low["heldout"]["loss_nats"])
    assert low["against_first"] == {}


def test_what_ended_is_kept_and_what_was_cut_short_goes_on(recipe: str) -> None:
    words = ["optim.lr=1e-4,1e-3"]
    with pytest.raises(Interrupted):
        sweep(recipe, words, launch=Here(stop_at=2))
    with pytest.raises(FolderError, match="begun already"):
        sweep(recipe, words, launch=Here())
    again = Here()
    found = sweep(recipe, ["optim.lr=1e-4,1e-3,1e-2"], resume=True, launch=again)  # and one value more
    assert again.asked == [("lr=0.001", True), ("lr=0.01", False)]
    with pytest.raises(RecipeError, match=r"optim\.batch_tokens"):
        sweep(recipe, [*words, "optim.batch_tokens=300"], resume=True, launch=Here())
    assert [each["status"] for each in found["runs"]] == ["done"] * 3


# mutation tried: KeyboardInterrupt passed on
def test_ctrl_c_says_how_to_go_on(recipe: str) -> None:
    def pressed(file: Path, resume: bool, reporter: Reporter) -> list[Problem]:
        raise KeyboardInterrupt

    with pytest.raises(Interrupted, match="--resume"):
        sweep(recipe, ["optim.lr=1e-4,1e-3"], launch=pressed)


def test_a_run_that_fails_is_told_and_the_others_go_on(recipe: str) -> None:
    found = sweep(recipe, ["optim.lr=1e-4,1e-3"], launch=Here(fail_at=1))
    assert [each["status"] for each in found["runs"]] == ["failed", "done"]
    assert "no finite loss" in printed(pages.page(found))


def test_cells_that_are_no_recipes_are_told_together_before_anything_runs(
    recipe: str, tmp_path: Path
) -> None:
    with pytest.raises(RecipeError) as caught:
        sweep(recipe, ["tuning.rank=0,-1,4"], launch=Here())
    assert len(caught.value.problems) == 2
    assert not (tmp_path / "run-sweep" / "rank=4").exists()


# --- every model on every cut -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cut_twice(model: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("cuts")
    file = folder / "recipe.yaml"
    values = {
        "model": str(model),
        "data": {"train": str(dialogues(folder / "rows.jsonl", 32)), "validation": 12},
        "tuning": {"method": "lora", "rank": 2},
        "optim": {"lr": 1e-2, "batch_tokens": 600},
        "compute": {"precision": "fp32"},
        "output": str(folder / "run"),
    }
    file.write_text(yaml.safe_dump(values))
    found = sweep(str(file), ["data.max_length=96,192"], launch=Here())
    (folder / "sweep.json").write_text(json.dumps(found))
    return found


def test_every_cell_is_an_ordinary_run_with_the_same_tokens(cut_twice: dict[str, Any]) -> None:
    assert [each["status"] for each in cut_twice["runs"]] == ["done", "done"]
    assert all(is_run(each["run"]) for each in cut_twice["runs"])
    assert Path(cut_twice["runs"][0]["run"]).parent == Path(cut_twice["sweep"])
    tokens = [each["tokens"] for each in cut_twice["runs"]]
    assert cut_twice["tokens"] - 192 <= min(tokens) <= max(tokens) <= cut_twice["tokens"]
    assert cut_twice["runs"][0]["passes"] > cut_twice["runs"][1]["passes"]


def test_both_models_read_both_cuts(cut_twice: dict[str, Any]) -> None:
    crossed = cut_twice["cross"]
    assert [cut["name"] for cut in crossed["cuts"]] == ["96", "192"]
    for column in crossed["losses"].values():
        assert list(column) == ["max_length=96", "max_length=192"]
        assert len({(one["rows"], one["targets"]) for one in column.values()}) == 1
    short, long = crossed["losses"].values()
    assert short["max_length=96"]["targets"] < long["max_length=96"]["targets"]
    assert cut_twice["best"] is None  # their own losses are of other tokens


def test_as_served_scores_the_same_answers_with_each_ones_own_history(cut_twice: dict[str, Any]) -> None:
    served = cut_twice["cross"]["as_served"]
    assert len({(one["rows"], one["targets"]) for one in served.values()}) == 1
    assert served["max_length=192"]["against_first"]["n"] == served["max_length=96"]["rows"]


def test_depth_counts_the_answers_of_the_whole_dialogue(cut_twice: dict[str, Any]) -> None:
    for cut, runs in cut_twice["cross"]["by_depth"].items():
        for buckets in runs.values():
            rows = next(c["rows"] for c in cut_twice["cross"]["cuts"] if c["name"] == cut)
            assert sum(bucket["rows"] for bucket in buckets) == rows
            assert {bucket["answers"] for bucket in buckets} <= {"1", "2", "3-4"}


def test_no_row_that_any_run_was_trained_on_is_scored(recipe: str) -> None:
    chosen = load(recipe)
    longer = chosen.model_copy(update={"data": chosen.data.model_copy(update={"max_length": 96})})
    prepared = {"a": cross._prepare(chosen), "b": cross._prepare(longer)}
    validation = prepared["a"].validation
    assert validation is not None
    stolen = validation.addresses[0]
    prepared["b"] = type("Stub", (), {"train": [validation], "validation": prepared["b"].validation})()  # type: ignore[assignment]
    cuts = cross._cuts(prepared)
    assert all(stolen not in cut.samples.addresses for cut in cuts)


def test_runs_of_other_rows_or_tokens_are_not_crossed(recipe: str) -> None:
    chosen = load(recipe)
    data = chosen.data
    other = chosen.model_copy(update={"data": data.model_copy(update={"max_length": 96, "limit": 10})})
    assert cross.cross_evaluate([("a", chosen), ("b", other)], Silent()) is None


def test_the_page_fits_100_columns_and_the_picture_is_drawn(
    cut_twice: dict[str, Any], tmp_path: Path
) -> None:
    out = printed(pages.page(cut_twice))
    for words in (
        "each model on each cut",
        "as served",
        "by answers a row",
        "held-out loss, 95%",
        "memory",
    ):
        assert words in out
    pages.save(cut_twice, tmp_path / "sweep.png")
    assert (tmp_path / "sweep.png").read_bytes()[:4] == b"\x89PNG"


# --- in processes of their own ------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_killed_run_is_told_and_resumed(recipe: str, tmp_path: Path) -> None:
    words = [
        sys.executable,
        "-m",
        "tunesmith",
        "sweep",
        recipe,
        "optim.lr=1e-3,1e-2",
        "checkpoint.every=1",
        "--json",
    ]
    killed = subprocess.run(
        words,
        capture_output=True,
        text=True,
        env={**os.environ, "TUNESMITH_FAULT": "step:3:kill"},
        timeout=250,
    )
    assert killed.returncode == 2
    assert "ended with -9" in killed.stdout
    done = subprocess.run([*words, "--resume"], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert [each["status"] for each in found["runs"]] == ["done", "done"]
    events = [
        json.loads(line) for line in RunFolder(Path(found["runs"][0]["run"])).events.read_text().splitlines()
    ]
    first, second = (event["resumed_from"] for event in events if event["kind"] == "started")
    assert first is None
    assert second in (
        "step-00000001",
        "step-00000002",
    )  # the newer one may still have been on its way to the disk
    assert read_json(tmp_path / "run-sweep" / "sweep.json")["tokens"] == found["tokens"]
