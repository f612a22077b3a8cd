"""Before money is spent: does it fit, how long does it take, what should be changed, and how sure that is.

recipe + facts + run shape + device -> Plan(memory by term, time, disk, advice, largest); no torch
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from tunesmith.model.facts import ModelFacts
from tunesmith.plan.activations import FP32, layer_costs, recomputed_layers, uncertainty
from tunesmith.plan.advice import advise
from tunesmith.plan.case import Advice, Case
from tunesmith.plan.choice import RunShape, Setting, choose
from tunesmith.plan.device import Device
from tunesmith.plan.duration import Speed, find_speed
from tunesmith.plan.ladder import Rung, climb_down, nearest, next_down
from tunesmith.plan.measured import stated
from tunesmith.plan.memory import STATE_BYTES, Checkpointing, Load, forecast_memory, galore_states
from tunesmith.plan.peak import Memory
from tunesmith.plan.reach import reach
from tunesmith.plan.timing import (
    NOTHING,
    Spans,
    filling,
    held_out_tokens,
    once_tokens,
    spans_of,
    step_flops,
    step_work,
)
from tunesmith.plan.trunk import Times, TrunkPlan, decide
from tunesmith.recipe import GaLore, Recipe, steps_of
from tunesmith.tuning.footprint import trainable_parameters
from tunesmith.tuning.methods import METHODS
from tunesmith.tuning.table import resolve_lr

if TYPE_CHECKING:
    from tunesmith.plan.registry import PastRun
    from tunesmith.plan.summary import DataSummary
    from tunesmith.plan.worst import Worst


COPY = "checkpoint copy"
COPY_SHARE = 0.5  # of the memory that is free, as in engine/keeping.py


@dataclass(frozen=True, slots=True)
class Plan:
    """The forecast and what `auto` became. to_json() is the contract of `tunesmith plan`."""

    device: Device
    parameters: int  # of the base, without adapters
    trainable: int
    memory: Memory
    shape: RunShape | None
    spans: Spans | None
    disk_bytes: int
    advice: tuple[Advice, ...]
    largest: Mapping[str, Any]
    nearest: Rung | None
    next_down: Rung | None  # where memory runs out all the same
    precision: Literal["fp32", "bf16"]
    checkpointing: Checkpointing
    recomputed: range  # decoder layers computed again in the backward pass
    micro_tokens: int
    lr: float
    load: Load
    attended: float  # mean length of the document that a token stands in
    step_seconds: float | None
    flops: float | None  # of all steps, nothing computed twice
    trunk: TrunkPlan  # frozen layers that are computed once

    @property
    def seconds(self) -> float | None:
        """Time of the run; None where the data were not read."""
        return self.spans.seconds if self.spans else None

    @property
    def fits(self) -> bool:
        """Whether the device has the memory."""
        return self.memory.device_bytes <= self.device.memory_bytes

    @property
    def shortage(self) -> str:
        """What is needed and what is there, in words."""
        needed, there = self.memory.device_bytes / 2**30, self.device.memory_bytes / 2**30
        return f"needs about {needed:.1f} GiB, {self.device.name} has {there:.1f}; {self.largest_terms}"

    @property
    def largest_terms(self) -> str:
        """Where most of it goes, in words."""
        terms = sorted(self.memory.terms.items(), key=lambda term: -term[1])[:4]
        return f"most of it, in {self.memory.phase}: " + ", ".join(
            f"{name} {_size(b)}" for name, b in terms if b
        )

    @property
    def foreseen(self) -> str:
        """What was forecast, in words for a run whose memory runs out all the same."""
        there = _size(self.device.memory_bytes)
        return f"{_size(self.memory.device_bytes)} of {there} were foreseen ({self.largest_terms})"

    def lower(self, recipe: str) -> str:
        """The next recipe to try where memory runs out all the same, and the command that writes it."""
        if self.next_down is None:
            return "nothing in a recipe would need less: take a smaller model or a larger device"
        changes = " ".join(f"{key}={value}" for key, value in self.next_down.change.items())
        about = f"{self.next_down.name}, about {_size(self.next_down.peak_bytes)}"
        return f"try {changes} ({about}); to have it written: tunesmith plan {recipe} {changes} --fix FILE"

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
        time = self.spans.to_json(self.device) if self.spans else NOTHING
        run = {k: getattr(self.shape, k) if self.shape else None for k in ("steps", "tokens", "targets")}
        return {
            "fits": self.fits,
            "device": device,
            "parameters": {"total": self.parameters, "trainable": self.trainable},
            "memory": self.memory.to_json(),
            "run": {**run, **time, "disk_bytes": self.disk_bytes, "flops": self.flops},
            "advice": [asdict(item) for item in self.advice],
            "largest": dict(self.largest),
            "precision": self.precision,
            "nearest": self.nearest.to_json() if self.nearest else None,
            "checkpointing": self.checkpointing,
            "micro_tokens": self.micro_tokens,
            "lr": self.lr,
            "trunk": self.trunk.to_json(),
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
    cache_room: int | None = None,
) -> Plan:
    """The plan of a recipe. Without a shape (data not read) there are no steps and no time. cache_room: free bytes.

    Raises RecipeError where the tuning names what the model lacks, or the recipe asks for what cannot be.
    """
    setting = Setting(recipe, facts, shape, device, summary, worst)
    precision, (load, trunk) = setting.precision, _chosen(setting, speed, cache_room)
    memory = _memory(setting, load)
    spans, step_seconds, flops = _times(setting, load, speed)
    rungs, trainable = climb_down(setting), trainable_parameters(recipe.tuning, facts)
    close = nearest(rungs)
    largest = {**reach(setting, load), "ladder": [rung.to_json() for rung in rungs]}
    case = Case(
        recipe, facts, device, resolve_lr(recipe), shape.steps if shape else None, summary,
        memory.device_bytes <= device.memory_bytes, dict(close.change) if close else {}, runs,
        spans.seconds if spans else None,
        room=memory.device_bytes / max(1, device.memory_bytes),
        wide_fits=setting.fits(replace(load, tuning=load.tuning.model_copy(update={"base": "none"}))),
    )  # fmt: skip
    return Plan(
        device=device,
        parameters=facts.parameters,
        trainable=trainable,
        memory=memory,
        shape=shape,
        spans=spans,
        disk_bytes=_disk_bytes(recipe, load, trainable, precision) + (shape.kept_bytes if shape else 0),
        advice=advise(case),
        largest=largest,
        nearest=close,
        next_down=next_down(setting, load),
        precision=precision,
        checkpointing=load.checkpointing,
        recomputed=_recomputed(load),
        micro_tokens=_micro_tokens(recipe, load),
        lr=resolve_lr(recipe),
        load=load,
        attended=setting.attended, step_seconds=step_seconds, flops=flops, trunk=trunk,
    )  # fmt: skip


def _size(count: float) -> str:
    return f"{count / 2**30:.1f} GiB" if count >= 2**29 else f"{count / 2**20:.0f} MiB"


def _chosen(setting: Setting, speed: Speed | None, room: int | None) -> tuple[Load, TrunkPlan]:
    """How a step is cut, and whether the frozen layers are computed once: by the time of the run with and without."""
    load = choose(setting)
    trunk = _trunk(setting, load, speed, room)
    if not trunk.on:
        return load, trunk
    ways = [replace(load, trunk=trunk.layers, let_go=gone) for gone in (True, False)]
    kept = min(ways, key=lambda way: forecast_memory(way).peak_bytes)
    return kept, replace(trunk, let_go=kept.let_go)


def _trunk(setting: Setting, load: Load, speed: Speed | None, room: int | None) -> TrunkPlan:
    recipe, shape, summary = setting.recipe, setting.shape, setting.summary
    if shape is None or shape.once is None:
        why = "the data were not read" if shape is None else "each row of a stream is read once"
        return decide(recipe, load, why, room, None, None)
    speed = speed or _speed_here(setting)
    saved = checkpoint_bytes(load)

    def times(at: Speed) -> Callable[[Load], Times]:
        def of(kept: Load) -> Times:
            plain, once = replace(kept, trunk=0), filling(recipe, kept, shape, summary).seconds(at)
            without, with_it = (spans_of(recipe, way, shape, summary, at, saved) for way in (plain, kept))
            return Times(without.seconds, with_it.seconds, once)

        return of

    tokens = once_tokens(shape, summary) + held_out_tokens(recipe, shape, summary)
    return decide(recipe, load, tokens, room, times(setting.table_speed), times(speed))


def _speed_here(setting: Setting) -> Speed:
    return find_speed(setting.device, setting.facts, setting.precision == "bf16")


def _times(
    setting: Setting, load: Load, speed: Speed | None
) -> tuple[Spans | None, float | None, float | None]:
    """Time of the run, seconds of a mean step, arithmetic of all steps; nothing where the data were not read."""
    shape = setting.shape
    if shape is None:
        return None, None, None
    speed = speed or _speed_here(setting)
    spans = spans_of(setting.recipe, load, shape, setting.summary, speed, checkpoint_bytes(load))
    step = step_work(load, shape, setting.attended).seconds(speed)
    return spans, step, shape.steps * step_flops(load, shape, setting.attended)


def _with_stated_error(memory: Memory, device: Device, facts: ModelFacts) -> Memory:
    """How far off forecasts for such a device were so far."""
    error = stated(device.kind, device.name)
    return replace(
        memory,
        error_share=error.share + uncertainty(facts),
        allocated_error_share=error.allocated_share,
        held_against=error.rows,
    )


def _memory(setting: Setting, load: Load) -> Memory:
    """The forecast and its stated error; with the copy of a checkpoint, where steps go on beside its writing."""
    memory = _with_stated_error(forecast_memory(load), setting.device, setting.facts)
    shape, every = setting.shape, setting.recipe.checkpoint.every
    at_the_end_alone = shape is not None and steps_of(every, shape.steps) >= shape.steps
    return memory if at_the_end_alone else with_copy(memory, load, setting.device)


def checkpoint_bytes(load: Load) -> int:
    """A checkpoint's tensors: what trains, in fp32, and what the optimiser remembers of it, wherever that stands."""
    trainable = trainable_parameters(load.tuning, load.facts)
    if isinstance(load.tuning, GaLore):
        return FP32 * (trainable + galore_states(load.tuning, load.facts))
    return round(trainable * (FP32 + STATE_BYTES[load.optimizer]))


def with_copy(memory: Memory, load: Load, device: Device) -> Memory:
    """With the copy of a checkpoint that stands in the main memory while it is written, beside the next steps.

    Where the main memory has no room for one, training waits for the disk instead (engine/keeping.py).
    """
    copy = checkpoint_bytes(load)
    if device.kind == "cuda":  # whose `device` says nothing of the main memory
        return replace(memory, host_bytes=memory.host_bytes + copy)
    if copy > COPY_SHARE * (device.memory_bytes - memory.device_bytes):
        return memory
    phases = {name: {**terms, COPY: copy} for name, terms in memory.phases.items()}
    return replace(memory, terms={**memory.terms, COPY: copy}, phases=phases)


def _recomputed(load: Load) -> range:
    """The layers, by number."""
    costs = layer_costs(load.facts, load.trains, load.numbers, 1.0)
    return recomputed_layers(costs, load.recomputed)


def _micro_tokens(recipe: Recipe, load: Load) -> int:
    """What was asked for; the load may be larger, where a single sample is."""
    asked = recipe.compute.micro_tokens
    return load.room if asked == "auto" else asked


def _disk_bytes(recipe: Recipe, load: Load, trainable: int, precision: str) -> int:
    """Checkpoints kept, one being written, the best one (which is never rotated away), and what was trained."""
    checkpoints = recipe.checkpoint.keep + 2
    result = load.facts.parameters * (2 if precision == "bf16" else FP32)
    result = result if METHODS[recipe.tuning.method].can.whole else trainable * FP32
    return checkpoints * checkpoint_bytes(load) + result
