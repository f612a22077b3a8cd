"""Rows 15 and 16 of the fault matrix: asked to stop, once, twice, in a hurry, in every phase of a run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.engine.test_loop import DROPOUT_LORA, make_run, same_bits
from tests.faults.test_disk import checkpoints
from tests.folders import make_model, write_rows
from tunesmith import run
from tunesmith.engine import checkpoint, faults, world
from tunesmith.errors import FolderError, Interrupted
from tunesmith.folder import RunFolder, read_json
from tunesmith.recipe import Recipe, parse

pytestmark = pytest.mark.usefixtures("hangup_heard")


@pytest.fixture(autouse=True)
def _no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_FAULT", raising=False)
    faults.forget_visits()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory):
    return make_run(tmp_path_factory.mktemp("whole"), tuning=DROPOUT_LORA)


def ends_the_same(folder: Path, undisturbed: tuple) -> None:
    """Going on gives the run that nobody stopped, bit for bit."""
    result, weights = make_run(folder, tuning=DROPOUT_LORA)
    assert same_bits(undisturbed[1], weights)
    assert replace(result.progress, seconds=0) == replace(undisturbed[0].progress, seconds=0)


@pytest.mark.parametrize("signal", ["int", "term", "hup"])
def test_a_run_that_is_asked_to_stop_finishes_the_step_and_saves(
    signal: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: tuple,
    capfd: pytest.CaptureFixture,
) -> None:
    monkeypatch.setenv("TUNESMITH_FAULT", f"update:3:{signal}")
    result, _ = make_run(tmp_path, tuning=DROPOUT_LORA)
    assert (result.status, result.progress.step, result.interrupted_by) == (
        "interrupted", 3, f"SIG{signal.upper()}",
    )  # fmt: skip
    assert checkpoints(tmp_path).whole() == [2, 3]
    said = capfd.readouterr().err
    assert ("Ctrl-C again stops at once" if signal == "int" else f"SIG{signal.upper()}") in said
    monkeypatch.delenv("TUNESMITH_FAULT")
    ends_the_same(tmp_path, undisturbed)


def test_in_a_hurry_a_step_is_let_go_of_and_nothing_of_it_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple
) -> None:
    monkeypatch.setattr(world, "GRACE_SECONDS", 0.0)
    monkeypatch.setenv("TUNESMITH_FAULT", "forward:6:term")
    result, _ = make_run(tmp_path, tuning=DROPOUT_LORA, micro_tokens=24)
    assert result.status == "interrupted"
    step = result.progress.step
    assert checkpoints(tmp_path).steps()[-1] == step > 0
    monkeypatch.delenv("TUNESMITH_FAULT")
    _, weights = make_run(tmp_path, tuning=DROPOUT_LORA, micro_tokens=24)
    _, whole = make_run(tmp_path / "whole", tuning=DROPOUT_LORA, micro_tokens=24)
    assert same_bits(whole, weights)


def test_in_a_hurry_an_evaluation_is_let_go_of_and_done_when_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple
) -> None:
    monkeypatch.setattr(world, "GRACE_SECONDS", 0.0)
    monkeypatch.setenv("TUNESMITH_FAULT", "held_out:1:term")
    result, _ = make_run(tmp_path, tuning=DROPOUT_LORA)
    assert (result.status, result.progress.step, result.progress.best_step) == ("interrupted", 3, None)
    monkeypatch.delenv("TUNESMITH_FAULT")
    ends_the_same(tmp_path, undisturbed)


@pytest.mark.parametrize("point", ["forward", "update", "save_weights", "held_out"])
def test_asked_twice_it_stops_where_it_stands_and_nothing_is_torn(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: tuple
) -> None:
    monkeypatch.setenv("TUNESMITH_FAULT", f"step:3:int,{point}:{1 if point == 'held_out' else 3}:int")
    if point == "save_weights":  # the writer's thread sends it, the loop's hears it
        monkeypatch.setenv("TUNESMITH_FAULT", "step:3:int,save_weights:2:int")
    with pytest.raises(KeyboardInterrupt):
        make_run(tmp_path, tuning=DROPOUT_LORA)
    import threading

    for thread in threading.enumerate():
        if thread.name == "checkpoint":
            thread.join()
    steps = checkpoints(tmp_path).steps()
    assert steps == checkpoints(tmp_path).whole()
    monkeypatch.delenv("TUNESMITH_FAULT")
    ends_the_same(tmp_path, undisturbed)


# --- a run as a whole ---


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("base"))


def recipe(base: Path, folder: Path) -> Recipe:
    """A short run with an evaluation."""
    folder.mkdir(exist_ok=True)
    return parse(
        {
            "model": str(base), "output": str(folder / "run"), "tuning": {"method": "lora", "rank": 2},
            "data": {"train": str(write_rows(folder / "rows.jsonl")), "validation": 3, "max_length": 128},
            "optim": {"lr": 1e-2, "batch_tokens": 64}, "budget": {"steps": 3}, "compute": {"precision": "fp32"},
        }
    )  # fmt: skip


def adapter(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "adapter" / "adapter_model.safetensors")


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(run.train(recipe(model, tmp_path_factory.mktemp("whole"))).run)


def test_stopped_during_preparation_nothing_is_left(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_FAULT", "prepared:1:int")
    with pytest.raises(KeyboardInterrupt):
        run.train(recipe(model, tmp_path))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("point", ["before", "tuned", "trained", "kept", "after", "report"])
def test_stopped_outside_the_loop_it_says_how_to_go_on_and_does(
    point: str, model: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen = recipe(model, tmp_path)
    monkeypatch.setenv("TUNESMITH_FAULT", f"{point}:1:int")
    with pytest.raises(Interrupted) as error:
        run.train(chosen)
    assert error.value.problems[0].fix.endswith("--resume")
    folder = RunFolder(tmp_path / "run")
    assert folder.adapter.exists() == (point in ("after", "report"))
    monkeypatch.delenv("TUNESMITH_FAULT")
    assert run.train(chosen, resume=True).status == "done"
    assert same_bits(adapter(folder.path), adapter(whole))
    ours, theirs = read_json(folder.report), read_json(whole / "report.json")
    assert (ours["before"], ours["after"]) == (theirs["before"], theirs["after"])
    assert not list(folder.path.glob(".staging*"))
    assert checkpoint.verify(folder.checkpoints / "step-00000003") is None


def test_a_run_folder_that_goes_away_before_the_loop_is_an_answer(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Row 7, outside the loop."""
    # mutation tried: FileNotFoundError raised as it is
    import shutil

    real = run.tune

    def gone(*words):
        shutil.rmtree(tmp_path / "run")
        return real(*words)

    monkeypatch.setattr(run, "tune", gone)
    with pytest.raises(FolderError, match="has gone since the run began"):
        run.train(recipe(model, tmp_path))
