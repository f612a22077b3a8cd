"""The loop: step k of the plan, then evaluate and save where due, until the budget, an early stop or a signal.

resume? -> dry run -> ( [evaluate] -> [save] -> step: gradient -> judge -> update | skip | go back )* -> final save
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.data.loader import RunSteps, StepPlan
from tunesmith.data.samples import Sample, SampleSet
from tunesmith.engine.dry_run import rehearse
from tunesmith.engine.faults import visit
from tunesmith.engine.keeping import Keeper
from tunesmith.engine.naming import name_rows
from tunesmith.engine.optim import make_optimizer, rate, set_rate
from tunesmith.engine.progress import FitResult, Progress, Settings, limits_of
from tunesmith.engine.rescue import Judgement, Limits, judge, judge_held_out
from tunesmith.engine.stall import Pulse, watched
from tunesmith.engine.step import HalfMoved, Stepper, StepResult, SummedLoss
from tunesmith.engine.store import CheckpointStore
from tunesmith.engine.world import LetGo, StopRequest, peak_bytes, stop_on_signals
from tunesmith.errors import DivergedError, DoesNotFitError, Problem, TunesmithError, UserError
from tunesmith.events import Evaluated, Reporter, Rescued, Started, Stepped
from tunesmith.recipe import Recipe
from tunesmith.tuning.method import Method, Moments, TunedModel

# The held-out loss and its targets; asked to breathe between micro-batches.
HeldOut = Callable[[Callable[[], None]], tuple[float, int]]


def fit(
    tuned: TunedModel,
    method: Method,
    summed_loss: SummedLoss,
    sources: Sequence[SampleSet],
    steps: RunSteps,
    recipe: Recipe,
    settings: Settings,
    store: CheckpointStore | None,
    identity: dict[str, Any],
    reporter: Reporter,
    held_out: HeldOut | None,
) -> FitResult:
    """Train to the end of `steps`, from the newest whole checkpoint; the model ends with its final weights.

    Without a store nothing is kept.
    """
    betas = (0.9, 0.95) if recipe.objective == "pretrain" else (0.9, 0.999)
    optimizer = make_optimizer(method.parameter_groups(tuned, recipe.optim), betas, recipe.optim.optimizer)
    hooks = method.hooks(tuned, Moments(optimizer))
    keeper = Keeper(tuned, optimizer, hooks, store, identity, reporter)
    with (
        stop_on_signals(saves=store is not None) as request,
        watched(recipe.rescue.stall_minutes, reporter) as pulse,
    ):

        def breathe() -> None:
            pulse.beat("computing a micro-batch")
            request.breathe()

        stepper = Stepper(
            tuned, optimizer, hooks, summed_loss, packing=recipe.data.packing, autocast=settings.bf16,
            grad_clip=recipe.optim.grad_clip, breathe=breathe,
        )  # fmt: skip
        progress, resumed_from = keeper.restore(Progress(micro_tokens=settings.micro_tokens), settings.anyway)
        hooks.on_start()
        reporter.event(Started(step=progress.step, steps=len(steps), resumed_from=resumed_from))
        tuned.model.train()
        loop = _Loop(
            stepper, keeper, sources, steps, recipe, settings, reporter, held_out, request, pulse,
            progress.step, limits_of(recipe, settings),
        )  # fmt: skip
        with keeper.finishing(), _with_a_way_out(settings):
            result = loop.run(loop.rehearsed(progress))
    hooks.on_end()
    tuned.model.eval()
    if result.status != "interrupted" and recipe.evaluation.early_stop:
        keeper.restore_best(result.progress.best_step)
    return result


@contextmanager
def _failing_at(step: int) -> Iterator[None]:
    """An error that ends the run says at which step it did."""
    try:
        yield
    except TunesmithError as error:
        error.step = step
        raise


@contextmanager
def _with_a_way_out(settings: Settings) -> Iterator[None]:
    """An error of memory says what was foreseen, and the next recipe to try."""
    try:
        yield
    except DoesNotFitError as error:
        foreseen = f"; {settings.foreseen}" if settings.foreseen else ""
        told = [Problem(p.where, p.what + foreseen, settings.next_recipe or p.fix) for p in error.problems]
        again = DoesNotFitError(told)
        again.step = error.step
        raise again from error


@dataclass(slots=True)
class _Loop:
    stepper: Stepper
    keeper: Keeper
    sources: Sequence[SampleSet]
    steps: RunSteps
    recipe: Recipe
    settings: Settings
    reporter: Reporter
    held_out: HeldOut | None
    request: StopRequest
    pulse: Pulse
    begun_at: int
    limits: Limits
    half_moved: bool = False  # once is an accident, twice is too little memory
    coming: tuple[int, Sequence[Sample]] | None = None  # a step to come, and its rows

    def rehearsed(self, progress: Progress) -> Progress:
        """With micro-batches that the worst step of this run fits into."""
        if not self.settings.dry_run or progress.step == len(self.steps):
            return progress
        asked = progress.micro_tokens
        with _failing_at(0):
            tokens = rehearse(
                self.stepper,
                self.sources,
                self.steps,
                asked,
                self.settings.state_bytes,
                self.settings.held_out,
            )
        if tokens != asked:
            action = f"micro-batches of {tokens} tokens instead of {asked}, in every step; nothing is lost but speed"
            action += f"; to have it back: {self.settings.next_recipe}" if self.settings.next_recipe else ""
            reason = "out of memory in a trial of the largest batch, before the first step"
            reason += f"; {self.settings.foreseen}" if self.settings.foreseen else ""
            self.reporter.event(Rescued(step=progress.step, reason=reason, action=action))
        return replace(progress, micro_tokens=tokens)

    def run(self, progress: Progress) -> FitResult:
        """Steps until the end; saves where due, and whenever the loop is left in good order."""
        total = len(self.steps)
        while True:
            with _failing_at(min(progress.step + 1, total)):
                try:
                    over = self._is_over(progress)
                    evaluated = self._evaluated(progress, over)
                    if evaluated.step < progress.step:  # gone back: its end is still to come
                        progress = evaluated
                        continue
                    progress = evaluated
                    ended = over or progress.early_stopped
                    stop = self._asked_to_stop(progress)
                    self._save(progress, ended or stop is not None)
                    if ended:
                        self._require_a_step(progress)
                        return FitResult("stopped" if progress.early_stopped else "done", progress)
                    if stop is not None:
                        return FitResult("interrupted", progress, stop)
                    progress = self._step(progress)
                except LetGo:  # nothing of the step or evaluation counts
                    self.stepper.tuned.model.train()
                    if progress.step:
                        self.keeper.save(progress, must=True)
                    return FitResult("interrupted", progress, self.request.reason)

    def _is_over(self, progress: Progress) -> bool:
        """Whether no step follows. The rows of a stream are waited for, unless somebody asks to stop meanwhile."""
        if self._asked_to_stop(progress) is not None and progress.step < len(self.steps):
            return False
        self.pulse.beat(f"waiting for {self.steps.waits_for}", progress.step)
        over = self.steps.is_over(progress.step, self._may_wait)
        if over and (words := self.steps.words_of_end(progress.step)) is not None:
            action = "the run ends here, with what it has learnt; its rate was that of the longer run"
            self.reporter.event(Rescued(step=progress.step, reason=words, action=action))
        return over

    def _may_wait(self) -> bool:
        self.request.breathe()
        return self.request.reason is None

    def _asked_to_stop(self, progress: Progress) -> str | None:
        if progress.step == self.settings.stop_after and progress.step > self.begun_at:
            return self.request.reason or "--stop-after"
        return self.request.reason

    def _save(self, progress: Progress, leaving: bool) -> None:
        new_best = self.recipe.evaluation.early_stop is not None and progress.best_step == progress.step
        due = progress.step % self.settings.save_every == 0 and not progress.watch.leaves_out(progress.step)
        if progress.step and (leaving or new_best or due):
            self.pulse.beat("saving")
            self.keeper.save(progress, must=leaving or new_best)
            self.steps.release(progress.step, self.keeper.oldest(progress.step))
        else:
            self.keeper.settle(progress.step)

    # --- a step ---

    def _step(self, progress: Progress) -> Progress:
        number = progress.step + 1
        if progress.watch.leaves_out(number):
            return replace(progress, step=number)
        self.pulse.beat("taking a step", number)
        began = time.perf_counter()
        samples = self._samples(progress.step)
        lr = self.stepper.hooks.rate(number, len(self.steps), self._scheduled) * progress.watch.lr_scale
        set_rate(self.stepper.optimizer, lr)
        weight = self.steps.sums(progress.step)[2]
        try:
            result = self.stepper.take(
                number, samples, weight, progress.micro_tokens,
                lambda loss, norm: judge(progress.watch, number, loss, norm, self.limits),
                lambda: self._lay(number, progress.micro_tokens),
            )  # fmt: skip
        except HalfMoved as error:
            cause = error
        else:
            visit("stepped")
            return self._after(progress, samples, result, lr, time.perf_counter() - began)
        return self._again_after(cause, progress)

    def _samples(self, step: int) -> Sequence[Sample]:
        if self.coming is not None and self.coming[0] == step:
            return self.coming[1]
        return self.steps.samples(self.sources, step)

    def _lay(self, step: int, micro_tokens: int) -> None:
        """Lay out a step to come; what is wrong with its rows is said when it is taken. A stream may have to wait."""
        known = isinstance(self.steps, StepPlan) and step < len(self.steps)
        if not known or not self.stepper.lays_ahead:
            return
        with contextlib.suppress(Exception):
            self.coming = step, self.steps.samples(self.sources, step)
            self.stepper.lay(self.coming[1], micro_tokens)

    def _after(
        self, progress: Progress, samples: Sequence[Sample], result: StepResult, lr: float, seconds: float
    ) -> Progress:
        """Tell of a step, and draw its consequences."""
        step, judgement = progress.step, result.judgement
        tokens, targets, _ = self.steps.sums(step)
        stepped = Stepped(
            step=step + 1, loss_nats=result.loss_nats, grad_norm=result.grad_norm, lr=lr, targets=targets,
            tokens=tokens, seconds=seconds, peak_bytes=peak_bytes(), finite=result.finite,
        )  # fmt: skip
        self.reporter.event(stepped)
        if result.micro_tokens != progress.micro_tokens:
            fewer = f"micro-batches of {result.micro_tokens} tokens instead of {progress.micro_tokens}"
            self.reporter.event(Rescued(step=step + 1, reason="out of memory", action=f"{fewer}; same step"))
        done = replace(
            progress, step=step + 1, seconds=progress.seconds + seconds, micro_tokens=result.micro_tokens,
            watch=judgement.watch,
            early_stopped=self.settings.enough is not None and self.settings.enough(stepped),
        )  # fmt: skip
        match judgement.verdict:
            case "take":
                return replace(done, tokens=done.tokens + tokens, targets=done.targets + targets)
            case "skip":
                self._tell(done.step, judgement.reason, "step skipped, nothing changed", samples)
                return done
            case "rewind" | "lower":
                return self._go_back(done, judgement, samples)
            case "stop":
                raise self._diverged(done, judgement)

    def _go_back(self, done: Progress, judgement: Judgement, samples: Sequence[Sample]) -> Progress:
        found = self.keeper.go_back(judgement, done.step, done.seconds)
        if found is None:
            if judgement.window:
                rows = self._of_steps(*judgement.window)
                self._tell(done.step, judgement.reason, "no checkpoint to go back to", rows)
            raise self._diverged(done, judgement)
        progress, rewind = found
        action = f"back to step {rewind.back_to}"
        if rewind.left_out:
            first, last = rewind.left_out
            samples = self._of_steps(first, last)
            action += f"; the rows of steps {first} to {last} are left out"
        if judgement.verdict == "lower":
            action += f"; from here on {rewind.lr_scale:g} times the learning rate"
        self._tell(done.step, judgement.reason, action, samples)
        self.stepper.tuned.model.train()
        return progress

    def _of_steps(self, first: int, last: int) -> list[Sample]:
        return [sample for at in range(first - 1, last) for sample in self.steps.samples(self.sources, at)]

    def _tell(self, step: int, reason: str, action: str, samples: Sequence[Sample]) -> None:
        named = name_rows(self.stepper, samples, self.settings.text_of)
        self.reporter.event(
            Rescued(step=step, reason=reason, action=action, rows=named.rows, texts=named.texts)
        )

    def _require_a_step(self, progress: Progress) -> None:
        """A run all of whose steps were skipped has not trained. Raises DivergedError."""
        if progress.step > self.begun_at and progress.watch.first is None:
            skipped = Judgement("stop", "loss or gradient is not finite", progress.watch)
            raise self._diverged(progress, skipped)

    def _diverged(self, progress: Progress, judgement: Judgement) -> UserError:
        watch = judgement.watch
        row = f", {len(watch.bad)} steps in a row" if len(watch.bad) > 1 else ""
        tried = f"; went back {watch.rewinds} times before" if watch.rewinds else ""
        what = f"{judgement.reason}{row}{tried}"
        if watch.first is None and not progress.tokens:  # no step was ever a number
            fix = "the model itself gives none: take weights that are whole; or compute.precision=fp32, if it was bf16"
        elif judgement.needs_good or not self.keeper.has_checkpoints:
            rate = f"a lower optim.lr than {self.settings.lr:.3g}"
            fix = f"begin anew with {rate}: a tenth of it, or what `tunesmith lr-find` measures"
            if judgement.window:
                fix = f"look at the rows named above, and leave out what is broken; else {fix}"
        else:
            fix = "lower optim.lr, or look at the rows named in events.jsonl; --resume goes back to the last checkpoint"
        return DivergedError.at(f"step {progress.step}", what, fix)

    def _again_after(self, cause: HalfMoved, progress: Progress) -> Progress:
        """Memory ran out within the optimiser: what it left is thrown away, and the newest checkpoint taken up."""
        again = self.keeper.newest(progress.step + 1) if not self.half_moved else None
        if again is None:
            what = "out of memory in the optimiser's own step: its moments do not fit beside the weights"
            fix = "set optim.optimizer: adamw_8bit, or tune fewer parameters"
            raise DoesNotFitError.at("optim.optimizer", what, fix) from cause
        self.half_moved = True
        self.stepper.optimizer.zero_grad(set_to_none=True)
        action = f"back to the checkpoint of step {again.step}, which is whole"
        reason = "out of memory in the optimiser's step"
        self.reporter.event(Rescued(step=progress.step + 1, reason=reason, action=action))
        return again

    def _scheduled(self, step: int, steps: int) -> float:
        if self.settings.schedule is not None:
            return self.settings.schedule(step, steps)
        return rate(step, steps, self.settings.lr, self.recipe.optim)

    # --- an evaluation ---

    def _evaluated(self, progress: Progress, over: bool) -> Progress:
        """With the held-out loss, where it is due at this step."""
        step = progress.step
        due = over or step % self.settings.evaluate_every == 0
        if self.held_out is None or step == 0 or not due or progress.evaluated_step == step:
            return progress
        visit("evaluate")
        self.pulse.beat("evaluating")
        began = time.perf_counter()
        self.stepper.tuned.model.eval()
        loss, targets = self.held_out(self._breathe_evaluating)
        self.stepper.tuned.model.train()
        best = progress.best_loss_nats is None or loss < progress.best_loss_nats
        seconds, before = time.perf_counter() - began, self.settings.base_loss_nats
        evaluated = Evaluated(
            step=step, loss_nats=loss, before_nats=before, targets=targets, seconds=seconds, best=best
        )
        self.reporter.event(evaluated)
        done = replace(progress, evaluated_step=step)
        judgement = None if before is None else judge_held_out(progress.watch, before, loss, self.limits)
        if judgement is not None:
            if judgement.verdict == "stop":
                raise self._diverged(progress, judgement)
            return self._go_back(done, judgement, [])
        if best:
            return replace(done, best_loss_nats=loss, best_step=step, without_best=0)
        waited, patience = progress.without_best + 1, self.recipe.evaluation.early_stop
        return replace(done, without_best=waited, early_stopped=patience is not None and waited >= patience)

    def _breathe_evaluating(self) -> None:
        self.pulse.beat("evaluating")
        visit("held_out")
        self.request.breathe()
