"""Rungs down to less memory, dearest in quality and time last; the first that fits is the nearest recipe.

as asked -> smaller micro-batches -> recomputing some layers -> bf16 moments -> 8-bit -> paged -> LoRA
-> QLoRA -> embedding and head in few bits -> checkpoints in the main memory -> shorter samples
Each rung says what it would need, whether it fits and how much slower a step becomes.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.errors import RecipeError
from tunesmith.plan.choice import Setting, choose, level
from tunesmith.plan.memory import Load, forecast_memory
from tunesmith.recipe import LowRank, Recipe, parse, set_key
from tunesmith.tuning.methods import METHODS
from tunesmith.tuning.table import capability_problems

SHORTEST = 128
# The first rungs alter speed alone; a later one must need less than those before it by at least this.
SPEED_ONLY, WORTH = 3, 0.99
AUTO = {"compute.micro_tokens": "auto", "compute.checkpointing": "auto"}


@dataclass(frozen=True, slots=True)
class Rung:
    """A way to need less. `change`: recipe keys, all that it takes; slowdown: time of a step against the quickest.

    peak_bytes: of the quickest way that fits; least_bytes: of the way that needs least.
    """

    name: str
    change: Mapping[str, Any]
    peak_bytes: int
    least_bytes: int
    fits: bool
    slowdown: float
    micro_tokens: int
    checkpointing: str | int

    def to_json(self) -> dict[str, Any]:
        """A line of the plan's ladder."""
        return {
            "name": self.name,
            "change": dict(self.change),
            "peak_bytes": self.peak_bytes,
            "least_bytes": self.least_bytes,
            "fits": self.fits,
            "slowdown": round(self.slowdown, 3),
            "micro_tokens": self.micro_tokens,
            "checkpointing": self.checkpointing,
        }


def climb_down(setting: Setting) -> list[Rung]:
    """Every rung of a recipe, in order; one that saves next to nothing is left out."""
    quickest = setting.seconds(setting.load(setting.sizes()[0], "off"))
    rungs: list[Rung] = []
    for name, change in _steps(setting):
        changed = with_change(setting, change)
        if changed is None or capability_problems(changed.recipe.tuning, changed.facts):
            continue
        load = _smallest_unrecomputed(changed) if name == "smaller micro-batches" else choose(changed)
        memory = forecast_memory(load)
        rung = Rung(
            name,
            {key: value for key, value in change.items() if _is_new(setting.recipe, key, value)},
            memory.peak_bytes,
            forecast_memory(_smallest(changed)).peak_bytes,
            changed.fits(load),
            changed.seconds(load) / quickest,
            load.room,
            load.checkpointing,
        )
        if len(rungs) < SPEED_ONLY or rung.least_bytes < WORTH * min(r.least_bytes for r in rungs):
            rungs.append(rung)
    return rungs


def next_down(setting: Setting, load: Load) -> Rung | None:
    """The first rung that needs less than a load which was forecast to fit and did not: with every layer recomputed."""
    now, quickest = (
        forecast_memory(load).allocated_bytes,
        setting.seconds(setting.load(setting.sizes()[0], "off")),
    )
    everything = {"compute.checkpointing": "full"}
    rungs = ((name, {**change, **everything}) for name, change in _steps(setting) if change)
    for name, change in (("recomputed activations", everything), *rungs):
        changed = with_change(setting, change)
        if changed is None or capability_problems(changed.recipe.tuning, changed.facts):
            continue
        smallest = _smallest(changed)
        memory = forecast_memory(smallest)
        if memory.allocated_bytes < WORTH * now:
            new = {key: value for key, value in change.items() if _is_new(setting.recipe, key, value)}
            peak = memory.peak_bytes
            slowdown = changed.seconds(smallest) / quickest
            return Rung(name, new, peak, peak, changed.fits(smallest), slowdown, smallest.room, "full")
    return None


def nearest(rungs: list[Rung]) -> Rung | None:
    """The first rung that fits."""
    return next((rung for rung in rungs if rung.fits), None)


def with_change(setting: Setting, change: Mapping[str, Any]) -> Setting | None:
    """The setting with recipe keys changed; None where that is no recipe."""
    values = setting.recipe.model_dump(mode="json")
    try:
        for key, value in change.items():
            set_key(values, key, value)
        recipe = parse(values)
    except RecipeError:
        return None
    shape = setting.shape
    if shape is not None:
        shape = replace(shape, longest=min(shape.longest, recipe.data.max_length))
    # rows that are cut shorter are packed anew, and in another way than those that were looked at
    worst = setting.worst if recipe.data.max_length >= setting.longest else None
    return replace(setting, recipe=recipe, shape=shape, worst=worst)


def _steps(setting: Setting) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and change of each rung. What alters only speed comes first, then the optimiser, then the method."""
    recipe = setting.recipe
    yield "as asked", {}
    yield "smaller micro-batches", {"compute.micro_tokens": "auto"}
    yield "recomputed activations", AUTO
    if recipe.optim.optimizer == "adamw":
        yield "bf16 optimiser", {**AUTO, "optim.optimizer": "adamw_bf16"}
    if not recipe.optim.optimizer.endswith("8bit"):
        yield "8-bit optimiser", {**AUTO, "optim.optimizer": "adamw_8bit"}
    if setting.device.kind == "cuda":
        yield "paged 8-bit optimiser", {**AUTO, "optim.optimizer": "paged_adamw_8bit"}
    if not isinstance(recipe.tuning, LowRank):
        yield "LoRA", {**AUTO, "tuning.method": "lora"}
    held: dict[str, Any] = dict(AUTO)
    if recipe.tuning.base == "none":
        own = isinstance(recipe.tuning, LowRank) and METHODS[recipe.tuning.method].can.quantised_base
        held = {**AUTO, **({"tuning.base": "nf4"} if own else {"tuning.method": "qlora"})}
        yield "QLoRA", held
        yield (
            "QLoRA, paged 8-bit optimiser" if setting.device.kind == "cuda" else "QLoRA, 8-bit optimiser",
            {
                **held,
                "optim.optimizer": "paged_adamw_8bit" if setting.device.kind == "cuda" else "adamw_8bit",
            },
        )
    for bits in (8, 4):
        narrow = {**held, "tuning.tables": bits}
        if bits < recipe.tuning.tables and _is_allowed(setting, narrow):
            yield f"embedding and head in {bits} bits", narrow
            held = dict(narrow)
    if setting.device.kind == "cuda" and recipe.compute.offload == "none":
        yield "offloaded checkpoints", {**AUTO, "compute.offload": "checkpoints"}
        if held != AUTO:
            yield "few bits, offloaded checkpoints", {**held, "compute.offload": "checkpoints"}
        held["compute.offload"] = "checkpoints"
    length = setting.longest // 2
    while length >= SHORTEST:
        yield f"samples of at most {length} tokens", {**held, "data.max_length": length}
        length //= 2


def _is_allowed(setting: Setting, change: Mapping[str, Any]) -> bool:
    """Whether a change makes a recipe that can be trained."""
    changed = with_change(setting, change)
    return changed is not None and not capability_problems(changed.recipe.tuning, changed.facts)


def _smallest(setting: Setting) -> Load:
    """The load that needs least of what the recipe leaves open."""
    asked = setting.recipe.compute.checkpointing
    return setting.load(setting.sizes()[-1], "full" if asked == "auto" else level(asked, setting.facts))


def _smallest_unrecomputed(setting: Setting) -> Load:
    """As little at once as there can be, recomputing only what was asked for."""
    loads = [setting.load(tokens, "off") for tokens in setting.sizes()]
    return next((load for load in loads if setting.fits(load)), loads[-1])


def _is_new(recipe: Recipe, key: str, value: Any) -> bool:
    """Whether a change changes anything."""
    here: Any = recipe
    for name in key.split("."):
        here = getattr(here, name, None)
    return bool(here != value)
