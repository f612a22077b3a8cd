"""Before money is spent: does it fit, how long does it take, what should be changed, and how sure that is.

recipe + facts + run shape + device -> Plan(memory by term, time, disk, advice, largest); no torch
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.model.facts import ModelFacts
from tunesmith.plan.activations import FP32, layer_costs, numbers, recomputed_layers, uncertainty
from tunesmith.plan.advice import advise
from tunesmith.plan.case import Advice, Case
from tunesmith.plan.choice import RunShape, Setting, choose
from tunesmith.plan.device import Device
from tunesmith.plan.duration import Speed, Stretch, Work, find_speed, forward_work, model_flops, train_work
from tunesmith.plan.ladder import Rung, climb_down, nearest
from tunesmith.plan.measured import stated
from tunesmith.plan.memory import Checkpointing, Load, Memory, forecast_memory
from tunesmith.plan.reach import reach
from tunesmith.recipe import Recipe, steps_of
from tunesmith.tuning.footprint import trainable_parameters
from tunesmith.tuning.methods import METHODS
from tunesmith.tuning.table import resolve_lr

if TYPE_CHECKING:
    from tunesmith.plan.registry import PastRun
    from tunesmith.plan.summary import DataSummary
    from tunesmith.plan.worst import Worst


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
    nearest: Rung | None
    precision: Literal["fp32", "bf16"]
    checkpointing: Checkpointing
    recomputed: range  # decoder layers computed again in the backward pass
    micro_tokens: int
    lr: float
    load: Load
    attended: float  # mean length of the document that a token stands in
    step_seconds: float | None
    flops: float | None  # of all steps, nothing computed twice

    @property
    def fits(self) -> bool:
        """Whether the device has the memory."""
        return self.memory.device_bytes <= self.device.memory_bytes

    @property
    def shortage(self) -> str:
        """What is needed and what is there, in words."""
        needed, there = self.memory.device_bytes / 2**30, self.device.memory_bytes / 2**30
        return f"needs about {needed:.1f} GiB, {self.device.name} has {there:.1f}"

    @property
    def way_out(self) -> str:
        """The nearest recipe that fits, as words to type."""
        if self.nearest is None:
            return "take a smaller model or a larger device: tunesmith plan RECIPE --memory SIZE"
        changes = " ".join(f"{key}={value}" for key, value in self.nearest.change.items())
        slower = f"{self.nearest.slowdown:.1f} times the time of a step at best" if self.nearest else ""
        return (
            f"add {changes} ({self.nearest.name}, about {self.nearest.peak_bytes / 2**30:.1f} GiB, {slower}); "
            "or have it written: tunesmith plan RECIPE --fix FILE"
        )

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
            "run": {**run, "seconds": self.seconds, "disk_bytes": self.disk_bytes, "flops": self.flops},
            "advice": [asdict(item) for item in self.advice],
            "largest": dict(self.largest),
            "precision": self.precision,
            "nearest": self.nearest.to_json() if self.nearest else None,
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
    worst: Worst | None = None,
) -> Plan:
    """The plan of a recipe. Without a shape (data not read) there are no steps and no time.

    Raises RecipeError where the tuning names what the model lacks.
    """
    trainable = trainable_parameters(recipe.tuning, facts)
    setting = Setting(recipe, facts, shape, device, summary, worst)
    precision, load = setting.precision, choose(setting)
    memory = _with_stated_error(forecast_memory(load), device, facts)
    seconds, step_seconds, flops = _times(setting, load, speed)
    fits = memory.device_bytes <= device.memory_bytes
    rungs = climb_down(setting)
    close = nearest(rungs)
    largest = {**reach(setting, load), "ladder": [rung.to_json() for rung in rungs]}
    case = Case(
        recipe, facts, device, resolve_lr(recipe), shape.steps if shape else None, summary, fits,
        dict(close.change) if close else {}, runs, seconds,
        room=memory.device_bytes / max(1, device.memory_bytes),
        wide_fits=setting.fits(replace(load, tuning=load.tuning.model_copy(update={"base": "none"}))),
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
        nearest=close,
        precision=precision,
        checkpointing=load.checkpointing,
        recomputed=_recomputed(load),
        micro_tokens=_micro_tokens(recipe, load),
        lr=resolve_lr(recipe),
        load=load,
        attended=setting.attended,
        step_seconds=step_seconds,
        flops=flops,
    )


def _times(
    setting: Setting, load: Load, speed: Speed | None
) -> tuple[float | None, float | None, float | None]:
    """Seconds of the run, seconds of a mean step, arithmetic of all steps; nothing where the data were not read."""
    if setting.shape is None:
        return None, None, None
    speed = speed or find_speed(setting.device, setting.facts)
    step = _step_work(load, setting.shape, setting.attended).seconds(speed)
    seconds = _seconds(setting.recipe, load, setting.shape, setting.summary, speed)
    return seconds, step, setting.shape.steps * _step_flops(load, setting.shape, setting.attended)


def _with_stated_error(memory: Memory, device: Device, facts: ModelFacts) -> Memory:
    """How far off forecasts for such a device were so far."""
    error = stated(device.kind, device.name)
    return replace(
        memory,
        error_share=error.share + uncertainty(facts),
        allocated_error_share=error.allocated_share,
        held_against=error.rows,
    )


def _recomputed(load: Load) -> range:
    """The layers, by number."""
    costs = layer_costs(load.facts, load.trains, numbers(load.trains, load.bf16), 1.0)
    return recomputed_layers(costs, load.recomputed)


def _micro_tokens(recipe: Recipe, load: Load) -> int:
    """What was asked for; the load may be larger, where a single sample is."""
    asked = recipe.compute.micro_tokens
    return load.room if asked == "auto" else asked


def _seconds(recipe: Recipe, load: Load, shape: RunShape, summary: DataSummary | None, speed: Speed) -> float:
    """Training and held-out losses. Tasks, whose answers have no length yet, are left out."""
    size = numbers(load.trains, load.bf16)
    tokens, targets = shape.tokens / shape.steps, shape.targets / shape.steps
    length = summary.attended if summary else shape.longest / 2
    held = shape.tokens * _held_out_share(recipe) / max(1.0, summary.epochs if summary else 1.0)
    held_out = Stretch(held, held * targets / tokens, length, held / load.tokens)
    evaluations = shape.steps / steps_of(recipe.evaluation.every, shape.steps)
    once = _step_work(load, shape, length).seconds(speed)
    return shape.steps * once + evaluations * forward_work(load.facts, size, held_out).seconds(speed)


def _step_work(load: Load, shape: RunShape, length: float) -> Work:
    """What a mean step asks for."""
    return train_work(load, load.trains, numbers(load.trains, load.bf16), _mean_step(load, shape, length))


def _step_flops(load: Load, shape: RunShape, length: float) -> float:
    """Arithmetic of a mean step."""
    return model_flops(load, load.trains, numbers(load.trains, load.bf16), _mean_step(load, shape, length))


def _mean_step(load: Load, shape: RunShape, length: float) -> Stretch:
    tokens, targets = shape.tokens / shape.steps, shape.targets / shape.steps
    return Stretch(tokens, targets, length, max(1.0, tokens / load.tokens))


def _held_out_share(recipe: Recipe) -> float:
    """Rows held out, as a share of those trained on; unknown counts and files are taken as a tenth."""
    part = recipe.data.validation
    if part is None:
        return 0.0
    return part / (1 - part) if isinstance(part, float) else 0.1


def _disk_bytes(recipe: Recipe, facts: ModelFacts, trainable: int, precision: str) -> int:
    """Checkpoints kept, one being written, the best one (which is never rotated away), and what was trained."""
    checkpoints = recipe.checkpoint.keep + 2
    result = facts.parameters * (2 if precision == "bf16" else FP32)
    result = result if METHODS[recipe.tuning.method].can.whole else trainable * FP32
    return checkpoints * 3 * FP32 * trainable + result
