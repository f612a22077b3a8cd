"""Where a run stands, and what was resolved for it: plain data that goes into every checkpoint.

recipe + plan -> Settings        step after step -> Progress -> FitResult
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from tunesmith.data.samples import Sample, SampleSet
from tunesmith.engine.rescue import Limits, Watch, watch_from_json
from tunesmith.events import Stepped
from tunesmith.recipe import Recipe, steps_of
from tunesmith.tuning.method import Schedule


@dataclass(frozen=True, slots=True)
class Settings:
    """What the plan resolved: rate, precision, micro-batch, schedule of evaluations and saves (in steps)."""

    lr: float
    bf16: bool
    micro_tokens: int
    evaluate_every: int
    save_every: int
    stop_after: int | None = None
    schedule: Schedule | None = None
    """Rate of each step, in place of the recipe's."""
    enough: Callable[[Stepped], bool] | None = None
    """Ends the run after a step that says so."""
    text_of: Callable[[Sample], str] | None = None
    """The words of a sample, for events that name rows."""
    dry_run: bool = False
    """Try the worst batch before the first step."""
    state_bytes: float = 8.0
    """What the optimiser will hold for each trainable number."""
    foreseen: str = ""
    """The forecast in words, for one whose memory runs out all the same."""
    next_recipe: str = ""
    """What to try then, and the command that writes it."""
    held_out: SampleSet | None = None
    """Rows of the held-out loss, whose longest is tried too."""
    base_loss_nats: float | None = None
    """The held-out loss before training."""
    vocabulary: int | None = None
    """Rows of the base's embedding."""
    anyway: bool = False
    """Go on though data, model or libraries are others than when the run began."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the loop stands; saved with every checkpoint. Totals are of all steps that were taken."""

    step: int = 0
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0
    micro_tokens: int = 0
    evaluated_step: int = 0
    best_loss_nats: float | None = None
    best_step: int | None = None
    without_best: int = 0
    early_stopped: bool = False
    watch: Watch = Watch()


@dataclass(frozen=True, slots=True)
class FitResult:
    """How the loop ended: done, stopped (early) or interrupted (resumable)."""

    status: str
    progress: Progress
    interrupted_by: str | None = None


def settings_of(recipe: Recipe, steps: int, *, lr: float, bf16: bool, micro_tokens: int) -> Settings:
    """Shares of the run, as steps."""
    every = (steps_of(recipe.evaluation.every, steps), steps_of(recipe.checkpoint.every, steps))
    return Settings(lr, bf16, micro_tokens, *every)


def limits_of(recipe: Recipe, settings: Settings) -> Limits:
    """What the recipe calls too much for a step; where rates are searched, only NaN is, and nothing is retraced."""
    asked, searching = recipe.rescue, settings.schedule is not None
    return Limits(
        sigmas=None if searching else asked.sigmas,
        loss=None if searching else asked.loss,
        grad_norm=None if searching else asked.grad_norm,
        clip=recipe.optim.grad_clip or 1.0,
        bad_steps=asked.max_bad_steps,
        rewinds=0 if searching else asked.rewinds,
        guess=math.log(settings.vocabulary) if settings.vocabulary else None,
    )


def progress_from_json(value: Mapping[str, Any]) -> Progress:
    """What a checkpoint keeps of it."""
    return Progress(**{**value, "watch": watch_from_json(value["watch"])})
