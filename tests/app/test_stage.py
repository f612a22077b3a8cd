"""The demo's stage: steps, curtain, and whose folder may be removed."""

from __future__ import annotations

import math
from pathlib import Path

import pytest

from tunesmith import recipe as recipes
from tunesmith.app import stage as stages
from tunesmith.app.progress import Plain
from tunesmith.app.render import base
from tunesmith.app.render import demo as pages
from tunesmith.errors import FolderError
from tunesmith.events import Finished, Started
from tunesmith.folder import RunFolder

from .render.test_base import printed
from .test_progress import log, stepped
from .test_runs import make_run

STEPS = (("before", "why"), ("training", "why"), ("after", "why"))


@pytest.fixture
def stage(capsys: pytest.CaptureFixture[str]) -> stages.Stage:
    made = stages.Stage(STEPS, silent=False)
    made.open()
    return made


def curtain(stage: stages.Stage, folder: Path) -> stages.Curtain:
    return stages.Curtain(log()[1], stage, RunFolder(folder))


# mutation tried: passed=True in close
def test_a_check_that_fails_ends_the_demo(stage: stages.Stage) -> None:
    stage.close("fine")
    with pytest.raises(stages.CheckFailed):
        stage.close("the loss rose", passed=False)
    document = stage.document()
    assert document["passed"] is False
    assert [step["passed"] for step in document["steps"]] == [True, False, None]


def test_a_demo_that_stopped_midway_has_not_passed(stage: stages.Stage) -> None:
    stage.close("fine")
    assert stage.document()["passed"] is False


def test_training_opens_and_closes_its_own_step(stage: stages.Stage, tmp_path: Path) -> None:
    reporter = curtain(stage, tmp_path)
    reporter.progress("answering", 5, 5)
    assert stage.done == []
    reporter.event(Started(step=0, steps=2))
    assert [step["name"] for step in stage.done] == ["before"]
    reporter.event(stepped(1, loss=2.0))
    reporter.progress("held-out", 1, 2)
    assert len(stage.done) == 1
    reporter.event(stepped(2, loss=1.0))
    reporter.progress("answering", 1, 5)
    reporter.progress("answering", 2, 5)
    reporter.event(Finished(step=2, status="done", seconds=1.0))
    assert [step["name"] for step in stage.done] == ["before", "training"]


def test_an_early_stop_closes_the_step_as_well(stage: stages.Stage, tmp_path: Path) -> None:
    reporter = curtain(stage, tmp_path)
    reporter.event(Started(step=0, steps=9))
    for step in range(1, 6):
        reporter.event(stepped(step, loss=3.0 / step))
    reporter.event(Finished(step=5, status="stopped", seconds=1.0))
    assert [step["note"] for step in stage.done][1] == "5 steps, loss 2.250 → 0.675"


@pytest.mark.parametrize("losses", [(1.0, 2.0), (2.0, math.nan, 1.0), (1.0,)], ids=["rises", "nan", "one"])
def test_a_loss_that_does_not_fall_fails_the_step(losses: tuple[float, ...]) -> None:
    assert stages.said_of_training(losses)[1] is False


def test_silence_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    made = stages.Stage(STEPS, silent=True)
    made.open()
    made.close("fine")
    assert capsys.readouterr().out == ""


def test_an_old_demo_makes_way(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo")
    stages.clear(folder.path)
    assert not folder.path.exists()
    stages.clear(folder.path)  # nothing there is fine too


def test_a_half_written_demo_makes_way(tmp_path: Path) -> None:
    RunFolder(tmp_path / "demo").create()
    stages.clear(tmp_path / "demo")
    assert not (tmp_path / "demo").exists()


# mutation tried: rmtree without asking
@pytest.mark.parametrize("name", ["thesis.docx", "data"])
def test_what_no_demo_wrote_is_never_removed(tmp_path: Path, name: str) -> None:
    mine = make_run(tmp_path / "demo").path / name
    mine.mkdir()
    with pytest.raises(FolderError, match=name):
        stages.clear(tmp_path / "demo")
    assert mine.exists()


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    make_run(tmp_path / "precious")
    (tmp_path / "demo").symlink_to(tmp_path / "precious")
    with pytest.raises(FolderError, match="in the way"):
        stages.clear(tmp_path / "demo")
    assert (tmp_path / "precious" / "recipe.yaml").exists()


def test_a_running_demo_is_not_removed(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "demo")
    with folder.lock(), pytest.raises(FolderError, match="another demo"):
        stages.clear(folder.path)
    assert folder.recipe.exists()


def test_the_recipe_left_behind_runs_from_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stages.write_recipe(tmp_path / "runs" / "demo.yaml")
    monkeypatch.chdir("/")
    made = recipes.load(tmp_path / "runs" / "demo.yaml")
    paths = [source.path for source in made.data.train] + [task.path for task in made.evaluation.tasks]
    paths += [str(made.data.validation), str(made.data.test), str(made.model.path)]
    assert all(Path(path).is_absolute() and Path(path).exists() for path in paths)
    assert made.output == "runs/demo"


def test_the_card_fits_80_columns(stage: stages.Stage) -> None:
    for _ in STEPS:
        stage.close(
            "a rather long note that says how very well this step of the demo went, with 0.123 numbers"
        )
    out = printed(pages.card({**stage.document(), "next": ["tunesmith chat runs/demo"]}))
    assert max(map(len, out.splitlines())) <= 80
    assert "demo passed" in out
    assert "tunesmith chat runs/demo" in out


def test_a_log_says_no_training_line_twice() -> None:
    file, reporter = log()
    assert isinstance(reporter, Plain)
    reporter.settle()
    reporter.aside(lambda: base.console(file).print("aside"))
    assert file.getvalue() == "aside\n"
