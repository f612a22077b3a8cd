"""The largest that fits: tokens at once, the longest sample, the rank, methods, and models of the same family.

Each by doubling until it does not fit, then by halving the gap.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from tunesmith.errors import RecipeError
from tunesmith.plan.choice import Setting, fewest_recomputed
from tunesmith.plan.memory import Load
from tunesmith.plan.sizes import members
from tunesmith.recipe import LowRank, Tuning
from tunesmith.tuning.methods import METHODS

_MOST = 1 << 20
# The longest sample and the batch are told to this share of themselves.
_CLOSE = 1 / 32


def reach(setting: Setting, load: Load) -> dict[str, Any]:
    """How far the device of a setting reaches with its recipe, in the plan's own keys."""
    full = replace(load, checkpointing="full")
    summing = replace(load, accumulates=True)  # whatever the size of the step

    def fits(tried: Load) -> bool:
        return setting.fits(tried)

    found: dict[str, Any] = {
        "micro_tokens": grow(load.tokens, lambda n: fits(_with_tokens(summing, n))),
        "max_length": min(
            grow(load.tokens, lambda n: fits(_with_length(full, n))), load.facts.max_positions or _MOST
        ),
        "methods": {name: _method_fits(load, name, fits) for name in METHODS},
        "family": _family(load, fits),
    }
    tuning = load.tuning
    if isinstance(tuning, LowRank):
        widest = min(load.facts.hidden_size, load.facts.intermediate_size)
        found["rank"] = min(widest, grow(tuning.rank, lambda r: fits(_with_rank(load, tuning, r))))
    return found


def grow(start: int, fits: Callable[[int], bool]) -> int:
    """The largest number that fits, to a thirty-second part of itself; 0 where not even 1 does."""
    low = start
    while low and not fits(low):
        low //= 2
    if not low:
        return 0
    high = 2 * low
    while high <= _MOST and fits(high):
        low, high = high, 2 * high
    if high > _MOST:
        return low
    while high - low > max(1, int(low * _CLOSE)):
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _with_tokens(load: Load, tokens: int) -> Load:
    return replace(load, tokens=tokens, room=tokens, targets=max(1, load.targets * tokens // load.tokens))


def _with_length(load: Load, tokens: int) -> Load:
    """One sample of this length, alone."""
    return replace(_with_tokens(load, tokens), length=float(tokens))


def _with_rank(load: Load, tuning: LowRank, rank: int) -> Load:
    changed: Any = tuning.model_copy(update={"rank": rank})
    return replace(load, tuning=changed)


def _method_fits(load: Load, name: str, fits: Callable[[Load], bool]) -> bool:
    """Whether a method with its defaults fits, recomputing if need be."""
    tuning: Tuning = load.tuning if name == load.tuning.method else METHODS[name].tuning()
    if tuning.method == "freeze":
        tuning = tuning.model_copy(update={"last_layers": min(tuning.last, load.facts.layers)})
    try:
        return fits(replace(load, tuning=tuning, checkpointing="full"))
    except RecipeError:  # a method that this model cannot have, such as bitfit without biases
        return False


def _family(load: Load, fits: Callable[[Load], bool]) -> list[dict[str, Any]]:
    """Published models of the same family: which of them this recipe's method could tune here, and how."""
    rows = []
    for facts in members(load.facts):
        try:
            found = fewest_recomputed(replace(load, facts=facts, checkpointing="off"), fits)
        except RecipeError:  # targets that another size does not have
            continue
        row = {"model": facts.name, "parameters": facts.parameters, "fits": found is not None}
        rows.append({**row, "checkpointing": found.checkpointing if found else None})
    return rows
