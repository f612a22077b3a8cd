"""How many tokens each source gives: by weights, by temperature, in a ratio of groups, and at most so often.

sizes 100k 1M, temperature 2          -> shares  sqrt(100k) : sqrt(1M)  =  24% : 76%
domain 2M, general 20M, ratio 5       -> shares  17% : 83%                               (note 001: 1:5 to 1:10)
100k at a share of 24% of 4M tokens   -> 9.6 passes; max_repeats 4 leaves 400k, the rest goes to the others
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

from tunesmith.recipe import Mix


@dataclass(frozen=True, slots=True)
class Mixed:
    """What is asked of the sources of a run. `whole`: nothing but to read each once an epoch."""

    shares: tuple[float, ...]
    max_repeats: float | None
    whole: bool


def mixed(sizes: Sequence[float], weights: Sequence[float | None], mix: Mix, groups: Sequence[str]) -> Mixed:
    """Shares of tokens that sum to 1. Sizes are tokens."""
    amounts = np.asarray(sizes, np.float64)
    shares = _normal(_wanted(amounts, weights, mix))
    if mix.general_ratio is not None:
        general = np.array([group == "general" for group in groups])
        of_group = np.array([1.0, mix.general_ratio]) / (1 + mix.general_ratio)
        for member, share in ((~general, of_group[0]), (general, of_group[1])):
            shares[member] = share * _normal(shares[member])
        shares = _normal(shares)  # a group without a row gives its share to the other
    plain = (
        all(weight is None for weight in weights) and mix.temperature is None and mix.general_ratio is None
    )
    return Mixed(tuple(shares.tolist()), mix.max_repeats, plain)


def _wanted(amounts: ndarray, weights: Sequence[float | None], mix: Mix) -> ndarray:
    if any(weight is not None for weight in weights):
        asked = np.array([1.0 if weight is None else weight for weight in weights])
        return np.where(amounts > 0, asked, 0.0)
    # p ~ n^(1/T): 1 is by size, large is all alike (arXiv:1907.05019, section 3)
    powered: ndarray = amounts ** (1 / (mix.temperature or 1.0))
    return np.where(amounts > 0, powered, 0.0)


def _normal(values: ndarray) -> ndarray:
    total = values.sum()
    return values / total if total > 0 else values


def within_repeats(mix: Mixed, sizes: Sequence[float], tokens: float) -> tuple[float, ...]:
    """Shares of a run of so many tokens in which no source is read more than `max_repeats` times.

    What a source cannot give is shared out among the others as they share.
    """
    shares = np.asarray(mix.shares, np.float64)
    if mix.max_repeats is None or not np.isfinite(tokens) or tokens <= 0:
        return mix.shares
    most = mix.max_repeats * np.asarray(sizes, np.float64) / tokens
    capped = np.zeros(len(shares), bool)
    for _ in shares:
        over = (shares > most) & ~capped
        if not over.any():
            break
        capped |= over
        shares = np.where(capped, most, shares)
        left = 1 - shares[capped].sum()
        others = shares[~capped].sum()
        if left <= 0 or others <= 0:
            break
        shares[~capped] *= left / others
    return tuple(_normal(shares).tolist())
