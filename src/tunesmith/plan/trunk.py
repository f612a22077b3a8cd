"""Whether the layers below the first that learns are computed once and kept on disk: where that can be, and pays.

layers of the trunk, tokens of all rows -> bytes on disk; time to fill them; time it saves in every epoch -> on or off
What decides `auto` is the time of a machine of this kind as a table has it, so that two runs of a recipe choose alike.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from tunesmith.errors import DiskFullError, RecipeError
from tunesmith.plan.activations import FP32, layer_costs, recomputed_layers
from tunesmith.plan.memory import Load

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunesmith.recipe import Recipe

LEAST_SHARE_OF_LAYERS = 1 / 3
LEAST_SAVING = 0.1  # of the time of the run
LEAST_SECONDS = 5.0  # a run so short gains nothing that anybody would notice
DISK_KEPT_FREE = 1 << 30


@dataclass(frozen=True, slots=True)
class TrunkPlan:
    """The frozen layers kept on disk, or why not. seconds: of this machine; saved_share: of the run without it."""

    on: bool
    reason: str
    layers: int = 0
    disk_bytes: int = 0
    fill_seconds: float | None = None
    saved_seconds: float | None = None
    saved_share: float | None = None
    # the weights are not held meanwhile: where loading them again needs less than holding them
    let_go: bool = False

    def to_json(self) -> dict[str, Any]:
        """Part of plan.json."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Times:
    """Seconds of a run as it is, with the layers kept, and of filling alone (part of the second)."""

    plain: float
    kept: float
    filling: float


def trunk_layers(load: Load) -> tuple[int, str]:
    """(decoder layers that nothing learns in or below, why there are none). Never the last one."""
    facts, trains = load.facts, load.trains
    if facts.own_forward is not None:
        return 0, f"the model runs through its own forward ({facts.own_forward})"
    if trains.begins or trains.virtual_keys:
        what = "virtual tokens" if trains.virtual_inputs or trains.virtual_keys else "the token embedding"
        return 0, f"{what} train, which every layer depends on"
    if facts.spelling.positions and f"{facts.spelling.positions}.weight" in trains.names:
        return 0, "the table of positions trains, which every layer depends on"
    costs = layer_costs(facts, trains, load.numbers, 1.0)
    layers = min(recomputed_layers(costs, 1).start, facts.layers - 1)
    return layers, "" if layers else "the first layer trains"


def bytes_of_states(load: Load, tokens: float) -> int:
    """What so many tokens take on disk: a residual stream of each."""
    return round(tokens * load.facts.hidden_size * _stored(load))


def _stored(load: Load) -> int:
    return 2 if load.bf16 and load.frozen_bytes == 2 else FP32


def decide(
    recipe: Recipe,
    load: Load,
    tokens: float | str,
    room: int | None,
    by_table: Callable[[Load], Times] | None,
    here: Callable[[Load], Times] | None,
) -> TrunkPlan:
    """tokens: of all rows, each once, or why that is not known; room: free bytes where it would lie, if known.

    Raises RecipeError where the recipe asks for what cannot be, DiskFullError where there is no room for it.
    """
    asked = recipe.compute.trunk_cache
    if asked == "off":
        return TrunkPlan(False, "compute.trunk_cache is off")
    layers, reason = trunk_layers(load)
    if not layers or (isinstance(tokens, str) and "stream" in tokens):
        reason = reason or str(tokens)
        if asked == "on":
            fix = "set it to auto, or let only upper layers train: tuning={method: freeze, last_layers: 2}"
            raise RecipeError.at("compute.trunk_cache", f"cannot be on: {reason}", fix)
        return TrunkPlan(False, reason)
    if isinstance(tokens, str) or by_table is None or here is None:
        return TrunkPlan(False, str(tokens), layers)
    kept = replace(load, trunk=layers)
    table, measured = by_table(kept), here(kept)
    found = TrunkPlan(
        True, "", layers, bytes_of_states(load, tokens), measured.filling,
        measured.plain - measured.kept, 1 - measured.kept / measured.plain,
    )  # fmt: skip
    if room is not None and found.disk_bytes + DISK_KEPT_FREE > room:
        needed, free = found.disk_bytes / 2**30, room / 2**30
        what = f"needs {needed:.2f} GiB in the cache, {free:.2f} GiB are free"
        if asked == "on":
            raise DiskFullError.at("compute.trunk_cache", what, "free some space, or set it to off")
        return replace(found, on=False, reason=what)
    if asked == "on":
        return replace(found, reason="compute.trunk_cache is on")
    return _judged(found, load, table)


def _judged(found: TrunkPlan, load: Load, table: Times) -> TrunkPlan:
    """On where it pays."""
    layers, saved = found.layers, table.plain - table.kept
    if layers < LEAST_SHARE_OF_LAYERS * load.facts.layers:
        reason = f"only {layers} of {load.facts.layers} layers stand below what trains"
        return replace(found, on=False, reason=reason)
    if saved <= 0:
        return replace(found, on=False, reason="each row is read too seldom")
    if saved < LEAST_SAVING * table.plain or saved < LEAST_SECONDS:
        share = saved / table.plain
        return replace(
            found, on=False, reason=f"it would save {share:.0%} of the time, less than it is worth"
        )
    return replace(found, reason=f"{layers} of {load.facts.layers} layers never change")
