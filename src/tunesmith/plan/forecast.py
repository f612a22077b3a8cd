"""Before money is spent: does it fit, how long does it take, what should be changed, and how sure that is.

recipe + facts + run shape + device -> Plan(memory by term, time, disk, advice, largest); no torch
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.errors import RecipeError
from tunesmith.model.facts import ModelFacts
from tunesmith.plan.activations import FP32, numbers, what_trains
from tunesmith.plan.advice import advise
from tunesmith.plan.case import Advice, Case
from tunesmith.plan.device import Device
from tunesmith.plan.duration import Speed, Stretch, find_speed, forward_work, train_work
from tunesmith.plan.memory import Load, Memory, forecast_memory
from tunesmith.recipe import LowRank, Recipe, Tuning, steps_of
from tunesmith.tuning.footprint import trainable_parameters
from tunesmith.tuning.methods import METHODS
from tunesmith.tuning.table import resolve_lr

if TYPE_CHECKING:
    from tunesmith.plan.registry import PastRun
    from tunesmith.plan.summary import DataSummary

Checkpointing = Literal["off", "full"]

# On a processor larger micro-batches gain nothing; on a card they fill it.
AUTO_MICRO_TOKENS: Mapping[str, int] = {"cpu": 2048, "cuda": 16384}
LEAST_MICRO_TOKENS = 256
_MOST = 1 << 20
MEAN_LENGTH = 512.0  # of a document, before the data are known


@dataclass(frozen=True, slots=True)
class RunShape:
    """How long the run is: totals of all steps, tokens of the largest step, of the longest sample."""

    steps: int
    tokens: int
    targets: int
    step_tokens: int
    longest: int
    rows: int = 0  # 0: unknown


@dataclass(frozen=True, slots=True)
class Plan:
    """The forecast and what `auto` became. to_json() is the contract of `tunesmith plan`."""

    device: Device
    parameters: int  # of the base, without adapters
    trainable: int
    memory: Memory
    shape: RunShape | None
    seconds: float | None
    disk_bytes: int
    advice: tuple[Advice, ...]
    largest: Mapping[str, Any]
    precision: Literal["fp32", "bf16"]
    checkpointing: Checkpointing
    micro_tokens: int
    lr: float

    @property
    def fits(self) -> bool:
        """Whether the device has the memory."""
        return self.memory.device_bytes <= self.device.memory_bytes

    @property
    def peak_bytes(self) -> int:
        """Most memory held at once."""
        return self.memory.peak_bytes

    def to_json(self) -> dict[str, Any]:
        """The contracted document."""
        device = {
            "kind": self.device.kind,
            "name": self.device.name,
            "memory_bytes": self.device.memory_bytes,
        }
        run = {k: getattr(self.shape, k) if self.shape else None for k in ("steps", "tokens", "targets")}
        return {
            "fits": self.fits,
            "device": device,
            "parameters": {"total": self.parameters, "trainable": self.trainable},
            "memory": self.memory.to_json(),
            "run": {**run, "seconds": self.seconds, "disk_bytes": self.disk_bytes},
            "advice": [asdict(item) for item in self.advice],
            "largest": dict(self.largest),
            "precision": self.precision,
            "checkpointing": self.checkpointing,
            "micro_tokens": self.micro_tokens,
            "lr": self.lr,
        }


def make_plan(
    recipe: Recipe,
    facts: ModelFacts,
    shape: RunShape | None,
    device: Device,
    summary: DataSummary | None = None,
    speed: Speed | None = None,
    runs: tuple[PastRun, ...] | None = None,
) -> Plan:
    """The plan of a recipe. Without a shape (data not read) there are no steps and no time.

    Raises RecipeError where the tuning names what the model lacks.
    """
    trainable = trainable_parameters(recipe.tuning, facts)
    precision = _precision(recipe, device)
    load = _first_that_fits(recipe, facts, shape, device, precision)
    memory = forecast_memory(load)
    seconds = None
    if shape is not None:
        seconds = _seconds(recipe, load, shape, summary, speed or find_speed(device, facts))
    lr = resolve_lr(recipe)
    fits = memory.device_bytes <= device.memory_bytes
    largest = _largest(recipe, load, device)
    steps = shape.steps if shape else None
    case = Case(
        recipe, facts, device, lr, steps, summary, fits, dict(largest["methods"]), runs, seconds,
        room=memory.device_bytes / max(1, device.memory_bytes),
        wide_fits=_fits(replace(load, tuning=load.tuning.model_copy(update={"base": "none"})), device),
    )  # fmt: skip
    return Plan(
        device=device,
        parameters=facts.parameters,
        trainable=trainable,
        memory=memory,
        shape=shape,
        seconds=seconds,
        disk_bytes=_disk_bytes(recipe, facts, trainable, precision),
        advice=advise(case),
        largest=largest,
        precision=precision,
        checkpointing=load.checkpointing,
        micro_tokens=_micro_tokens(recipe, load),
        lr=lr,
    )


def _precision(recipe: Recipe, device: Device) -> Literal["fp32", "bf16"]:
    if recipe.compute.precision != "auto":
        return recipe.compute.precision
    return "bf16" if device.bf16 else "fp32"


def _micro_tokens(recipe: Recipe, load: Load) -> int:
    """What was asked for; the load may be larger, where a single sample is."""
    asked = recipe.compute.micro_tokens
    return load.tokens if asked == "auto" else asked


def _first_that_fits(
    recipe: Recipe, facts: ModelFacts, shape: RunShape | None, device: Device, precision: str
) -> Load:
    """The first of the candidates, fastest first, that fits; the smallest where none does."""
    load = None
    for load in _candidates(recipe, facts, shape, device, precision):
        if forecast_memory(load).device_bytes <= device.memory_bytes:
            return load
    assert load is not None
    return load


def _candidates(
    recipe: Recipe, facts: ModelFacts, shape: RunShape | None, device: Device, precision: str
) -> Iterator[Load]:
    """Without checkpointing before with, large micro-batches before small; none below the longest sample."""
    longest = shape.longest if shape else recipe.data.max_length
    step_tokens = max(longest, shape.step_tokens if shape else recipe.optim.batch_tokens)
    asked = recipe.compute.micro_tokens
    if asked == "auto":
        most = min(step_tokens, max(longest, AUTO_MICRO_TOKENS[device.kind]))
        sizes = [most]
        while sizes[-1] > max(longest, LEAST_MICRO_TOKENS):
            sizes.append(max(longest, LEAST_MICRO_TOKENS, sizes[-1] // 2))
    else:
        sizes = [max(longest, min(asked, step_tokens))]
    learnt = shape.targets / shape.tokens if shape and shape.tokens else 1.0
    wanted = recipe.compute.checkpointing
    levels: tuple[Checkpointing, ...] = ("off", "full") if wanted == "auto" else (wanted,)
    for level in levels:
        for tokens in sizes:
            yield Load(
                facts=facts,
                tuning=recipe.tuning,
                device=device.kind,
                bf16=precision == "bf16",
                frozen_bytes=_frozen_bytes(recipe, precision),
                checkpointing=level,
                tokens=tokens,
                targets=max(1, round(tokens * learnt)),
                accumulates=step_tokens > tokens,
                length=shape.tokens / shape.rows if shape and shape.rows else MEAN_LENGTH,
                optimizer=recipe.optim.optimizer,
            )


def _frozen_bytes(recipe: Recipe, precision: str) -> int:
    stored = precision if recipe.model.dtype == "auto" else recipe.model.dtype
    return 2 if stored == "bf16" else FP32


def _seconds(recipe: Recipe, load: Load, shape: RunShape, summary: DataSummary | None, speed: Speed) -> float:
    """Training and held-out losses. Tasks, whose answers have no length yet, are left out."""
    trains = what_trains(load.tuning, load.facts)
    size = numbers(trains, load.bf16)
    tokens, targets = shape.tokens / shape.steps, shape.targets / shape.steps
    length = summary.attended if summary else shape.longest / 2
    step = Stretch(tokens, targets, length, max(1.0, tokens / load.tokens))
    held = shape.tokens * _held_out_share(recipe) / max(1.0, summary.epochs if summary else 1.0)
    held_out = Stretch(held, held * targets / tokens, length, held / load.tokens)
    evaluations = shape.steps / steps_of(recipe.evaluation.every, shape.steps)
    once = train_work(load, trains, size, step).seconds(speed)
    return shape.steps * once + evaluations * forward_work(load.facts, size, held_out).seconds(speed)


def _held_out_share(recipe: Recipe) -> float:
    """Rows held out, as a share of those trained on; unknown counts and files are taken as a tenth."""
    part = recipe.data.validation
    if part is None:
        return 0.0
    return part / (1 - part) if isinstance(part, float) else 0.1


def _disk_bytes(recipe: Recipe, facts: ModelFacts, trainable: int, precision: str) -> int:
    """Checkpoints kept, one being written, the best one, and what was trained."""
    checkpoints = recipe.checkpoint.keep + 1 + bool(recipe.evaluation.early_stop)
    result = facts.parameters * (2 if precision == "bf16" else FP32)
    result = result if METHODS[recipe.tuning.method].can.whole else trainable * FP32
    return checkpoints * 3 * FP32 * trainable + result


# ---- the largest that fits ----


def _largest(recipe: Recipe, load: Load, device: Device) -> dict[str, Any]:
    """How far this device reaches: tokens at once, longest sample, rank, and which methods fit at all."""
    full = replace(load, checkpointing="full")
    found: dict[str, Any] = {
        "micro_tokens": _grow(load.tokens, lambda n: _fits(_with_tokens(load, n), device)),
        "max_length": _grow(load.tokens, lambda n: _fits(_with_tokens(full, n), device)),
        "methods": {name: _method_fits(load, name, device) for name in METHODS},
    }
    tuning = load.tuning
    if isinstance(tuning, LowRank):
        ranked = lambda rank: replace(load, tuning=tuning.model_copy(update={"rank": rank}))  # noqa: E731
        widest = min(load.facts.hidden_size, load.facts.intermediate_size)
        found["rank"] = min(widest, _grow(tuning.rank, lambda rank: _fits(ranked(rank), device)))
    return found


def _fits(load: Load, device: Device) -> bool:
    return forecast_memory(load).device_bytes <= device.memory_bytes


def _with_tokens(load: Load, tokens: int) -> Load:
    return replace(load, tokens=tokens, targets=max(1, load.targets * tokens // load.tokens))


def _method_fits(load: Load, name: str, device: Device) -> bool:
    """Whether a method with its defaults fits, with checkpointing and the smallest micro-batch if need be."""
    tuning: Tuning = load.tuning if name == load.tuning.method else METHODS[name].tuning()
    if tuning.method == "freeze":
        tuning = tuning.model_copy(update={"last_layers": min(tuning.last, load.facts.layers)})
    try:
        return _fits(replace(load, tuning=tuning, checkpointing="full"), device)
    except RecipeError:  # a method that this model cannot have, such as bitfit without biases
        return False


def _grow(start: int, fits: Any) -> int:
    """The largest power-of-two multiple or part of `start` that fits; 0 where not even one does."""
    size = start
    while size and not fits(size):
        size //= 2
    while 0 < size < _MOST and fits(2 * size):
        size *= 2
    return size
