"""What the time of a run is made of, and between what it may end.

steps + evaluations of the held-out loss between them + saves + frozen layers once  ->  seconds
Not counted: imports and preparing, loading, scores before and after (tasks' answers have no length yet).
report.json measures the same parts (evaluation/report.py); plan/measured.py compares nothing else.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tunesmith.plan.choice import RunShape
from tunesmith.plan.duration import Speed, Stretch, Work, forward_work, model_flops, reading_work, train_work
from tunesmith.plan.measured import COUNTED, stated_time
from tunesmith.plan.memory import Load
from tunesmith.recipe import Recipe, steps_of

if TYPE_CHECKING:
    from tunesmith.plan.device import Device
    from tunesmith.plan.summary import DataSummary

# A checkpoint's bytes are copied before the next step begins; hashing and writing them goes on beside it.
COPIES = 2


@dataclass(frozen=True, slots=True)
class Spans:
    """Seconds of a run, by what they go into; `busy`: how many times as long as without other work."""

    steps: float
    evaluations: float
    saves: float
    frozen_layers: float
    busy: float

    @property
    def seconds(self) -> float:
        """All of them."""
        return self.steps + self.evaluations + self.saves + self.frozen_layers

    def to_json(self, device: Device) -> dict[str, Any]:
        """Part of the plan's `run`: the range covers what 19 of 20 measured runs took, from an idle machine to now."""
        times = stated_time(device.kind, device.name)
        low, high = (None, None) if times is None else (times.low, times.high)
        return {
            "seconds": self.seconds,
            "seconds_low": None if low is None else low * self.seconds / self.busy,
            "seconds_high": None if high is None else high * self.seconds,
            "seconds_held_against": 0 if times is None else times.rows,
            "seconds_of": {name: value for name, value in asdict(self).items() if name != "busy"},
            "seconds_count": COUNTED,
            "busy": self.busy,
        }


NOTHING: dict[str, Any] = {
    "seconds": None, "seconds_low": None, "seconds_high": None, "seconds_held_against": 0, "seconds_of": None,
    "seconds_count": COUNTED, "busy": None,
}  # fmt: skip


def spans_of(
    recipe: Recipe, load: Load, shape: RunShape, summary: DataSummary | None, speed: Speed, saved_bytes: int
) -> Spans:
    """The run on a machine of this speed. saved_bytes: of a checkpoint."""
    size = load.numbers
    held = held_out_tokens(recipe, shape, summary)
    targets = held * shape.targets / shape.tokens
    held_out = Stretch(held, targets, _attended(shape, summary), held / load.tokens)
    evaluation = forward_work(load.facts, size, held_out, load.facts.layers - load.trunk)
    evaluation += reading_work(load, size, held_out)
    evaluations = shape.steps / steps_of(recipe.evaluation.every, shape.steps)
    saves = shape.steps / steps_of(recipe.checkpoint.every, shape.steps)
    return Spans(
        steps=shape.steps * step_work(load, shape, _attended(shape, summary)).seconds(speed),
        evaluations=evaluations * evaluation.seconds(speed) if held else 0.0,
        saves=saves * Work(bytes=COPIES * saved_bytes).seconds(speed),
        frozen_layers=filling(recipe, load, shape, summary).seconds(speed),
        busy=speed.busy,
    )


def filling(recipe: Recipe, load: Load, shape: RunShape, summary: DataSummary | None) -> Work:
    """The frozen layers once through all rows, held out ones too; written once."""
    tokens = once_tokens(shape, summary) + held_out_tokens(recipe, shape, summary)
    stretch = Stretch(tokens, 0, _attended(shape, summary), tokens / load.tokens)
    size = load.numbers
    return forward_work(load.facts, size, stretch, load.trunk, head=False) + reading_work(load, size, stretch)


def once_tokens(shape: RunShape, summary: DataSummary | None) -> float:
    """Tokens of all rows to train on, each counted once."""
    return shape.once or shape.tokens / max(1.0, summary.epochs if summary else 1.0)


def held_out_tokens(recipe: Recipe, shape: RunShape, summary: DataSummary | None) -> float:
    """Tokens whose loss is measured between steps."""
    if shape.held_out is not None:
        return shape.held_out
    return shape.tokens * _held_out_share(recipe) / max(1.0, summary.epochs if summary else 1.0)


def step_work(load: Load, shape: RunShape, length: float) -> Work:
    """What a mean step asks for."""
    step = _mean_step(load, shape, length)
    step = replace(step, tokens=step.tokens * load.padded, targets=step.targets * load.asked / load.targets)
    return train_work(load, load.trains, load.numbers, step)


def step_flops(load: Load, shape: RunShape, length: float) -> float:
    """Arithmetic of a mean step."""
    return model_flops(load, load.trains, load.numbers, _mean_step(load, shape, length))


def _mean_step(load: Load, shape: RunShape, length: float) -> Stretch:
    tokens, targets = shape.tokens / shape.steps, shape.targets / shape.steps
    return Stretch(tokens, targets, length, load.micro_batches(tokens))


def _attended(shape: RunShape, summary: DataSummary | None) -> float:
    return summary.attended if summary else shape.longest / 2


def _held_out_share(recipe: Recipe) -> float:
    """Rows held out, as a share of those trained on; unknown counts and files are taken as a tenth."""
    part = recipe.data.validation
    if part is None:
        return 0.0
    return part / (1 - part) if isinstance(part, float) else 0.1
