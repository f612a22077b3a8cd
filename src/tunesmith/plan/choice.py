"""What `auto` becomes: of all ways to cut and to recompute a step, the quickest that fits.

micro_tokens    a step, halved again and again, never below the longest sample
checkpointing   for each of them as few recomputed layers as fit; then the pair that takes the least time
Time is that of a machine of this kind as a table has it, never of how busy it is: a resumed run chooses alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from tunesmith.model.facts import ModelFacts
from tunesmith.plan.activations import FP32
from tunesmith.plan.device import Device
from tunesmith.plan.duration import Speed, Stretch, card_speed, train_work
from tunesmith.plan.memory import Load, forecast_memory
from tunesmith.plan.worst import MicroBatch, Worst
from tunesmith.recipe import Recipe

if TYPE_CHECKING:
    from tunesmith.plan.summary import DataSummary

# On a processor larger micro-batches gain nothing; on a card they fill it.
AUTO_MICRO_TOKENS: Mapping[str, int] = {"cpu": 2048, "cuda": 16384}
LEAST_MICRO_TOKENS = 256
MEAN_LENGTH = 512.0  # of a document, before the data are known
SLACK = 1.05  # attended slots a token, likewise
# `auto` leaves this much of the device free, where it can: a forecast is a forecast.
HEADROOM = 0.06
# Answers are generated for so many times the tokens of a micro-batch (evaluation/evaluate.py).
ANSWER_SHARE = 4
_PROCESSOR = Speed(60e9, 8e9, 45e-6, 1.2e-10)


@dataclass(frozen=True, slots=True)
class RunShape:
    """How long the run is: totals of all steps, tokens of the largest step, of the longest sample."""

    steps: int
    tokens: int
    targets: int
    step_tokens: int
    longest: int
    rows: int = 0  # 0: unknown
    # tokens of all rows to train on, each counted once; 0: unknown, None: streams have no end
    once: int | None = 0
    held_out: int | None = None  # tokens of the rows held out; None: unknown
    kept_bytes: int = 0  # what a run holds of its streams on disk


@dataclass(frozen=True, slots=True)
class Setting:
    """What a load is made of, and what it is held against."""

    recipe: Recipe
    facts: ModelFacts
    shape: RunShape | None
    device: Device
    summary: DataSummary | None = None
    worst: Worst | None = None

    @property
    def precision(self) -> Literal["fp32", "bf16"]:
        """As asked, else bf16 where it is the quicker."""
        asked = self.recipe.compute.precision
        return asked if asked != "auto" else self.device.precision(self.facts.hidden_size)

    @property
    def longest(self) -> int:
        """The longest sample."""
        return self.shape.longest if self.shape else self.recipe.data.max_length

    @property
    def step_tokens(self) -> int:
        """The largest step."""
        return max(self.longest, self.shape.step_tokens if self.shape else self.recipe.optim.batch_tokens)

    @property
    def attended(self) -> float:
        """Mean length of the document that a token stands in."""
        return self.summary.attended if self.summary else self.longest / 2

    @property
    def answers(self) -> bool:
        """Whether anything is generated before and after."""
        wanted = self.recipe.evaluation
        return bool(wanted.probes) or any(task.kind == "generate" for task in wanted.tasks)

    def load(self, tokens: int, checkpointing: Literal["off", "full"] | int) -> Load:
        """The load of the worst micro-batch that is cut at so many tokens."""
        recipe = self.recipe
        batch = self.worst(tokens) if self.worst else self._mean(tokens)
        stored = self.precision if recipe.model.dtype == "auto" else recipe.model.dtype
        return Load(
            facts=self.facts,
            tuning=recipe.tuning,
            device=self.device.kind,
            bf16=self.precision == "bf16",
            frozen_bytes=2 if stored == "bf16" else FP32,
            checkpointing=checkpointing,
            card_bytes=self.device.memory_bytes if self.device.kind == "cuda" else 0,
            offload=recipe.compute.offload == "checkpoints",
            tokens=batch.tokens,
            targets=max(1, batch.targets),
            room=tokens,
            slack=batch.slots / batch.tokens,
            accumulates=self.step_tokens > tokens,
            length=batch.tokens / batch.documents,
            optimizer=recipe.optim.optimizer,
            answer_tokens=ANSWER_SHARE * tokens * self.answers,
            padding=batch.computed,
            share=batch.share,
            packed=recipe.data.packing,
        )

    def _mean(self, tokens: int) -> MicroBatch:
        """A micro-batch of the run's mean: what is assumed where the rows are not known."""
        shape = self.shape
        learnt = shape.targets / shape.tokens if shape and shape.tokens else 1.0
        length = shape.tokens / shape.rows if shape and shape.rows else MEAN_LENGTH
        return MicroBatch(
            tokens, round(tokens * learnt), max(1, round(tokens / length)), round(tokens * SLACK)
        )

    def sizes(self) -> list[int]:
        """Tokens of a micro-batch that come into question, large ones first."""
        asked = self.recipe.compute.micro_tokens
        if asked != "auto":
            return [max(self.longest, min(asked, self.step_tokens))]
        sizes = [min(self.step_tokens, max(self.longest, AUTO_MICRO_TOKENS[self.device.kind]))]
        while sizes[-1] > max(self.longest, LEAST_MICRO_TOKENS):
            sizes.append(max(self.longest, LEAST_MICRO_TOKENS, sizes[-1] // 2))
        return sizes

    def fits(self, load: Load, headroom: float = 0.0) -> bool:
        """Whether the device has the memory."""
        return forecast_memory(load).device_bytes <= (1 - headroom) * self.device.memory_bytes

    def seconds(self, load: Load) -> float:
        """A step on a machine of this kind, for comparing loads."""
        size = load.numbers
        tokens = self.shape.tokens / self.shape.steps if self.shape else self.step_tokens
        computed, pieces = tokens * load.padded, load.micro_batches(tokens)
        stretch = Stretch(computed, tokens * load.asked / load.tokens, self.attended, pieces)
        return train_work(load, load.trains, size, stretch).seconds(self.table_speed)

    @property
    def table_speed(self) -> Speed:
        """Of a machine of this kind."""
        return card_speed(self.device.name) if self.device.kind == "cuda" else _PROCESSOR


def choose(setting: Setting) -> Load:
    """The quickest load that fits with some room left; else the one that just fits; else the smallest."""
    for headroom in (HEADROOM, 0.0):
        fitting = [load for load in _least_recomputing(setting, headroom) if load is not None]
        if fitting:
            return min(fitting, key=setting.seconds)
    asked = setting.recipe.compute.checkpointing
    return setting.load(setting.sizes()[-1], "full" if asked == "auto" else level(asked, setting.facts))


def level(asked: Literal["off", "full"] | int | float, facts: ModelFacts) -> Literal["off", "full"] | int:
    """A recipe's checkpointing as off, full or a number of layers."""
    if isinstance(asked, str):
        return asked
    count = asked if isinstance(asked, int) else max(1, round(asked * facts.layers))
    return "full" if count >= facts.layers else count


def _least_recomputing(setting: Setting, headroom: float) -> Iterable[Load | None]:
    """For each size, the load with the fewest recomputed layers that fits."""
    asked = setting.recipe.compute.checkpointing
    for tokens in setting.sizes():
        if asked != "auto":
            load = setting.load(tokens, level(asked, setting.facts))
            yield load if setting.fits(load, headroom) else None
            continue
        yield fewest_recomputed(setting.load(tokens, "off"), lambda load: setting.fits(load, headroom))


def fewest_recomputed(load: Load, fits: Callable[[Load], bool]) -> Load | None:
    """The load with as few recomputed layers as fit; None where not even all do."""
    if fits(load):
        return load
    full = replace(load, checkpointing="full")
    if not fits(full):
        return None
    low, high = 0, load.facts.layers  # low does not fit, high does
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if fits(replace(load, checkpointing=middle)) else (middle, high)
    return full if high == load.facts.layers else replace(load, checkpointing=high)
