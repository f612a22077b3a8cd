"""One stage after the other, in one run folder, resumable at any point.

before --stage 1--> handed over --stage 2--> handed over --...--> report of the whole
What is finished is found on disk and never done again: a stage by its report, a hand-over by its folder.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from tunesmith.engine.faults import visit
from tunesmith.evaluation.known import Known
from tunesmith.events import Event, Failed, Finished, Recording, Reporter, Saved, Started
from tunesmith.folder import RunFolder, is_run, read_json, write_json
from tunesmith.opened import export, tokenizer_of
from tunesmith.recipe import Model, Recipe
from tunesmith.stages.before import measure_before
from tunesmith.stages.plan import Planned, begun, of_stage, stage_folders
from tunesmith.stages.report import write_whole_report

if TYPE_CHECKING:
    from collections.abc import Sequence


class Ended(Protocol):
    """How a stage ended."""

    @property
    def status(self) -> str:
        """done, stopped or interrupted."""

    @property
    def steps(self) -> int:
        """Steps done."""


# (recipe of a stage, resume, anyway, stop_after, reporter, what is known of its model) -> how it ended
TrainOne = Callable[[Recipe, bool, bool, int | None, Reporter, Known | None], Ended]


@dataclass(frozen=True, slots=True)
class Whole:
    """How all stages ended, and after how many steps."""

    status: str
    steps: int


def train_stages(
    recipe: Recipe,
    planned: Sequence[Planned],
    train_one: TrainOne,
    anyway: bool,
    stop_after: int | None,
    reporter: Recording,
) -> Whole:
    """Carry out every stage that is not finished. `stop_after` counts the steps of all."""
    folder = RunFolder(Path(recipe.output))
    folders = stage_folders(recipe)
    names = [str(stage.path.relative_to(folder.path)) for stage in folders]
    write_json(folder.stage_list, {"schema": 1, "stages": names})
    known = measure_before(recipe, planned, folder, reporter)
    steps, status = 0, "done"
    for number, stage in enumerate(recipe.stages):
        to_come = sum(each.steps for each in planned[number:])
        with of_stage(stage.name):
            own = begun(recipe, number, stage.recipe) if stage.recipe else None
            if own is None:
                _extend(recipe, number, reporter)
                known = None
                continue
            told = Relay(reporter, stage.name, steps, steps + to_come)
            left = None if stop_after is None else stop_after - steps
            ended = _one(own, folders[number], train_one, anyway, left, told, known)
            steps, status = steps + ended.steps, ended.status
            last = number == len(recipe.stages) - 1
            if status != "interrupted" and not last:
                status = "interrupted" if left is not None and ended.steps >= left else "done"
            if status == "interrupted":
                break
            visit("stage")
            if not last:
                hand_over(folders[number], reporter)
                known = _known(folders[number], own, begun(recipe, number + 1, own).model)
    visit("whole")
    write_whole_report(recipe, folder, folders, status)
    return Whole(status, steps)


def _one(
    recipe: Recipe,
    folder: RunFolder,
    train_one: TrainOne,
    anyway: bool,
    stop_after: int | None,
    reporter: Reporter,
    known: Known | None,
) -> Ended:
    """A stage, from its beginning or where it stopped. What was there before its recipe is of no use."""
    resume = is_run(folder.path)
    if not resume:
        shutil.rmtree(folder.path, ignore_errors=True)
    before = _report(folder)
    ended = train_one(recipe, resume, anyway and resume, stop_after, reporter, known)
    if _report(folder) != before:  # what was handed over before is another's
        shutil.rmtree(folder.export("merged"), ignore_errors=True)
    return ended


def _report(folder: RunFolder) -> bytes | None:
    return folder.report.read_bytes() if folder.report.is_file() else None


def _extend(recipe: Recipe, number: int, reporter: Reporter) -> None:
    """A vocabulary stage: a model folder with more tokens, whole or absent."""
    from tunesmith.extended import extend

    stage, folder = recipe.stages[number], stage_folders(recipe)[number]
    if folder.handed_over is not None:
        return
    assert stage.vocabulary is not None
    begins = begun(recipe, number, recipe) if number else recipe
    extend(stage.vocabulary, begins.model, folder.path, seed=recipe.seed, reporter=reporter)
    visit("stage")


def hand_over(folder: RunFolder, reporter: Reporter) -> None:
    """Make what the next stage starts from: the whole model is there, an adapter is merged, with its certificate."""
    if folder.handed_over is None:
        visit("hand_over")
        export(str(folder.path), "merged", reporter)


def _known(folder: RunFolder, recipe: Recipe, model: Model) -> Known | None:
    """What was measured after a stage is what the next would measure before, where the weights are the same."""
    from tunesmith.evaluation.scores import from_json

    kept = folder.answers / "after.json"
    if not kept.is_file() or recipe.tuning.base != "none":
        return None
    return Known(
        found=from_json(read_json(kept)),
        tasks=recipe.tasks,
        probes=recipe.evaluation.probes,
        template=str(tokenizer_of(model).chat_template),
        max_length=recipe.data.max_length,
        answers=folder.answers / "after.jsonl",
    )


@dataclass(frozen=True, slots=True)
class Relay:
    """Tells the whole what happens in a stage, with steps counted through all stages."""

    whole: Reporter
    stage: str
    done: int
    total: int

    def event(self, event: Event) -> None:
        """The end of a stage is not the end of the run; everything else is passed on."""
        match event:
            case Finished() | Failed():
                return  # told once, of the whole
            case Started():
                event = replace(event, stage=self.stage, steps=self.total)
            case Saved():
                event = replace(event, path=f"{self.stage}: {event.path}")
        self.whole.event(replace(event, step=event.step + self.done))

    def progress(self, what: str, done: int, total: int | None) -> None:
        """As it is."""
        self.whole.progress(what, done, total)
