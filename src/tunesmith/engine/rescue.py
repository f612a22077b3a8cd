"""What to do with a step that looks wrong: a pure function of what was seen before. No torch, no files.

loss, grad norm -> judge ->  take      nothing is wrong
                             skip      this step changes nothing
                             rewind    to a checkpoint from before, and leave a window of the data out
                             lower     to a checkpoint from before, with half the learning rate
                             stop      nothing of this helped
Asked before the optimiser moves anything. Medians, because a mean would follow what it should catch.

held-out loss -> judge_held_out -> lower, stop or nothing: the same rows each time, so there is no noise to tell apart
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from statistics import median
from typing import Any, Literal

Verdict = Literal["take", "skip", "rewind", "lower", "stop"]

WINDOW = 64  # steps that say what is usual
LEAST = 16  # fewer say nothing
TOLERATED = 3  # so many values of a window as far out, and it is how these data are
BEFORE = 2  # steps before the first bad one that are left out with it: one of them may have sown it
LEAST_RISE_NATS = 1.0  # a loss that rises by less is nobody's emergency, however calm it was before
LEAST_FACTOR = 10.0  # likewise for gradient norms
SMOOTH = 32  # steps whose median is the smoothed loss; its own spread is a fifth of a step's
SOON = 8  # a checkpoint made so early in a rise is one to distrust
RISE_SIGMAS = 4.0  # of a step's loss: what the smoothed one must rise by, if that is more than the least
GOOD_SHARE = 0.5  # of such a rise: a checkpoint that has risen by as much is none to go back to
FEW = 5  # steps whose median says where a loss is just now
# Of the first two steps, and of the first alone: how many sigmas of a step's loss a rise from there is far, and what
# is too much to be one, on a logarithmic scale: then the first was of odd rows.
FIRST = ((2, RISE_SIGMAS, math.inf), (1, 12.0, 3.0))
TRUSTED = 3.0  # a second loss of so many times the first is not where a run began
NORM_SIGMAS = 2.0  # and norms likewise, if that is more than GROWN
GROWN = 5.0  # norms by so much above the least of those: weights that go bad, not rows that are harder
JUMP_SHARE = 0.6  # of a rise, within one step: the data have changed, if the gradients have not
SURE = 24  # steps after a jump by which it is known for one
STILL_GROWS = 2.0  # norms since the jump: they are waited for
HOPELESS = 1.5  # times the loss of a guess at random: no rows alone bring the median of some steps there
DRIFT_SHARE = 0.5  # of a jump, before or after it: then it was none
STEADY_SIGMA = 1.0  # spread of log norms before a checkpoint that is gone back to: within a factor of e
# Of the sigmas, on a logarithmic scale: near 0, where rows are known by heart, tails are long.
NEAR_ZERO = 0.75
TINY = 1e-12  # 0 has no logarithm
NORMAL = 1.4826  # of the median absolute deviation of a normal distribution


@dataclass(frozen=True, slots=True)
class Limits:
    """What is too much. None: no such limit. `clip` bounds what an update can do, so less is never an outlier."""

    sigmas: float | None = 6.0
    loss: float | None = None
    grad_norm: float | None = None
    clip: float = 1.0
    bad_steps: int = 5
    rewinds: int = 3
    guess: float | None = None
    """The loss of a uniform guess: the logarithm of the vocabulary."""


@dataclass(frozen=True, slots=True)
class Watch:
    """What was seen so far; saved with every checkpoint. Steps count from 1."""

    losses: tuple[float, ...] = ()  # of the last WINDOW finite steps, taken or not
    norms: tuple[float, ...] = ()
    bad: tuple[int, ...] = ()  # the present row of skipped steps
    strange: int = 0  # how many of them were finite: the last ones of losses and norms
    first: float | None = None  # the loss before anything was learnt, or since the data have changed
    lowest: float | None = None  # smoothed loss
    spread: float = 0.0  # of the losses around the lowest
    calm: float | None = None  # the usual gradient norm then
    rewinds: int = 0
    lr_scale: float = 1.0
    left_out: tuple[tuple[int, int], ...] = ()  # first and last step of each window that is not learnt from

    def leaves_out(self, step: int) -> bool:
        """Whether this step's rows are not learnt from."""
        return any(first <= step <= last for first, last in self.left_out)

    @property
    def smoothed(self) -> float | None:
        """Median of the last losses."""
        return median(self.losses[-SMOOTH:]) if len(self.losses) >= LEAST else None

    @property
    def is_good(self) -> bool:
        """Whether a checkpoint made now is one to go back to (note 001, points 14 and 15).

        Gradient norms under a limit and steady, a loss that has not risen, no bad step just now. (The note's third
        sign, a loss scale above 0, is for fp16, which is not computed with here.)
        """
        logs = _logs(self.norms[-LEAST:])
        steady = len(logs) < SOON or _sigma(logs) <= STEADY_SIGMA
        begun = _begun(self.losses)
        if begun is not None and self.first is not None and begun > TRUSTED * self.first:
            begun = self.first
        soon = median(self.losses[-FEW:]) if self.losses else 0.0
        below = begun is None or soon <= begun + LEAST_RISE_NATS
        return not self.bad and steady and below and not _has_risen(self, self.losses[-SOON:], GOOD_SHARE)


@dataclass(frozen=True, slots=True)
class Judgement:
    """A verdict, why, and what is known from now on. `window`: the steps that are left out after a rewind."""

    verdict: Verdict
    reason: str
    watch: Watch
    window: tuple[int, int] | None = None
    needs_good: bool = False
    """The weights went bad some time ago: what was saved since is as bad, unless it is good."""


def judge(watch: Watch, step: int, loss: float, grad_norm: float, limits: Limits) -> Judgement:
    """What becomes of a step with this loss and gradient norm."""
    finite = math.isfinite(loss) and math.isfinite(grad_norm)
    fault = _fault(watch, loss, grad_norm, limits) if finite else "loss or gradient is not finite"
    seen = _seen(watch, loss, grad_norm) if finite else watch
    if fault is None:
        seen = replace(seen, bad=(), strange=0)
        return _risen(seen, limits) or Judgement("take", "", _with_lowest(seen))
    seen = replace(seen, bad=(*watch.bad, step), strange=watch.strange + finite)
    if len(seen.bad) < limits.bad_steps:
        return Judgement("skip", fault, seen)
    if watch.rewinds < limits.rewinds:
        return Judgement("rewind", fault, seen, (max(1, seen.bad[0] - BEFORE), step))
    if (
        finite
    ):  # it has been tried; a finite step is bounded by clipping, and the data may have changed for good
        return Judgement("take", fault, replace(seen, bad=(), strange=0))
    return Judgement("stop", fault, seen)


def judge_held_out(watch: Watch, before: float, now: float, limits: Limits) -> Judgement | None:
    """What becomes of a run whose held-out loss was `before` any step and is `now`; None: it goes on.

    A held-out loss that rises alone has other causes: rows known by heart, or another subject than theirs.
    """
    if limits.sigmas is None or watch.first is None or not watch.losses:
        return None
    usual = median(watch.losses[-LEAST:])
    if now <= before + LEAST_RISE_NATS or usual <= watch.first + LEAST_RISE_NATS:
        return None
    steps = f"the loss of a step, {watch.first:.3g} and {usual:.3g}"
    reason = f"the held-out loss was {before:.3g} before training and is {now:.3g}; {steps}"
    return _lower(reason, watch, limits, needs_good=True)


def _lower(reason: str, watch: Watch, limits: Limits, *, needs_good: bool = False) -> Judgement:
    verdict: Verdict = "lower" if watch.rewinds < limits.rewinds else "stop"
    return Judgement(verdict, reason, watch, needs_good=needs_good)


def _fault(watch: Watch, loss: float, norm: float, limits: Limits) -> str | None:
    """Why a finite step is not taken, in words."""
    if limits.loss is not None and loss > limits.loss:
        return f"loss {loss:.3g} is above rescue.loss {limits.loss:g}"
    if limits.grad_norm is not None and norm > limits.grad_norm:
        return f"gradient norm {norm:.3g} is above rescue.grad_norm {limits.grad_norm:g}"
    if limits.sigmas is None:
        return None
    usual = len(watch.losses) - watch.strange  # the present row says nothing about what is usual
    losses, norms = watch.losses[:usual], watch.norms[:usual]
    added = _stands_out(losses, loss, limits.sigmas, LEAST_RISE_NATS)
    if added and _stands_out(_logs(losses), _log(loss), NEAR_ZERO * limits.sigmas, 0.0):
        return f"loss {loss:.3g} stands out from the usual {median(losses):.3g}"
    far = _stands_out(_logs(norms), _log(norm), limits.sigmas, math.log(LEAST_FACTOR))
    if norm > limits.clip and far:
        return f"gradient norm {norm:.3g} stands out from the usual {median(norms):.3g}"
    return None


def _log(value: float) -> float:
    return math.log(max(value, TINY))


def _logs(values: Sequence[float]) -> list[float]:
    return [_log(value) for value in values]


def _stands_out(usual: Sequence[float], value: float, sigmas: float, least: float) -> bool:
    """Far above the last few, and not one of several in the window that are."""
    if len(usual) < LEAST:
        return False
    # of the window's latter half: a loss falls in the window as a whole, which would pass for spread
    limit = median(usual[-LEAST:]) + max(sigmas * _sigma(usual[-SMOOTH:]), least)
    return value > limit and sum(other > limit for other in usual) < TOLERATED


def _seen(watch: Watch, loss: float, norm: float) -> Watch:
    first = loss if watch.first is None and not watch.losses else watch.first
    losses, norms = (*watch.losses, loss)[-WINDOW:], (*watch.norms, norm)[-WINDOW:]
    return replace(watch, losses=losses, norms=norms, first=first)


def _with_lowest(watch: Watch) -> Watch:
    now = watch.smoothed
    if now is None or (watch.lowest is not None and now >= watch.lowest):
        return watch
    return replace(watch, lowest=now, spread=_sigma(watch.losses), calm=median(watch.norms[-SMOOTH:]))


def _has_risen(watch: Watch, losses: Sequence[float], share: float = 1.0) -> bool:
    """Slow divergence: what is usual in these losses is far above what was usual once, or by a share of that."""
    if len(watch.losses) < LEAST or watch.lowest is None:
        return False
    spread = max(watch.spread, watch.lowest * _noise_between(_logs(watch.losses)))  # once, and now
    return median(losses) > watch.lowest + share * max(RISE_SIGMAS * spread, LEAST_RISE_NATS)


def _risen(watch: Watch, limits: Limits) -> Judgement | None:
    if limits.sigmas is None:
        return None
    begun, note = _worse_than_at_first(watch), ""
    if begun is None and _is_hopeless(watch, limits.guess):
        begun, note = watch.first, f"; a guess at random has {limits.guess:.3g}"
    if begun is not None:
        reason = f"the loss began at {begun:.3g} and is at {median(watch.losses[-LEAST:]):.3g}{note}"
        return _lower(reason, watch, limits, needs_good=True)
    if not _has_risen(watch, watch.losses[-SMOOTH:]):
        return None
    if since := _since_a_jump(watch):
        norms = watch.norms[-since:]
        if since < SURE or median(norms[-SOON:]) > STILL_GROWS * max(median(norms[:SOON]), TINY):
            return None
        spread, calm = _sigma(watch.losses[-SMOOTH:]), median(watch.norms[-SMOOTH:])
        now = watch.smoothed
        return Judgement("take", "", replace(watch, first=now, lowest=now, spread=spread, calm=calm))
    return _lower(f"the loss has risen from {watch.lowest:.3g} to {watch.smoothed:.3g}", watch, limits)


def _is_hopeless(watch: Watch, guess: float | None) -> bool:
    """Whether the model knows less than nothing, and knew more when the run began."""
    if guess is None or watch.first is None or len(watch.losses) < LEAST:
        return False
    return median(watch.losses[-LEAST:]) > max(HOPELESS * guess, watch.first + LEAST_RISE_NATS)


def _begun(values: Sequence[float], steps: int = 2) -> float | None:
    """What a run began with, while that is remembered: the largest of its first steps, for one may be odd.

    A rate far too high ruins the second or third step already, so no more of them are known to be as they should.
    """
    return max(values[:steps]) if steps <= len(values) < WINDOW else None


def _worse_than_at_first(watch: Watch) -> float | None:
    """The loss a run began with, where usual losses are far above it, and gradients too: other rows do not do both."""
    losses, norms = _logs(watch.losses), _logs(watch.norms)
    if not LEAST <= len(losses) < WINDOW:
        return None
    now, grown = median(losses[-LEAST:]), max(math.log(GROWN), NORM_SIGMAS * _noise(norms))
    for steps, sigmas, most in FIRST:
        begun, calm = _begun(losses, steps), _begun(norms, steps)
        assert begun is not None
        assert calm is not None
        risen = math.exp(now) > math.exp(begun) + LEAST_RISE_NATS
        far = sigmas * _noise(losses) < now - begun < most
        if risen and far and median(norms[-LEAST:]) > calm + grown:
            return math.exp(begun)
    return None


def _noise(logs: Sequence[float]) -> float:
    """Spread of single steps: lately, or from one to the next; few values show too little by chance."""
    return max(_sigma(logs[-LEAST:]), _noise_between(logs))


def _noise_between(logs: Sequence[float]) -> float:
    """The same from step to step, where a level that moves is not seen."""
    return NORMAL * median(abs(after - before) for before, after in pairwise(logs)) / math.sqrt(2)


def _since_a_jump(watch: Watch) -> int:
    """How many steps ago the loss rose from one step to the next, and not the gradients: other rows, not other weights.

    0 where it did not.
    """
    losses, norms = watch.losses, watch.norms
    assert watch.lowest is not None
    cuts = range(SOON, len(losses) - SOON + 1)
    at = min(cuts, key=lambda cut: _scatter(losses[:cut]) + _scatter(losses[cut:]))
    jump = median(losses[at:]) - median(losses[:at])
    drift = max(median(part[-SOON:]) - median(part[:SOON]) for part in (losses[:at], losses[at:]))
    # against those of the lowest loss: what has grown for longer than the window looks usual in it
    before = [median(norms[:at]), *([] if watch.calm is None else [watch.calm])]
    same_gradients = max(median(norms[at:]), median(norms[-LEAST:])) < GROWN * max(min(before), TINY)
    rise = median(losses[-SMOOTH:]) - watch.lowest
    found = same_gradients and jump >= JUMP_SHARE * rise and drift <= DRIFT_SHARE * jump
    return len(losses) - at if found else 0


def _scatter(values: Sequence[float]) -> float:
    middle = median(values)
    return sum(abs(value - middle) for value in values)


def _sigma(values: Sequence[float]) -> float:
    """Spread, as a standard deviation that outliers do not move."""
    middle = median(values)
    return NORMAL * median(abs(value - middle) for value in values)


# --- going back ---------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Rewind:
    """A way back that was taken: from a step to a checkpoint, and what is different the second time."""

    begun_at: int
    back_to: int
    reason: str
    left_out: tuple[int, int] | None
    lr_scale: float

    def applied_to(self, watch: Watch) -> Watch:
        """What a checkpoint's watch becomes when its run goes on."""
        windows = watch.left_out + ((self.left_out,) if self.left_out else ())
        more = watch.rewinds + 1
        return replace(watch, rewinds=more, lr_scale=self.lr_scale, left_out=windows, bad=(), strange=0)


def back(judgement: Judgement, step: int, candidates: Iterable[tuple[int, bool]]) -> Rewind | None:
    """The way back that a judgement asks for, to one of the checkpoints (step, good).

    To the newest good one before the window; else before the first bad step, and the window begins there; else to
    the newest of any kind, unless only a good one will do; None where there is none.
    """
    first_bad = judgement.watch.bad[0] if judgement.window else step
    begins = judgement.window[0] if judgement.window else step
    there = sorted(candidates)
    wanted = (
        [at for at, good in there if good and at < begins],
        [at for at, good in there if good and at < first_bad],
        [at for at, _ in there if at < first_bad and not judgement.needs_good],
    )
    chosen = next((found[-1] for found in wanted if found), None)
    if chosen is None:
        return None
    window = (max(begins, chosen + 1), judgement.window[1]) if judgement.window else None
    scale = judgement.watch.lr_scale * (0.5 if judgement.verdict == "lower" else 1.0)
    return Rewind(step, chosen, judgement.reason, window, scale)


def watch_from_json(value: Mapping[str, Any]) -> Watch:
    """What `dataclasses.asdict` and JSON made of a watch, bit for bit; what an older one lacks is as at the start."""
    rows = {key: tuple(value[key]) for key in ("losses", "norms", "bad") if key in value}
    windows = tuple((first, last) for first, last in value.get("left_out", ()))
    return Watch(**{**value, **rows, "left_out": windows})


def rewind_from_json(value: Mapping[str, Any]) -> Rewind:
    """The same for a rewind."""
    window = value["left_out"]
    return Rewind(**{**value, "left_out": (window[0], window[1]) if window else None})
