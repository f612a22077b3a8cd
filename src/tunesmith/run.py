"""READ FIRST. The whole way on one page: recipe -> data -> model -> engine -> report.

prepare                    tokenizer, template, exact tokens, ledger, facts, plan: no weight is loaded
plan                       what is known by then, for a person to look at; show, stats, check, clean: looking.py
train                      evaluate -> tune -> fit -> save -> evaluate -> report: one run folder
                           with `stages:` that for each, in stages/: the next starts from what was handed over
base_of, tune, ...         in work.py: the model made ready and handed to the engine
open_model, evaluate, ...  in opened.py: what a finished run (or any model) is good for
"""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.engine.faults import visit
from tunesmith.errors import CheckpointError, Interrupted, Problem, TunesmithError
from tunesmith.events import Failed, Finished, Recording, Reporter, Silent
from tunesmith.folder import RunFolder, open_run, write_atomically, write_json, write_lines
from tunesmith.looking import check, clean, show, stats, words_of
from tunesmith.opened import Opened, answer, evaluate, export, open_model
from tunesmith.readable import require_readable
from tunesmith.recipe import Recipe, Steps, dump, steps_of
from tunesmith.resuming import (
    Change,
    as_begun,
    finished,
    recipe_changes,
    require_harmless,
    surrounding_changes,
    tell,
)
from tunesmith.stages.plan import plan_as_json, plan_stages, require_room_for_all
from tunesmith.suited import (
    require_room,
    require_rows_for,
    require_suited_ids,
    require_suited_length,
    require_suited_model,
    require_suited_parts,
)
from tunesmith.tracking.start import following
from tunesmith.trunk import fit_above_trunk
from tunesmith.work import (
    Work,
    base_of,
    save_trained,
    scores_at,
    surroundings_of,
    tune,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy import ndarray

    from tunesmith.data.ledger import Ledger
    from tunesmith.data.loader import RunSteps
    from tunesmith.data.prepare import Prepared
    from tunesmith.evaluation.known import Known
    from tunesmith.plan.choice import RunShape
    from tunesmith.plan.device import Device
    from tunesmith.plan.worst import Worst
    from tunesmith.stages.ahead import Ahead


__all__ = [
    "Opened",
    "Outcome",
    "Work",
    "answer",
    "check",
    "clean",
    "evaluate",
    "export",
    "open_model",
    "plan",
    "prepare",
    "show",
    "stats",
    "train",
]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `train` tells. status: done, stopped (early) or interrupted (resumable)."""

    run: str
    status: str
    steps: int
    report: str


# --- before a weight is loaded ------------------------------------------------------------------------------


def prepare(
    recipe: Recipe,
    reporter: Reporter | None = None,
    device: Device | None = None,
    ahead: Ahead | None = None,
    kept: Path | None = None,
    forecast: bool = False,
) -> Work:
    """From the recipe to exact tokens and a plan. Raises every kind of UserError; writes nothing.

    device: to plan for another than the one that is here.
    ahead: what a stage will start from, while its model is yet to be trained.
    kept: where a run keeps its streams, and what it has of them. Without it a pipe is refused.
    forecast: nothing is trained afterwards: the tokenizer may be as an earlier process kept it.
    """
    from tunesmith.data.cache import free_bytes as cache_room
    from tunesmith.data.doctor.tasks import leaked_items
    from tunesmith.data.prepare import prepare as prepare_data
    from tunesmith.evaluation.tasks import read_tasks
    from tunesmith.model.facts import read_facts
    from tunesmith.opened import require_mergeable
    from tunesmith.plan.device import find_device
    from tunesmith.plan.forecast import make_plan
    from tunesmith.plan.registry import read_runs
    from tunesmith.plan.summary import summarise
    from tunesmith.tuning.footprint import virtual_tokens
    from tunesmith.tuning.untrained import with_new_tokens

    reporter = reporter or Silent()
    require_suited_parts(recipe)
    require_readable(recipe, model=ahead is None, kept=kept)
    if ahead is None:
        require_mergeable(recipe.model)
    tasks = read_tasks(recipe.tasks)  # a fault in a task file is told before hours are spent
    facts, device = ahead.facts if ahead else read_facts(recipe.model), device or find_device()
    require_suited_model(recipe, facts, device)
    tokenizer, template = ahead.words(recipe) if ahead else words_of(recipe, known=forecast)
    recipe = _with_vocabulary(recipe, len(tokenizer))
    facts = facts if recipe.model.from_config is None else read_facts(recipe.model)
    data = prepare_data(recipe.data, recipe.objective, tokenizer, template, recipe.seed, reporter)
    data, steps = _laid_out(recipe, data, kept, lambda ids: require_rows_for(ids, tokenizer, facts))
    require_suited_ids(data, tokenizer, facts, virtual_tokens(recipe.tuning))
    facts = with_new_tokens(recipe, tokenizer, template, data, facts, ahead.tables if ahead else recipe.model)
    require_suited_length(recipe, len(steps))
    shape, worst = _measured(steps, data, recipe)
    summary = summarise(data, steps, template, tokenizer, leaked_items(tasks, recipe.data.train))
    plan = make_plan(
        recipe, facts, shape, device, summary, runs=read_runs(recipe), worst=worst, cache_room=cache_room()
    )
    return Work(recipe, tokenizer, template, data, facts, device, steps, plan)


def _laid_out(
    recipe: Recipe, data: Prepared, kept: Path | None, suits: Callable[[ndarray], None]
) -> tuple[Prepared, RunSteps]:
    """Which rows each step of the run takes, and the books that know it; of streams both begin with their heads."""
    from tunesmith.data.steps import plan_steps
    from tunesmith.data.streaming.plan import StreamPlan

    optim, groups = recipe.optim, [source.group for source in recipe.data.train]
    if data.streams is None:
        steps = plan_steps(
            data.train, data.weights, recipe.budget, optim.batch_tokens, recipe.seed, optim.batch_growth,
            recipe.data.mix, groups,
        )  # fmt: skip
        ledger = data.ledger.with_repeats(steps.passes, steps.requested, steps.realised)
        return replace(data, ledger=ledger), steps
    assert isinstance(recipe.budget, Steps)
    streamed = StreamPlan(
        data.streams, data.train, recipe.data, recipe.budget.steps, optim.batch_tokens, optim.batch_growth,
        recipe.seed, kept, suits,
    )  # fmt: skip
    return replace(
        data, train=streamed.train_sets(data.train), ledger=streamed.with_head(data.ledger)
    ), streamed


def _measured(steps: RunSteps, data: Prepared, recipe: Recipe) -> tuple[RunShape, Worst]:
    """How long the run is, and its worst micro-batch."""
    from tunesmith.plan.choice import RunShape
    from tunesmith.plan.worst import telling, worst_among

    between = steps_of(recipe.checkpoint.every, len(steps)) * (recipe.checkpoint.keep + 1)
    shape = RunShape(
        steps=len(steps),
        tokens=steps.total_tokens,
        targets=steps.total_targets,
        step_tokens=int(steps.step_tokens.max()),
        longest=data.longest,
        rows=steps.row_count,
        once=None if data.streams is not None else steps.epoch_tokens,
        held_out=data.validation.token_count if data.validation is not None else 0,
        kept_bytes=steps.held_bytes(between),
    )
    chosen = telling(steps.step_tokens, steps.step_targets, steps.step_longest)
    return shape, worst_among([steps.measure(step) for step in chosen], recipe.data.packing)


def _with_vocabulary(recipe: Recipe, tokens: int) -> Recipe:
    """A new model's embedding has a row for each token of its tokenizer."""
    if recipe.model.from_config is None or "vocab_size" in recipe.model.from_config:
        return recipe
    config = {**recipe.model.from_config, "vocab_size": tokens}
    return recipe.model_copy(update={"model": recipe.model.model_copy(update={"from_config": config})})


def plan(recipe: Recipe, reporter: Reporter | None = None, memory: str | None = None) -> dict[str, Any]:
    """The forecast of a run: the contracted JSON of the verb. memory: on a device of this name or size."""
    from tunesmith.plan.cards import device_with
    from tunesmith.plan.device import find_device

    return plan_on(recipe, reporter, device_with(memory, find_device()) if memory else None)


def plan_on(recipe: Recipe, reporter: Reporter | None = None, device: Device | None = None) -> dict[str, Any]:
    """The same on a device."""
    if recipe.stages:
        return plan_as_json(plan_stages(recipe, prepare, reporter or Silent(), device))
    work = prepare(recipe, reporter, device, forecast=True)
    ledger = work.data.ledger
    return {**work.plan.to_json(), "mix": ledger.mix(), "heads": ledger.heads()}


# --- training -----------------------------------------------------------------------------------------------


def train(
    recipe: Recipe,
    *,
    resume: bool = False,
    anyway: bool = False,
    stop_after: int | None = None,
    reporter: Reporter | None = None,
) -> Outcome:
    """Carry out a recipe in its run folder, or go on where it was interrupted.

    `anyway`: go on though what is learnt from, or by, is another than when the run began.
    """
    one = _train_stages if recipe.stages else _train_one
    return one(recipe, resume, anyway, stop_after, reporter or Silent())


def _train_one(
    recipe: Recipe,
    resume: bool,
    anyway: bool,
    stop_after: int | None,
    reporter: Reporter,
    known: Known | None = None,
) -> Outcome:
    """A recipe, or one stage of several, of whose model something may be `known`."""
    folder = RunFolder(Path(recipe.output))
    if not (resume or anyway):
        folder.require_new()
        work = prepare(recipe, reporter, kept=folder.stream)
        require_room(work.plan, folder)
        visit("prepared")
        folder.create()
        with folder.lock():
            return _recorded(work, folder, [], anyway, stop_after, reporter, known)
    with open_run(folder.path).lock():
        changes = recipe_changes(folder, recipe)
        require_harmless(changes, anyway)
        if done := finished(folder):
            if all(change.rule.harmless for change in changes):
                return Outcome(
                    str(folder.path), done["status"], done["training"]["steps"], str(folder.report)
                )
            folder.reopen()
        work = prepare(recipe, reporter, kept=folder.stream)
        require_room(work.plan, folder)
        work = replace(work, plan=as_begun(work.plan, folder, changes))
        around = surrounding_changes(folder, surroundings_of(work))
        require_harmless(around, anyway, CheckpointError)
        changes += around
        return _recorded(work, folder, changes, anyway, stop_after, reporter, known)


def _train_stages(
    recipe: Recipe, resume: bool, anyway: bool, stop_after: int | None, reporter: Reporter
) -> Outcome:
    """Every stage forecast first, then one after the other, each by `_train_one`."""
    from tunesmith.engine.world import environment
    from tunesmith.stages.train import train_stages

    folder, changes = RunFolder(Path(recipe.output)), list[Change]()
    if resume or anyway:
        changes = recipe_changes(open_run(folder.path), recipe)
        require_harmless(changes, anyway)
        if (done := finished(folder)) and not changes:
            return Outcome(str(folder.path), done["status"], done["training"]["steps"], str(folder.report))
    else:
        folder.require_new()
    planned = plan_stages(recipe, prepare, reporter)
    require_room_for_all(planned, folder)
    if not (resume or anyway):
        folder.create()
    began = time.perf_counter()
    with folder.lock(), _recording(folder, recipe, reporter) as recording:
        write_atomically(folder.recipe, dump(recipe))
        write_json(folder.plan, plan_as_json(planned))
        write_json(folder.environment, environment())
        tell(changes, folder, recording)
        whole = train_stages(recipe, planned, _train_one, anyway, stop_after, recording)
        seconds = time.perf_counter() - began
        recording.event(Finished(step=whole.steps, status=whole.status, seconds=seconds))
    return Outcome(str(folder.path), whole.status, whole.steps, str(folder.report))


def _recorded(
    work: Work,
    folder: RunFolder,
    changes: list[Change],
    anyway: bool,
    stop_after: int | None,
    reporter: Reporter,
    known: Known | None,
) -> Outcome:
    """Train, with all that happens in events.jsonl: changes since the beginning first, an error last."""
    _write_beforehand(folder, work)
    with contextlib.closing(work.steps), _recording(folder, work.recipe, reporter) as recording:
        tell(changes, folder, recording)
        return _train(work, folder, anyway, stop_after, recording, known)


@contextlib.contextmanager
def _recording(folder: RunFolder, recipe: Recipe, reporter: Reporter) -> Iterator[Recording]:
    """Within: events are kept and trackers follow; an error that ends the run is among them."""
    recording = Recording(folder.events, reporter)
    try:
        with folder.staying(), following(recipe.track, folder, reporter):
            yield recording
    except Interrupted:  # of a stage, told by it
        raise
    except TunesmithError as error:
        problems = tuple(error.to_json()["error"]["problems"])
        recording.event(Failed(step=error.step, code=error.code, problems=problems))
        raise
    except KeyboardInterrupt as error:
        what, fix = "stopped at once", f"go on with it: {folder.resume_words}"
        raise Interrupted([Problem(str(folder.path), what, fix)]) from error


def _write_beforehand(folder: RunFolder, work: Work) -> None:
    write_atomically(folder.recipe, dump(work.recipe))
    write_json(folder.plan, work.plan.to_json())
    _write_ledger(folder, work.data.ledger)
    write_json(folder.environment, surroundings_of(work))


def _write_ledger(folder: RunFolder, ledger: Ledger) -> None:
    write_json(folder.ledger, ledger.to_json())
    write_lines(folder.ledger_rows, ledger.row_lines())


def _train(
    work: Work,
    folder: RunFolder,
    anyway: bool,
    stop_after: int | None,
    reporter: Reporter,
    known: Known | None,
) -> Outcome:
    from tunesmith.data.streaming.plan import StreamPlan
    from tunesmith.engine.store import CheckpointStore
    from tunesmith.evaluation.report import write_report

    began = time.perf_counter()
    if isinstance(work.steps, StreamPlan):
        work.steps.begin(folder.stream, lambda ledger: _write_ledger(folder, ledger), reporter, visit)
    lm = base_of(work)
    visit("before")
    before = scores_at(lm, work, folder, "before", reporter, known)
    tuned, method = tune(work, lm)
    visit("tuned")
    store = CheckpointStore(folder.checkpoints, work.recipe.checkpoint.keep)
    with contextlib.closing(work.steps):
        base = before.heldout.loss_nats if before is not None and before.heldout is not None else None
        fitted, trunk = fit_above_trunk(work, tuned, method, store, reporter, stop_after, anyway, base)
    ledger = work.steps.ledger(work.data.ledger, fitted.progress.step)
    _write_ledger(folder, ledger)
    finished = fitted.status != "interrupted"
    after = test = None
    if finished:
        visit("trained")
        save_trained(work, folder, tuned, method)
        visit("after")
        after = scores_at(tuned.model, work, folder, "after", reporter)
        test = scores_at(tuned.model, work, folder, "test", reporter) if work.data.test is not None else None
    visit("report")
    write_report(
        folder, work.recipe, before=before, after=after, test=test, ledger=ledger, plan=work.plan,
        fit=fitted, facts=work.facts, trainable=tuned.trainable_count, trunk=trunk,
    )  # fmt: skip
    seconds = time.perf_counter() - began
    reporter.event(Finished(step=fitted.progress.step, status=fitted.status, seconds=seconds))
    return Outcome(str(folder.path), fitted.status, fitted.progress.step, str(folder.report))
