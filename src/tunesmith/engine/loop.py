"""The loop: step k of the plan, then evaluate and save where due, until the budget, an early stop or a signal.

resume? -> ( step -> gate -> report -> [evaluate] -> [save] )* -> final save
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.data.loader import StepPlan
from tunesmith.data.samples import SampleSet
from tunesmith.engine import checkpoint
from tunesmith.engine.checkpoint import CheckpointStore, Snapshot
from tunesmith.engine.faults import visit
from tunesmith.engine.optim import make_optimizer, rate, set_rate
from tunesmith.engine.step import Stepper, StepResult, SummedLoss
from tunesmith.engine.world import StopRequest, peak_bytes, stop_on_signals
from tunesmith.errors import CheckpointError, DiskFullError, DivergedError, TunesmithError
from tunesmith.events import Evaluated, Reporter, Rescued, Saved, Started, Stepped
from tunesmith.recipe import Recipe, steps_of
from tunesmith.tuning.method import Hooks, Method, Moments, Schedule, TunedModel

HeldOut = Callable[[], tuple[float, int]]


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


@dataclass(frozen=True, slots=True)
class Progress:
    """Where the loop stands; saved with every checkpoint. Totals are of all finite steps so far."""

    step: int = 0
    tokens: int = 0
    targets: int = 0
    seconds: float = 0.0
    bad_in_a_row: int = 0
    micro_tokens: int = 0
    best_loss_nats: float | None = None
    best_step: int | None = None
    without_best: int = 0
    early_stopped: bool = False


@dataclass(frozen=True, slots=True)
class FitResult:
    """How the loop ended: done, stopped (early) or interrupted (resumable)."""

    status: str
    progress: Progress
    interrupted_by: str | None = None


def settings_of(
    recipe: Recipe, steps: int, *, lr: float, bf16: bool, micro_tokens: int, stop_after: int | None
) -> Settings:
    """Shares of the run, as steps."""
    return Settings(
        lr,
        bf16,
        micro_tokens,
        steps_of(recipe.evaluation.every, steps),
        steps_of(recipe.checkpoint.every, steps),
        stop_after,
    )


def fit(
    tuned: TunedModel,
    method: Method,
    summed_loss: SummedLoss,
    sources: Sequence[SampleSet],
    steps: StepPlan,
    recipe: Recipe,
    settings: Settings,
    store: CheckpointStore,
    identity: dict[str, Any],
    reporter: Reporter,
    held_out: HeldOut | None,
) -> FitResult:
    """Train to the end of `steps`, from the newest whole checkpoint; the model ends with its final weights."""
    betas = (0.9, 0.95) if recipe.objective == "pretrain" else (0.9, 0.999)
    optimizer = make_optimizer(method.parameter_groups(tuned, recipe.optim), betas, recipe.optim.optimizer)
    hooks = method.hooks(tuned, Moments(optimizer))
    stepper = Stepper(
        tuned, optimizer, hooks, summed_loss,
        packing=recipe.data.packing, autocast=settings.bf16, grad_clip=recipe.optim.grad_clip,
    )  # fmt: skip
    loop = _Loop(
        tuned, optimizer, hooks, stepper, sources, steps, recipe, settings, store, identity, reporter, held_out
    )  # fmt: skip
    progress, resumed_from = loop.restore()
    hooks.on_start()
    reporter.event(Started(step=progress.step, steps=len(steps), resumed_from=resumed_from))
    tuned.model.train()
    with stop_on_signals() as request:
        result = loop.run(progress, request)
    hooks.on_end()
    tuned.model.eval()
    if (
        result.status != "interrupted"
        and recipe.evaluation.early_stop
        and result.progress.best_step is not None
    ):
        best = store.folder / f"step-{result.progress.best_step:08d}"
        loop.restore_weights(checkpoint.read(best), best)
    return result


@contextmanager
def _failing_at(step: int) -> Iterator[None]:
    """An error that ends the run says at which step it did."""
    try:
        yield
    except TunesmithError as error:
        error.step = step
        raise


@dataclass(frozen=True, slots=True)
class _Loop:
    tuned: TunedModel
    optimizer: torch.optim.Optimizer
    hooks: Hooks
    stepper: Stepper
    sources: Sequence[SampleSet]
    steps: StepPlan
    recipe: Recipe
    settings: Settings
    store: CheckpointStore
    identity: dict[str, Any]
    reporter: Reporter
    held_out: HeldOut | None

    def restore(self) -> tuple[Progress, str | None]:
        """Continue from the newest checkpoint that verifies; newer broken ones are named and left alone."""
        path, passed_over = self.store.newest()
        for fault in passed_over:
            action = f"resume from {path.name}" if path else "start from the beginning"
            self.reporter.event(Rescued(step=0, reason=f"checkpoint passed over: {fault}", action=action))
        if path is None:
            return Progress(micro_tokens=self.settings.micro_tokens), None
        snapshot = checkpoint.read(path)
        changed = [
            key for key, value in self.identity.items() if snapshot.state["identity"].get(key) != value
        ]
        if changed:
            raise CheckpointError.at(
                str(path),
                f"was made with another {', '.join(changed)}",
                "resume with what it was made with, or start anew: output=NEW",
            )
        self.restore_weights(snapshot, path)
        checkpoint.restore_optimizer(self.optimizer, self.tuned.trainable, snapshot.optimizer)
        torch.set_rng_state(snapshot.random_state)
        return Progress(**snapshot.state["progress"]), path.name

    def restore_weights(self, snapshot: Snapshot, path: Path) -> None:
        """The method's state first: it may change which tensors there are."""
        self.hooks.load_state_dict({**snapshot.state["method"], **snapshot.method})
        checkpoint.restore_weights(self.tuned.trainable, snapshot.weights, path)

    def run(self, progress: Progress, request: StopRequest) -> FitResult:
        """Steps until the end; saves where due, and whenever the loop is left in good order."""
        total = len(self.steps)
        while progress.step < total and not progress.early_stopped:
            with _failing_at(progress.step + 1):
                progress = self._step(progress)
                last = progress.step == total
                if self.held_out and (last or progress.step % self.settings.evaluate_every == 0):
                    progress = self._evaluate(progress)
                stop = request.reason or (
                    "--stop-after" if progress.step == self.settings.stop_after else None
                )
                new_best = (
                    self.recipe.evaluation.early_stop is not None and progress.best_step == progress.step
                )
                if (
                    last
                    or stop
                    or new_best
                    or progress.early_stopped
                    or progress.step % self.settings.save_every == 0
                ):
                    self._save(progress, must=bool(last or stop or new_best or progress.early_stopped))
                if stop and not last:
                    return FitResult("interrupted", progress, stop)
        return FitResult("stopped" if progress.early_stopped else "done", progress)

    def _step(self, progress: Progress) -> Progress:
        began = time.perf_counter()
        number = progress.step + 1
        samples = self.steps.samples(self.sources, progress.step)
        targets, tokens = (
            int(self.steps.step_targets[progress.step]),
            int(self.steps.step_tokens[progress.step]),
        )
        lr = self.hooks.rate(number, len(self.steps), self._scheduled)
        set_rate(self.optimizer, lr)
        weight = float(self.steps.step_weights[progress.step])
        result = self.stepper.take(number, samples, weight, progress.micro_tokens)
        visit("stepped")
        seconds = time.perf_counter() - began
        stepped = Stepped(
            step=number, loss_nats=result.loss_nats, grad_norm=result.grad_norm, lr=lr, targets=targets,
            tokens=tokens, seconds=seconds, peak_bytes=peak_bytes(), finite=result.finite,
        )  # fmt: skip
        self.reporter.event(stepped)
        self._say_what_was_rescued(number, progress, result, [sample.address for sample in samples])
        done = replace(
            progress, step=number, seconds=progress.seconds + seconds, micro_tokens=result.micro_tokens,
            early_stopped=self.settings.enough is not None and self.settings.enough(stepped),
        )  # fmt: skip
        if result.finite:
            return replace(done, tokens=done.tokens + tokens, targets=done.targets + targets, bad_in_a_row=0)
        if progress.bad_in_a_row + 1 >= self.recipe.rescue.max_bad_steps:
            raise DivergedError.at(
                f"step {number}",
                f"{progress.bad_in_a_row + 1} steps in a row without a finite loss and gradient",
                "lower optim.lr, or look at the rows named in events.jsonl; resume goes back to the last checkpoint",
            )
        return replace(done, bad_in_a_row=progress.bad_in_a_row + 1)

    def _scheduled(self, step: int, steps: int) -> float:
        if self.settings.schedule is not None:
            return self.settings.schedule(step, steps)
        return rate(step, steps, self.settings.lr, self.recipe.optim)

    def _say_what_was_rescued(
        self, step: int, progress: Progress, result: StepResult, rows: list[str]
    ) -> None:
        if result.micro_tokens != progress.micro_tokens:
            action = (
                f"micro-batches of {result.micro_tokens} tokens instead of {progress.micro_tokens}; same step"
            )
            self.reporter.event(Rescued(step=step, reason="out of memory", action=action))
        if not result.finite:
            reason = "loss or gradient is not finite"
            self.reporter.event(
                Rescued(step=step, reason=reason, action="step skipped, nothing changed", rows=tuple(rows))
            )

    def _evaluate(self, progress: Progress) -> Progress:
        assert self.held_out is not None
        visit("evaluate")
        began = time.perf_counter()
        self.tuned.model.eval()
        loss, targets = self.held_out()
        self.tuned.model.train()
        best = progress.best_loss_nats is None or loss < progress.best_loss_nats
        seconds = time.perf_counter() - began
        self.reporter.event(
            Evaluated(step=progress.step, loss_nats=loss, targets=targets, seconds=seconds, best=best)
        )
        if best:
            return replace(progress, best_loss_nats=loss, best_step=progress.step, without_best=0)
        waited = progress.without_best + 1
        patience = self.recipe.evaluation.early_stop
        return replace(
            progress, without_best=waited, early_stopped=patience is not None and waited >= patience
        )

    def _save(self, progress: Progress, must: bool) -> None:
        """Commit a checkpoint. On a full disk a periodic one is given up and the run goes on; a last one is not."""
        began = time.perf_counter()
        method = self.hooks.state_dict()
        values = {key: value for key, value in method.items() if not torch.is_tensor(value)}
        snapshot = Snapshot(
            progress.step,
            self.tuned.trainable,
            checkpoint.optimizer_tensors(self.optimizer, self.tuned.trainable),
            {key: value for key, value in method.items() if torch.is_tensor(value)},
            torch.get_rng_state(),
            {"progress": asdict(progress), "identity": self.identity, "method": values},
        )
        best = progress.best_step if self.recipe.evaluation.early_stop else None
        try:
            path, size = self.store.save(snapshot, best)
        except Exception as error:
            if not checkpoint.is_disk_full(error):
                raise
            if must:
                where = str(self.store.folder)
                raise DiskFullError.at(
                    where, "no space for the checkpoint", "free space, then --resume"
                ) from error
            self.reporter.event(
                Rescued(
                    step=progress.step, reason="disk full", action="checkpoint given up, the older one stays"
                )
            )
            return
        relative = Path(*path.parts[-2:])
        self.reporter.event(
            Saved(step=progress.step, path=str(relative), bytes=size, seconds=time.perf_counter() - began)
        )
