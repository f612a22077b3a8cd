"""All stages before the first weight is loaded: each is read, checked and forecast with what it will start from.

tokenizer, facts --stage 1--> template kept, new tokens added --stage 2--> ...        every fault is told now
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DoesNotFitError, Problem, RecipeError, UserError
from tunesmith.folder import RunFolder
from tunesmith.model.facts import read_facts
from tunesmith.opened import tokenizer_of
from tunesmith.recipe import Model, Recipe, Stage
from tunesmith.recipe.expand import folder_of
from tunesmith.stages.ahead import Ahead
from tunesmith.tuning.table import merge_problems

if TYPE_CHECKING:
    from tunesmith.events import Reporter
    from tunesmith.plan.device import Device
    from tunesmith.work import Work

Prepare = Callable[[Recipe, "Reporter", "Device | None", "Ahead | None"], "Work"]
Json = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Planned:
    """A stage with its forecast (null for a vocabulary), and the memory it lacks here."""

    stage: Stage
    plan: Json | None
    lack: Problem | None = None
    new_tokens: int = 0

    @property
    def steps(self) -> int:
        """Optimiser steps."""
        return int(self.plan["run"]["steps"]) if self.plan else 0


def plan_stages(
    recipe: Recipe, prepare: Prepare, reporter: Reporter, device: Device | None = None
) -> list[Planned]:
    """Every stage in order. Raises the problems of the first stage that has any, named as the stage's."""
    ahead: Ahead | None = None
    found: list[Planned] = []
    for number, stage in enumerate(recipe.stages):
        with of_stage(stage.name):
            if stage.recipe is None:
                ahead, new = _extended(recipe, stage, ahead, reporter)
                found.append(Planned(stage, None, new_tokens=new))
                continue
            work = prepare(begun(recipe, number, stage.recipe), reporter, device, ahead)
            plan = work.plan
            lack = None if plan.fits else Problem(f"stage {stage.name}: plan", plan.shortage, plan.way_out)
            found.append(Planned(stage, plan.to_json(), lack))
            last = number == len(recipe.stages) - 1
            if not last and (problems := merge_problems(stage.recipe.tuning, work.facts)):
                raise RecipeError(problems)
            before = ahead or Ahead(work.tokenizer, work.facts, recipe.model)
            ahead = before.after(stage.recipe, work.template)
    return found


def begun(recipe: Recipe, number: int, stage: Recipe) -> Recipe:
    """A stage's recipe with the model it starts from: the whole's, or the folder of the stage before."""
    if number == 0:
        return stage
    before = stage_folders(recipe)[number - 1]
    path = str(before.handed_over or before.path)
    first = recipe.model
    model = Model(path=path, dtype=first.dtype, trust_remote_code=first.trust_remote_code)
    return stage.model_copy(update={"model": model})


def stage_folders(recipe: Recipe) -> list[RunFolder]:
    """Where each stage lies."""
    names = [folder_of(number, stage.name) for number, stage in enumerate(recipe.stages)]
    return [RunFolder(Path(recipe.output) / name) for name in names]


def _extended(recipe: Recipe, stage: Stage, ahead: Ahead | None, reporter: Reporter) -> tuple[Ahead, int]:
    """What a vocabulary makes of the words ahead: its tokens are learnt now, its rows are not."""
    from tunesmith.extended import learn_ahead

    assert stage.vocabulary is not None
    ahead = ahead or Ahead(tokenizer_of(recipe.model), read_facts(recipe.model), recipe.model)
    tokenizer, facts = learn_ahead(stage.vocabulary, ahead.tokenizer, ahead.facts, reporter)
    return Ahead(tokenizer, facts, ahead.tables), len(facts.new_tokens)


@contextlib.contextmanager
def of_stage(name: str) -> Iterator[None]:
    """Problems found within say which stage they are of."""
    try:
        yield
    except UserError as error:
        problems = [Problem(f"stage {name}: {p.where}", p.what, p.fix) for p in error.problems]
        raise type(error)(problems) from error


def require_room_for_all(planned: list[Planned], folder: RunFolder) -> None:
    """Raise DoesNotFitError naming each stage that the device has no memory for."""
    if problems := [each.lack for each in planned if each.lack]:
        raise DoesNotFitError(problems)
    folder.require_space(plan_as_json(planned)["run"]["disk_bytes"])


def plan_as_json(planned: list[Planned]) -> Json:
    """The contracted plan of the whole: memory of the dearest stage, sums of the rest, and each stage's own."""
    plans = [(each.stage.name, each.plan) for each in planned if each.plan]
    dearest = max((plan for _, plan in plans), key=lambda plan: plan["memory"]["peak_bytes"])
    keys = ("steps", "tokens", "targets", "seconds", "seconds_low", "seconds_high", "disk_bytes")
    run = {key: _sum(plan["run"][key] for _, plan in plans) for key in keys}
    run |= {key: plans[-1][1]["run"][key] for key in ("seconds_held_against", "seconds_count")}
    run["busy"] = max((plan["run"]["busy"] or 1.0 for _, plan in plans), default=1.0)
    run["disk_bytes"] = (run["disk_bytes"] or 0) + sum(_handed_over(plan) for _, plan in plans[:-1])
    return {
        **{key: dearest[key] for key in ("device", "memory", "largest")},
        "fits": all(plan["fits"] for _, plan in plans),
        "parameters": plans[-1][1]["parameters"],
        "run": run,
        "advice": [_of_stage(name, item) for name, plan in plans for item in plan["advice"]],
        "precision": plans[-1][1]["precision"],
        "stages": [
            {
                "name": each.stage.name,
                "kind": each.stage.recipe.objective if each.stage.recipe else "vocabulary",
                **({"plan": each.plan} if each.plan else {"new_tokens": each.new_tokens}),
            }
            for each in planned
        ],
    }


def _sum(values: Iterator[Any]) -> Any:
    """The sum, or null where a part is not known."""
    found = list(values)
    return None if any(value is None for value in found) else sum(found)


def _handed_over(plan: Json) -> int:
    """Bytes of the merged model that the next stage starts from; a model that was trained whole is there already."""
    whole = plan["parameters"]["trainable"] == plan["parameters"]["total"]
    return 0 if whole else plan["parameters"]["total"] * (2 if plan["precision"] == "bf16" else 4)


def _of_stage(name: str, advice: Json) -> Json:
    """Advice with the keys of the whole recipe."""
    change = {f"stages.{name}.{key}": value for key, value in advice["change"].items()}
    return {**advice, "reason": f"stage {name}: {advice['reason']}", "change": change, "stage": name}
