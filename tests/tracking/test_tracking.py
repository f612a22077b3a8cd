"""Trackers read events.jsonl from outside: they tell all of it, once, and can never hurt a training."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import pytest

from tunesmith import events, recipe
from tunesmith.errors import RecipeError
from tunesmith.events import Evaluated, Event, Finished, Rescued, Started, Stepped
from tunesmith.folder import RunFolder
from tunesmith.tracking import start
from tunesmith.tracking.__main__ import main
from tunesmith.tracking.follow import follow
from tunesmith.tracking.metrics import Point, flat, point, scores
from tunesmith.tracking.sinks import SINKS, About


def step(number: int, loss: float = 1.0) -> Stepped:
    return Stepped(
        step=number, loss_nats=loss, grad_norm=0.5, lr=1e-4, targets=5, tokens=10, seconds=0.1, peak_bytes=7,
        finite=math.isfinite(loss),
    )  # fmt: skip


def make_run(path: Path, *more: Event, track: tuple[str, ...] = ()) -> RunFolder:
    folder = RunFolder(path)
    folder.create()
    chosen = {"model": "some/model", "data": {"train": "a.jsonl"}, "track": list(track), "output": str(path)}
    folder.recipe.write_text(recipe.dump(recipe.parse(chosen)), encoding="utf-8")
    add(folder, Started(step=0, steps=3), *more)
    return folder


def add(folder: RunFolder, *more: Event) -> None:
    for event in more:
        events.append(folder.events, event)


WHOLE = (step(1), step(2), Evaluated(step=2, loss_nats=0.5, targets=5, seconds=0.1, best=True), step(3),
         Finished(step=3, status="done", seconds=1.0))  # fmt: skip
REPORT = {
    "before": {"heldout": {"loss_nats": 3.0}, "tasks": {"sums": {"value": 0.1}}},
    "after": {"heldout": {"loss_nats": 1.0}, "tasks": {"sums": {"value": 0.9}}},
    "test": None, "forgetting": {"sums": {"change": 0.8}}, "parameters": {"total": 100, "trainable": 10},
}  # fmt: skip


class Fake:
    """A tracker that only remembers."""

    note = ""

    def __init__(self, about: About) -> None:
        self.about, self.id = about, about.id or "first"
        self.points: list[Point] = []
        self.closed: tuple[str, dict[str, float]] | None = None

    def log(self, found: Point) -> None:
        self.points.append(found)

    def close(self, status: str, last: Any) -> None:
        self.closed = (status, dict(last))


class Opener:
    """Opens fakes and keeps them."""

    def __init__(self) -> None:
        self.opened: list[Fake] = []

    def __call__(self, about: About) -> Fake:
        self.opened.append(Fake(about))
        return self.opened[-1]


def once() -> bool:
    return False


def test_a_whole_run_is_told_with_its_scores(tmp_path: Path) -> None:
    run, opener = make_run(tmp_path / "a", *WHOLE), Opener()
    run.report.write_text(json.dumps(REPORT))
    follow(run, "wandb", once, opener)
    [fake] = opener.opened
    assert [p.step for p in fake.points] == [1, 2, 2, 3]
    assert fake.points[0].values["train/loss"] == 1.0
    assert fake.points[0].values["speed/tokens_a_second"] == pytest.approx(100)
    assert fake.points[2].values["heldout/loss"] == 0.5
    assert fake.closed is not None
    assert fake.closed[0] == "done"
    assert fake.closed[1]["after/sums"] == 0.9
    assert (fake.about.name, fake.about.config["tuning.rank"]) == ("a", 16)


# mutation tried: start of _new_lines always 0 tells step 1 again
def test_what_was_told_is_not_told_again_when_a_run_goes_on(tmp_path: Path) -> None:
    run, opener = make_run(tmp_path / "a", step(1), step(2)), Opener()
    follow(run, "wandb", once, opener)
    add(run, Started(step=1, steps=3), step(2), step(3), Finished(step=3, status="done", seconds=1.0))
    follow(run, "wandb", once, opener)
    first, second = opener.opened
    assert ([p.step for p in first.points], [p.step for p in second.points]) == ([1, 2], [3])
    assert first.closed == ("killed", {})
    assert (second.about.id, second.closed) == ("first", ("done", {}))


def test_lines_are_told_as_they_come_and_half_a_line_waits(tmp_path: Path) -> None:
    run, opener = make_run(tmp_path / "a", step(1)), Opener()
    line = json.dumps(events.to_json(step(2))) + "\n"
    pieces = [line[:20], line[20:], ""]
    told: list[int] = []

    def wait() -> bool:
        told.append(len(opener.opened[0].points))
        with open(run.events, "a") as file:
            file.write(pieces.pop(0))
        return bool(pieces)

    follow(run, "wandb", wait, opener)
    assert told == [0, 1, 2]
    assert [p.step for p in opener.opened[0].points] == [1, 2]


def test_a_number_that_is_not_finite_is_never_sent(tmp_path: Path) -> None:
    found = point(events.to_json(step(4, math.nan)))
    assert found is not None
    assert "train/loss" not in found.values
    assert all(math.isfinite(value) for value in found.values.values())


def test_a_broken_line_does_not_stop_the_telling(tmp_path: Path) -> None:
    run, opener = make_run(tmp_path / "a", step(1)), Opener()
    with open(run.events, "a") as file:
        file.write("{torn\n[1]\n")
    add(run, step(2))
    follow(run, "wandb", once, opener)
    assert [p.step for p in opener.opened[0].points] == [1, 2]


def test_scores_and_config_have_a_name_each() -> None:
    assert scores(REPORT)["change/sums"] == 0.8
    assert scores(REPORT)["parameters/trainable"] == 10
    assert flat({"a": {"b": 1, "c": None}, "d": [1]}) == {"a.b": 1, "a.c": "None", "d": "[1]"}


def test_a_tracker_that_is_not_installed_names_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(RecipeError) as error:
        start.require(["wandb", "mlflow"])
    assert [problem.where for problem in error.value.problems] == ["track", "track"]
    assert "pip install 'tunesmith[track]'" in error.value.problems[0].fix
    assert error.value.exit_code == 2


# mutation tried: `find_spec(name) is None` alone takes the folder for the package
def test_a_folder_of_the_trackers_name_is_not_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "diary").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RecipeError, match="diary is not installed"):
        start.require(["diary"])


class Told:
    """A reporter that keeps warnings."""

    def __init__(self) -> None:
        self.warnings: list[Rescued] = []

    def event(self, event: Event) -> None:
        if isinstance(event, Rescued):
            self.warnings.append(event)

    def progress(self, what: str, done: int, total: int | None) -> None:
        pass


FAKE_TENSORBOARD = "raise RuntimeError('the network is down')\n"


# mutation tried: `raise` in place of _warn makes this fail
def test_a_tracker_that_fails_is_a_warning_and_the_run_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio.py").write_text(FAKE_TENSORBOARD)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    run, told = make_run(tmp_path / "a", *WHOLE, track=("trackio",)), Told()
    with start.following(["trackio"], run, told):
        pass
    [warning] = told.warnings
    assert "the network is down" in warning.reason
    assert "tunesmith.tracking" in warning.action


def test_a_tracker_that_hangs_is_left_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio.py").write_text("import time\ntime.sleep(5)\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    monkeypatch.setattr(start, "PATIENCE_SECONDS", 0.2)
    run, told = make_run(tmp_path / "a", *WHOLE), Told()
    with start.following(["trackio"], run, told):
        pass
    assert "still sending" in told.warnings[0].reason


def test_an_error_of_the_training_passes_through(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio.py").write_text(FAKE_TENSORBOARD)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    run = make_run(tmp_path / "a", *WHOLE)
    with pytest.raises(ZeroDivisionError), start.following(["trackio"], run, Told()):
        raise ZeroDivisionError


def test_no_tracker_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(start, "_start", lambda *_: pytest.fail("started"))
    with start.following([], RunFolder(tmp_path), Told()):
        pass


FAKE = """
import json, pathlib
calls = pathlib.Path(__file__).with_suffix(".calls")
def keep(*words): calls.open("a").write(json.dumps(words) + "\\n")
def init(**options): keep("init", options["project"], options["resume"])
def log(values, step=None): keep("log", step, values)
def finish(): keep("finish")
"""


def test_a_process_of_its_own_tells_a_whole_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio.py").write_text(FAKE)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    run, told = make_run(tmp_path / "a", step(1)), Told()
    with start.following(["trackio"], run, told):
        add(run, *WHOLE[1:])
    calls = [json.loads(line) for line in (tmp_path / "trackio.calls").read_text().splitlines()]
    assert calls[0] == ["init", "tunesmith", "allow"]
    assert [call[1] for call in calls if call[0] == "log"] == [1, 2, 2, 3]
    assert (calls[-1], told.warnings) == (["finish"], [])


def have(name: str) -> Any:
    return pytest.mark.skipif(importlib.util.find_spec(name) is None, reason=f"{name} is not installed")


def tell(run: RunFolder, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real tracker, offline, in a process of its own."""
    for key in ("WANDB_API_KEY", "SWANLAB_API_KEY", "MLFLOW_TRACKING_URI", "WANDB_MODE", "SWANLAB_MODE"):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(run.path.parent))
    monkeypatch.setenv("TRACKIO_DIR", str(run.path.parent / "trackio"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    run.report.write_text(json.dumps(REPORT))
    told = Told()
    with start.following([name], run, told):
        pass
    assert told.warnings == []
    assert json.loads((run.tracking / f"{name}.json").read_text())["status"] == "done"


@have("tensorboard")
def test_tensorboard_shows_the_course(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = make_run(tmp_path / "a", *WHOLE)
    tell(run, "tensorboard", monkeypatch)
    read = EventAccumulator(str(run.tracking / "tensorboard"))
    read.Reload()
    assert [(e.step, e.value) for e in read.Scalars("train/loss")] == [(1, 1.0), (2, 1.0), (3, 1.0)]
    assert read.Scalars("after/sums")[0].value == pytest.approx(0.9)


@have("wandb")
def test_wandb_without_a_login_keeps_the_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a", *WHOLE)
    tell(run, "wandb", monkeypatch)
    assert list((run.tracking / "wandb").glob("wandb/offline-run-*/run-*.wandb"))


@have("swanlab")
def test_swanlab_without_a_login_keeps_the_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(tmp_path / "a", *WHOLE)
    tell(run, "swanlab", monkeypatch)
    assert list((run.tracking / "swanlab").glob("run-*/run-*.swanlab"))


@have("trackio")
def test_trackio_keeps_the_run_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    run = make_run(tmp_path / "a", *WHOLE)
    tell(run, "trackio", monkeypatch)
    with sqlite3.connect(tmp_path / "trackio" / "tunesmith.db") as database:
        rows = database.execute("select step, metrics from metrics").fetchall()
    assert {1, 2, 3} <= {row[0] for row in rows}


@pytest.mark.slow  # it makes a database of fifty tables first
@have("mlflow")
def test_mlflow_keeps_the_run_beside_the_run_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sqlite3

    run = make_run(tmp_path / "a", *WHOLE)
    tell(run, "mlflow", monkeypatch)
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        rows = database.execute(
            "select step, value from metrics where key = 'train/loss' order by step"
        ).fetchall()
    assert rows == [(1, 1.0), (2, 1.0), (3, 1.0)]


def test_every_tracker_of_the_recipe_has_a_sink() -> None:
    from typing import get_args

    known = get_args(get_args(recipe.Recipe.model_fields["track"].annotation)[0])
    assert set(known) == set(SINKS)


def test_the_process_says_in_one_line_what_went_wrong(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "nice", lambda by: 0)
    monkeypatch.setattr("signal.signal", lambda *_: None)
    assert main([str(tmp_path / "nowhere"), "wandb"]) == 1
    assert len(capfd.readouterr().err.splitlines()) == 1


def trained(folder: Path, **changes: Any) -> Any:
    from tests.folders import make_model, write_rows
    from tunesmith import run

    values = {
        "model": str(make_model(folder / "base")), "output": str(folder / "run"),
        "data": {"train": str(write_rows(folder / "rows.jsonl", 4)), "validation": None, "max_length": 256},
        "tuning": {"method": "lora", "rank": 2}, "optim": {"lr": 1e-2, "batch_tokens": 64}, "budget": {"steps": 3},
        "compute": {"precision": "fp32"}, "track": "trackio",
    }  # fmt: skip
    told = Told()
    return run.train(recipe.parse(values | changes), reporter=told), told


def test_a_training_is_told_from_beginning_to_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio.py").write_text(FAKE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    outcome, told = trained(tmp_path)
    calls = [json.loads(line) for line in (tmp_path / "trackio.calls").read_text().splitlines()]
    assert (outcome.status, told.warnings) == ("done", [])
    assert [call[1] for call in calls if call[0] == "log" and call[1]] == [1, 2, 3]
    assert calls[-1] == ["finish"]


def test_a_training_outlives_its_tracker(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "trackio.py").write_text("import os\nos.abort()\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *sys.path]))
    outcome, told = trained(tmp_path)
    assert outcome.status == "done"
    assert "trackio failed" in told.warnings[0].reason


def test_a_missing_tracker_stops_a_run_before_its_folder_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(start, "_installed", lambda name: False)
    with pytest.raises(RecipeError, match="tunesmith\\[track\\]"):
        trained(tmp_path)
    assert not (tmp_path / "run").exists()
