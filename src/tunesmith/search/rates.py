"""The learning-rate range test (Smith 2015, arXiv:1506.01186): a short run whose rate rises at every step.

  gain of a step = its loss with the weights so far - its loss with the weights of the beginning
  0 ──────╮             ╭──    too low: nothing moves      steep: it learns      rising again: too high
          ╰─╮      ╭────╯
            ╰──────╯           suggested: a third of the rate at the lowest point

Nothing is kept: no run folder, no checkpoint, and the random state is put back, so that a run afterwards has the
same bits as one without the test. The steps are taken by the one engine.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tunesmith.errors import RecipeError
from tunesmith.events import Event, Reporter, Silent, Stepped
from tunesmith.recipe import Evaluation, Optim, Recipe, Steps

if TYPE_CHECKING:
    from tunesmith.tuning.method import TunedModel
    from tunesmith.work import Work

STEPS, FEWEST_STEPS = 60, 20
# Of the method's usual rate: where the test begins and ends.
FROM, TO = 1e-2, 1e3
LEAST_BELOW = 3.0
SMOOTHED_OVER = 5  # steps, centred
BEYOND_CHANCE = 4.0  # the lowest of some fifty means, in their standard deviations
OF_A_MEDIAN = 1.4826  # standard deviations of normal noise in its median distance
WORSE_BY = 0.5  # nats above the beginning: no higher rate is worth trying


@dataclass(frozen=True, slots=True)
class Point:
    """One step. `untouched_nats`: the loss of the same rows with the weights of the beginning."""

    step: int
    lr: float
    loss_nats: float
    untouched_nats: float

    @property
    def gain(self) -> float:
        """What training has changed on these rows; below 0 it has helped. Which rows a step drew cancels out."""
        return self.loss_nats - self.untouched_nats


@dataclass(frozen=True, slots=True)
class Reading:
    """What the curve says. `suggestion` is None where no rate helped more than chance."""

    suggestion: float | None
    reason: str
    lowest_at: float | None = None
    steepest_at: float | None = None
    smooth: tuple[float, ...] = ()


def read_off(points: Sequence[Point]) -> Reading:
    """The suggestion of a curve: LEAST_BELOW below the rate of the lowest smoothed gain.

    At the lowest point the next steps already undo what the last ones won; the steepest rate is told beside it.
    """
    gains = np.array([point.gain for point in points])
    if len(gains) < SMOOTHED_OVER:
        return Reading(None, "too few finite steps: begin the test lower (--from)")
    smooth = _smoothed(gains)
    # by the median: the last steps, where the loss goes up and away, say nothing of chance
    noise = OF_A_MEDIAN * float(np.median(np.abs(gains - smooth))) / math.sqrt(SMOOTHED_OVER)
    lowest = int(smooth.argmin())
    told = tuple(map(float, smooth))
    if smooth[lowest] > -BEYOND_CHANCE * noise or smooth[lowest] >= 0:
        fix = "take more steps (--steps), or larger ones (optim.batch_tokens)"
        return Reading(None, f"no rate lowered the loss by more than chance: {fix}", smooth=told)
    rates = np.log([point.lr for point in points])
    slopes = np.gradient(smooth, rates)[: lowest + 1]
    steepest, found = points[int(slopes.argmin())].lr, points[lowest].lr
    suggestion = _rounded(found / LEAST_BELOW)
    reason = (
        f"the loss was lowest at {found:.2g} ({smooth[lowest]:+.3f} nats against the weights of the beginning) and "
        f"fell fastest at {steepest:.2g}; a third of the lowest leaves room for a run that stays at its peak longer"
    )
    if lowest >= len(points) - 2:
        reason += ". It was still falling at the end of the test: a higher --to may show a better one"
    return Reading(suggestion, reason, found, steepest, told)


def _smoothed(values: np.ndarray) -> np.ndarray:
    """Centred means over SMOOTHED_OVER steps, shorter at the ends."""
    half = SMOOTHED_OVER // 2
    return np.array([values[max(0, i - half) : i + half + 1].mean() for i in range(len(values))])


def _rounded(rate: float) -> float:
    """Two digits: the test knows no more."""
    return float(f"{rate:.1e}")


# --- carrying it out ----------------------------------------------------------------------------------------


def find_rate(
    recipe: Recipe,
    *,
    steps: int = STEPS,
    low: float | None = None,
    high: float | None = None,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Carry out the test of a recipe; nothing is written. Raises every kind of UserError that `train` does."""
    from tunesmith import run
    from tunesmith.tuning.table import default_lr
    from tunesmith.work import base_of, fit_to_data, tune

    reporter = reporter or Silent()
    usual = default_lr(recipe)
    low, high = low or usual * FROM, high or usual * TO
    _require(steps, low, high)
    with _random_state_kept():
        work = run.prepare(_tested(recipe, steps), reporter)
        tuned, method = tune(work, base_of(work))
        untouched = _untouched(work, tuned, reporter)
        course = _Course(untouched, reporter)
        fitted = fit_to_data(
            work, tuned, method, None, course,
            schedule=lambda step, of: low * (high / low) ** ((step - 1) / max(1, of - 1)),
            enough=course.enough,
        )  # fmt: skip
    if fitted.status == "interrupted":  # half a course says nothing
        raise KeyboardInterrupt
    reading = read_off(course.points)
    return {
        **asdict(reading),
        "caution": _caution(work, reading.suggestion),
        "usual": usual,
        "recipe_lr": recipe.optim.lr,
        "from": low,
        "to": high,
        "steps": len(course.points),
        "stopped_early": len(course.points) < len(work.steps),
        "points": [asdict(point) | {"gain": point.gain} for point in course.points],
    }


def _caution(work: Work, rate: float | None) -> str | None:
    """What the rules of advice say of the suggested rate: a test of the loss does not see what is forgotten."""
    from tunesmith.plan.advice import rate_too_high
    from tunesmith.plan.case import Case

    if rate is None:
        return None
    found = rate_too_high(Case(work.recipe, work.facts, work.device, rate))
    return None if found is None else f"{found.reason} ({found.source})"


def _require(steps: int, low: float, high: float) -> None:
    if steps < FEWEST_STEPS:
        raise RecipeError.at("--steps", f"{steps} steps draw no curve", f"at least {FEWEST_STEPS}")
    if not 0 < low < high or high / low < 10:
        what = f"from {low:g} to {high:g} is no range to rise over"
        raise RecipeError.at(
            "--from and --to", what, "a factor of 10 apart at least, such as --from 1e-6 --to 1e-1"
        )


def _tested(recipe: Recipe, steps: int) -> Recipe:
    """The recipe of the test: as many steps of full size, each computed whole; the rate is the test's own, nothing is
    evaluated."""
    optim = Optim(**{**recipe.optim.model_dump(), "warmup": 0, "batch_growth": None})
    nothing = Evaluation(every=1.0 - 1e-9, tasks=(), probes=())
    whole = recipe.compute.model_copy(update={"trunk_cache": "off"})
    return recipe.model_copy(
        update={
            "optim": optim, "budget": Steps(steps=steps), "evaluation": nothing, "track": (), "compute": whole
        }
    )  # fmt: skip


def _untouched(work: Work, tuned: TunedModel, reporter: Reporter) -> list[float]:
    """The loss of the rows of each step before anything is learnt."""
    from tunesmith.data.samples import collect
    from tunesmith.evaluation.heldout import held_out_loss

    found = []
    for step in range(len(work.steps)):
        rows = collect(work.steps.samples(work.data.train, step))
        found.append(held_out_loss(tuned.model, rows, work.plan.micro_tokens).loss_nats)
        reporter.progress("losses before training", step + 1, len(work.steps))
    return found


class _Course:
    """Hears the steps, and says when a higher rate is not worth trying."""

    def __init__(self, untouched: Sequence[float], reporter: Reporter) -> None:
        self.untouched, self.reporter = untouched, reporter
        self.points: list[Point] = []

    def event(self, event: Event) -> None:
        """Keep the finite steps, and pass everything on."""
        if isinstance(event, Stepped) and event.finite:
            before = self.untouched[event.step - 1]
            self.points.append(Point(event.step, event.lr, event.loss_nats, before))
        self.reporter.event(event)

    def progress(self, what: str, done: int, total: int | None) -> None:
        """Pass it on."""
        self.reporter.progress(what, done, total)

    def enough(self, stepped: Stepped) -> bool:
        """Whether the loss is no number, or has stood far above where it began for three steps."""
        last = [point.gain for point in self.points[-3:]]
        return not stepped.finite or (len(last) == 3 and min(last) > WORSE_BY)


@contextmanager
def _random_state_kept() -> Iterator[None]:
    """Whatever is drawn within, afterwards every generator stands where it stood."""
    import torch

    deterministic = torch.are_deterministic_algorithms_enabled()
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if cuda:
            torch.cuda.set_rng_state_all(cuda)
        torch.use_deterministic_algorithms(deterministic)
