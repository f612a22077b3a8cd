"""What a sweep tries: axes of a recipe's keys, and the cells they make, every one or so many drawn at random.

["tuning.rank=8,32", "optim.lr=1e-4,3e-4", "seed=1"] -> fixed ["seed=1"], 2 x 2 cells
["optim.lr=1e-5..1e-3"] with --random 8              -> 8 rates, drawn evenly over their powers of ten
"""

from __future__ import annotations

import itertools
import math
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe.plain_yaml import parse_yaml, write_yaml

MOST_CELLS = 64
_RANGE = re.compile(r"^([-+.\deE_]+)\.\.([-+.\deE_]+)$")


@dataclass(frozen=True, slots=True)
class Range:
    """All numbers between two; whole ones where both ends are."""

    low: float
    high: float

    def draw(self, rng: random.Random) -> float | int:
        """One of them, evenly over its logarithm; evenly where the range holds 0."""
        if self.low > 0:
            value = math.exp(rng.uniform(math.log(self.low), math.log(self.high)))
        else:
            value = rng.uniform(self.low, self.high)
        whole = isinstance(self.low, int) and isinstance(self.high, int)
        return min(self.high, max(self.low, round(value))) if whole else float(f"{value:.3g}")


@dataclass(frozen=True, slots=True)
class Axis:
    """One key and what is tried there."""

    key: str
    values: tuple[Any, ...] | Range


@dataclass(frozen=True, slots=True)
class Cell:
    """One run of a sweep: its folder's name, and what it sets."""

    name: str
    changes: Mapping[str, Any]

    def overrides(self) -> list[str]:
        """As typed on the command line; a method first, which clears what another method was given."""
        ordered = sorted(self.changes.items(), key=lambda change: change[0] != "tuning.method")
        return [f"{key}={spell(value)}" for key, value in ordered]


def read_axes(words: Sequence[str]) -> tuple[list[str], list[Axis]]:
    """The overrides that hold for all cells, and the axes: keys with several values. All problems at once."""
    fixed: list[str] = []
    axes: list[Axis] = []
    problems: list[Problem] = []
    for word in words:
        key, equals, text = word.partition("=")
        if not equals or not key or not text:
            problems.append(Problem(word, "names no values", "write key=a,b,c, such as tuning.rank=8,16,32"))
            continue
        values = _values(key, text)
        if key in [axis.key for axis in axes]:
            problems.append(Problem(word, "the key stands twice", "give all its values at once: key=a,b,c"))
        elif isinstance(values, Range):
            if not values.low < values.high:
                problems.append(Problem(word, "its first end is not below its last", "write key=LOW..HIGH"))
            axes.append(Axis(key, values))
        elif len(values) == 1:
            fixed.append(word)
        else:
            axes.append(Axis(key, tuple(_once(values))))
    if not axes and not problems:
        what = "no key has several values, so there is nothing to compare"
        problems.append(Problem("sweep", what, "such as: tunesmith sweep RECIPE data.max_length=512,1024"))
    if problems:
        raise RecipeError(problems)
    return fixed, axes


def _values(key: str, text: str) -> list[Any] | Range:
    if found := _RANGE.match(text):
        ends = [parse_yaml(end, key) for end in found.groups()]
        if all(isinstance(end, int | float) and not isinstance(end, bool) for end in ends):
            return Range(*ends)
    values = parse_yaml(f"[{text}]", key)
    return values if isinstance(values, list) else [values]


def _once(values: Sequence[Any]) -> Iterator[Any]:
    seen: list[Any] = []
    for value in values:
        if value not in seen:
            seen.append(value)
            yield value


def make_cells(axes: Sequence[Axis], drawn: int | None = None, seed: int = 0) -> list[Cell]:
    """Every combination, or `drawn` different ones at random. Raises RecipeError for too many, or a range unasked."""
    ranges = [axis.key for axis in axes if isinstance(axis.values, Range)]
    if drawn is None:
        if ranges:
            what = f"{', '.join(ranges)}: a range has no end of values"
            raise RecipeError.at("sweep", what, "draw some: --random 8, or name the values")
        size = math.prod(len(axis.values) for axis in axes if isinstance(axis.values, tuple))
        if size > MOST_CELLS:
            raise RecipeError.at("sweep", f"{size} runs are too many", "draw some of them: --random 16")
        lists = [axis.values for axis in axes if isinstance(axis.values, tuple)]
        return _named(
            [dict(zip([axis.key for axis in axes], values)) for values in itertools.product(*lists)]
        )
    if not 1 <= drawn <= MOST_CELLS:
        raise RecipeError.at("--random", f"must be 1 to {MOST_CELLS}, got {drawn}", "try --random 8")
    return _named(_drawn(axes, drawn, random.Random(seed)))


def _drawn(axes: Sequence[Axis], count: int, rng: random.Random) -> list[dict[str, Any]]:
    """Different combinations; fewer where there are no more."""
    found: list[dict[str, Any]] = []
    for _ in range(200 * count):
        changes = {
            axis.key: axis.values.draw(rng) if isinstance(axis.values, Range) else rng.choice(axis.values)
            for axis in axes
        }
        if changes not in found:
            found.append(changes)
        if len(found) == count:
            break
    return found


def _named(all_changes: Sequence[Mapping[str, Any]]) -> list[Cell]:
    """Folder names that say what is set; a number where two would be alike."""
    cells: list[Cell] = []
    taken: set[str] = set()
    for changes in all_changes:
        words = (f"{key.rpartition('.')[2]}={spell(value)}" for key, value in changes.items())
        name = re.sub(r"[^\w=.,+-]+", "_", ",".join(words))[:80].strip(".") or "run"
        unlike = next(
            n for n in itertools.chain([name], (f"{name}~{i}" for i in itertools.count(2))) if n not in taken
        )
        taken.add(unlike)
        cells.append(Cell(unlike, dict(changes)))
    return cells


def spell(value: Any) -> str:
    """A value as it is typed after key=."""
    if isinstance(value, float):
        return short if float(short := f"{value:g}") == value else repr(value)
    return write_yaml(value, flow=True)
