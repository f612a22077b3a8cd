"""A short run of a recipe here: tokens a second, share of the machine's peak, memory, and where a step's time goes.

prepare -> tune -> the fullest step to warm up -> steps timed whole -> steps timed by part -> the fullest's memory
Nothing is evaluated, nothing is saved; the engine's own step does the work.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from tunesmith.bench.cell import held, peak_of
from tunesmith.data.loader import batches
from tunesmith.data.steps import StepPlan
from tunesmith.engine.optim import make_optimizer, set_rate
from tunesmith.engine.step import Stepper
from tunesmith.engine.world import peak_bytes
from tunesmith.kernels.product import mm
from tunesmith.model.forward import learnt
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.plan.cards import card_of
from tunesmith.plan.duration import Stretch, model_flops
from tunesmith.plan.measured import Row, record
from tunesmith.plan.memory import forecast_memory
from tunesmith.plan.worst import telling, worst_among
from tunesmith.tuning.method import Moments
from tunesmith.work import Work, base_of, tune

if TYPE_CHECKING:
    from tunesmith.data.loader import Batch
    from tunesmith.data.samples import Sample
    from tunesmith.events import Reporter

FORMULA = (
    "flops = tokens x sum over layers of (2 N + 2 a s, and 2 N + 4 a s more where a gradient goes through it, "
    "and 2 for each weight that trains) + learnt tokens x V d (4, or 6 where the head trains); N: weights of a layer's "
    "matrices, a: width of attention, s: mean length of the document a token stands in. Nothing computed twice counts"
)
PARTS = ("data", "trunk", "head and loss", "backward", "update", "rest")


@dataclass
class Marks:
    """When what happened in a step, by the clock; on a card after it has caught up."""

    device: str
    parts: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    last: float = 0.0

    def now(self) -> float:
        """Seconds."""
        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()

    def begin(self) -> None:
        """What comes next is counted from here."""
        self.last = self.now()

    def end(self, part: str) -> None:
        """What came since the last mark was this part."""
        here = self.now()
        self.parts[part] += here - self.last
        self.last = here


@dataclass(frozen=True, slots=True)
class Bench:
    """A recipe made ready to step."""

    work: Work
    stepper: Stepper
    device: str

    def rows(self, step: int) -> tuple[list[Sample], float]:
        """The rows of a step, and their weight."""
        steps = self.work.steps
        return steps.samples(self.work.data.train, step), steps.sums(step)[2]

    def take(
        self, number: int, samples: Sequence[Sample], weight: float, stepper: Stepper | None = None
    ) -> None:
        """One step of the engine."""
        (stepper or self.stepper).take(number, samples, weight, self.work.plan.micro_tokens)


def bench_speed(work: Work, steps: int, reporter: Reporter) -> dict[str, Any]:
    """The document of `bench`. `steps` are timed whole, half as many (at least one) by part."""
    ready = _ready(work)
    count = min(len(work.steps), 1 + steps)
    timed = range(min(1, count - 1), count)
    fullest = _fullest(work, timed)
    ready.take(1, *ready.rows(fullest))
    seconds = []
    for number, step in enumerate(timed):
        reporter.progress("steps", number, len(timed))
        seconds.append(_timed(ready, step))
    reporter.progress("steps", len(timed), len(timed))
    whole = peak_bytes()  # before what only a bench does
    marks = Marks(ready.device)
    by_part = timed[: max(1, len(timed) // 2)]
    for step in by_part:
        _take_apart(ready, marks, step)
    tokens, targets = (sum(int(work.steps.sums(step)[which]) for step in timed) for which in (0, 1))
    total = sum(seconds)
    return {
        "device": {"kind": work.device.kind, "name": work.device.name, "threads": torch.get_num_threads()},
        "precision": work.plan.precision,
        "method": work.recipe.tuning.method,
        "parameters": {"total": work.plan.parameters, "trainable": work.plan.trainable},
        "micro_tokens": work.plan.micro_tokens,
        "checkpointing": work.plan.checkpointing,
        "steps": len(timed),
        "seconds_per_step": total / len(timed),
        "tokens_per_second": tokens / total,
        "targets_per_second": targets / total,
        **_mfu(work, tokens, targets, total),
        "breakdown": _shares(marks.parts, len(by_part)),
        "time": _time_forecast(work, tokens, total),
        "memory": _memory(ready, fullest, whole),
    }


def _ready(work: Work) -> Bench:
    """Base, method, optimiser, as a run has them."""
    recipe = work.recipe
    tuned, method = tune(work, base_of(work))
    betas = (0.9, 0.95) if recipe.objective == "pretrain" else (0.9, 0.999)
    optimizer = make_optimizer(method.parameter_groups(tuned, recipe.optim), betas, recipe.optim.optimizer)
    hooks = method.hooks(tuned, Moments(optimizer))
    hooks.on_start()
    set_rate(optimizer, work.plan.lr)
    tuned.model.train()
    stepper = Stepper(
        tuned, optimizer, hooks, partial(summed_loss, z_loss=recipe.optim.z_loss),
        packing=recipe.data.packing, autocast=work.plan.precision == "bf16", grad_clip=recipe.optim.grad_clip,
    )  # fmt: skip
    return Bench(work, stepper, work.device.kind)


def _timed(ready: Bench, step: int) -> float:
    """Seconds of a step, its rows read in it."""
    marks = Marks(ready.device)
    begin = marks.now()
    ready.take(step + 1, *ready.rows(step))
    return marks.now() - begin


def _take_apart(ready: Bench, marks: Marks, step: int) -> None:
    """A step with marks between its parts, added up.

    Rows are laid into batches between two backward passes; that is timed by itself, and taken off.
    """
    begin = marks.now()
    samples, weight = ready.rows(step)
    reading = marks.now() - begin
    begin = marks.now()
    cut = len(list(batches(samples, ready.work.plan.micro_tokens, ready.work.recipe.data.packing)))
    laying = marks.now() - begin
    before = dict(marks.parts)
    first = True

    def marked_loss(model: Any, batch: Batch) -> torch.Tensor:
        nonlocal first
        marks.end("data" if first else "backward")
        first = False
        found = learnt(model, batch)
        marks.end("trunk")
        loss = found.summed_loss(ready.work.recipe.optim.z_loss)
        marks.end("head and loss")
        return loss

    def extra_loss() -> torch.Tensor | None:
        marks.end("backward")
        return ready.stepper.hooks.extra_loss()

    hooks = replace(ready.stepper.hooks, extra_loss=extra_loss)
    begin = marks.now()
    marks.begin()
    ready.take(step + 1, samples, weight, replace(ready.stepper, hooks=hooks, summed_loss=marked_loss))
    marks.end("update")
    whole = marks.now() - begin
    between = min(laying * (cut - 1) / cut, marks.parts["backward"] - before["backward"])
    marks.parts["backward"] -= between
    marks.parts["data"] += between + reading
    known = sum(marks.parts.values()) - sum(before.values()) - reading
    marks.parts["rest"] += max(0.0, whole - known)


def _shares(parts: dict[str, float], steps: int) -> dict[str, dict[str, float]]:
    """Seconds a step, and share of all."""
    total = sum(parts.values())
    return {name: {"seconds": value / steps, "share": value / total} for name, value in parts.items()}


def _mfu(work: Work, tokens: int, targets: int, seconds: float) -> dict[str, Any]:
    """Share of the machine's peak that the model's own arithmetic came to."""
    load, length = work.plan.load, work.plan.attended
    size = load.numbers
    flops = model_flops(load, load.trains, size, Stretch(tokens, targets, length, 1.0))
    measured = _product_rate(work)
    card = card_of(work.device.name).flops if work.device.kind == "cuda" else None
    return {
        "mfu": flops / seconds / measured,
        "mfu_formula": FORMULA,
        "flops": flops,
        "flops_per_second": flops / seconds,
        "peak_flops": measured,
        "peak_is": "the best rate of matrix products of this model's shape, measured just now",
        "card_flops": card,
    }


def _product_rate(work: Work) -> float:
    """The best rate of a large matrix product here, in the run's precision."""
    dtype = torch.bfloat16 if work.plan.precision == "bf16" else torch.float32
    best, device = 0.0, work.device.kind
    hidden, inner = work.facts.hidden_size, work.facts.intermediate_size
    for width, rows in ((hidden, 2048), (1024, 1024), (4096, 4096) if device == "cuda" else (512, 2048)):
        left = torch.randn(rows, width, device=device, dtype=dtype)
        right = torch.randn(width, max(inner, width), device=device, dtype=dtype)
        marks = Marks(device)
        mm(left, right)
        for _ in range(4):
            begin = marks.now()
            mm(left, right)
            best = max(best, 2 * left.numel() * right.shape[1] / (marks.now() - begin))
    return best


def _time_forecast(work: Work, tokens: int, seconds: float) -> dict[str, Any]:
    """Seconds of the steps that were timed, as the plan has them by their tokens."""
    plan = work.plan
    assert plan.shape is not None
    mean = plan.shape.tokens / plan.shape.steps
    predicted = None if plan.step_seconds is None else plan.step_seconds * tokens / mean
    return {
        "predicted_seconds": predicted,
        "measured_seconds": seconds,
        "error": None if predicted is None else predicted / seconds - 1,
    }


def _fullest(work: Work, timed: range) -> int:
    """The step of the run with the fullest micro-batch, which the forecast is of; of a stream one of these."""
    steps = work.steps
    if not isinstance(steps, StepPlan):
        return max(timed, key=lambda step: steps.sums(step)[0])
    chosen = telling(steps.step_tokens, steps.step_targets, steps.step_longest)

    def tokens(step: int) -> int:
        return worst_among([steps.measure(step)], work.recipe.data.packing)(work.plan.micro_tokens).tokens

    return max(chosen, key=tokens)


def _memory(ready: Bench, step: int, whole: int) -> dict[str, Any]:
    """The forecast beside the peak of this step, and of the process (`whole`, bytes) until it was counted by part.

    The row joins the registry of this machine.
    """
    work = ready.work
    samples, weight = ready.rows(step)
    if ready.device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        ready.take(step + 1, samples, weight)
        allocated = torch.cuda.max_memory_allocated()
    else:
        before = sum(tensor.numel() * tensor.element_size() for tensor in held(ready.stepper))
        allocated = before + peak_of(lambda: ready.take(step + 1, samples, weight))
    # of tensors a step's own; the process has also read data and tokenised, as that of a run has
    tensors = forecast_memory(work.plan.load, whole_run=False).allocated_bytes
    process = forecast_memory(work.plan.load).peak_bytes
    record(
        Row(
            work.device.kind, work.device.name, f"bench {work.facts.family} {work.recipe.tuning.method}",
            process, whole, tensors, allocated,
        )
    )  # fmt: skip
    return {
        "predicted_allocated_bytes": tensors,
        "measured_allocated_bytes": allocated,
        "allocated_error": tensors / allocated - 1,
        "predicted_peak_bytes": process,
        "measured_peak_bytes": whole,
        "peak_error": process / whole - 1,
    }
