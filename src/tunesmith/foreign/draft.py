"""A recipe in the making: each key of the other tool is taken, and what became of it is written down.

{"lora_rank": 8}  --take, put("tuning.rank", 8)-->  Translated(lora_rank = 8 -> tuning.rank = 8)
every key given ends in exactly one of: translated, left
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from tunesmith.errors import RecipeError
from tunesmith.recipe import Recipe, parse

UNSET = "unset"
SECRETS = ("hub_token", "api_key", "secret", "webhook", "auth_token", "password")


@dataclass(frozen=True, slots=True)
class Translated:
    """Keys of the other tool that became a key of the recipe. `how` is empty where nothing had to be said."""

    keys: dict[str, Any]
    to: str
    becomes: Any
    how: str


@dataclass(frozen=True, slots=True)
class Assumed:
    """A recipe key written because the other tool's silence means something else than ours."""

    to: str
    becomes: Any
    why: str


@dataclass(frozen=True, slots=True)
class Left:
    """A key without a counterpart: what it meant there, and what happens here instead."""

    key: str
    value: Any
    meaning: str


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a file: a recipe, and an account of every key."""

    tool: str
    why: str
    recipe: Recipe
    values: dict[str, Any]
    translated: tuple[Translated, ...]
    assumed: tuple[Assumed, ...]
    left: tuple[Left, ...]


@dataclass
class Draft:
    """The other tool's settings by our name for them, and the recipe so far."""

    tool: str
    given: Mapping[str, Any]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)
    values: dict[str, Any] = field(default_factory=lambda: {"model": {}, "data": {}})
    translated: list[Translated] = field(default_factory=list)
    assumed: list[Assumed] = field(default_factory=list)
    left: list[Left] = field(default_factory=list)
    _seen: set[str] = field(default_factory=set)

    def has(self, key: str) -> bool:
        """Whether the user wrote this key, with a value."""
        return self.given.get(key) is not None

    def value(self, key: str) -> Any:
        """What the user wrote, or what the other tool takes where nothing is written."""
        return self.given[key] if self.has(key) else self.defaults.get(key)

    def name(self, key: str) -> str:
        """The key as the user spelt it."""
        return self.names.get(key, key)

    def put(self, to: str, becomes: Any, keys: str | Sequence[str], how: str = "") -> None:
        """Write `to` into the recipe. Of `keys`, those the user gave are accounted for."""
        keys = [keys] if isinstance(keys, str) else list(keys)
        self._write(to, becomes)
        known = {self.name(key): self.given[key] for key in keys if self.has(key)}
        self._seen |= set(keys)
        if known:
            self.translated.append(Translated(known, to, becomes, how))
        else:
            named = ", ".join(f"{key} {self.defaults[key]}" for key in keys if key in self.defaults)
            self.assumed.append(Assumed(to, becomes, how or f"{self.tool}'s default: {named}"))

    def account(self, keys: str | Sequence[str], how: str, to: str = "") -> None:
        """Say what became of keys that need no key of their own in the recipe."""
        wanted = [keys] if isinstance(keys, str) else list(keys)
        known = {self.name(key): self.given[key] for key in wanted if self.has(key) and key not in self._seen}
        self._seen |= set(wanted)
        if known:
            self.translated.append(Translated(known, to, None, how))

    def leave(self, key: str, meaning: str) -> None:
        """A key that was given has no counterpart."""
        if self.has(key) and key not in self._seen:
            self._seen.add(key)
            value = "(not shown)" if any(word in key for word in SECRETS) else self.given[key]
            self.left.append(Left(self.name(key), value, meaning))

    def offers(self, **sections: Any) -> bool:
        """Whether this version's recipe has these values: offers(tuning={"method": "dora"})."""
        try:
            parse({"model": "m", "data": {"train": "rows.jsonl"}, **sections})
        except RecipeError:
            return False
        return True

    def rest(self, meanings: Mapping[str, str]) -> None:
        """Every key not yet spoken of is left, with its meaning where it is known."""
        for key in self.given:
            if key in self._seen:
                continue
            unknown = f"not a key of {self.tool} that is known here; check its spelling"
            if self.given[key] is None:
                self.left.append(Left(self.name(key), None, UNSET))
            self.leave(key, meanings.get(key, unknown))

    def done(self, why: str) -> Imported:
        """The recipe, checked. Raises RecipeError with every value that is none of ours."""
        recipe = parse(self.values, f"recipe from {self.tool}")
        return Imported(
            self.tool,
            why,
            recipe,
            self.values,
            tuple(self.translated),
            tuple(self.assumed),
            tuple(self.left),
        )

    def _write(self, to: str, becomes: Any) -> None:
        here = self.values
        *parents, last = to.split(".")
        for name in parents:
            here = here.setdefault(name, {})
        here[last] = becomes


def listed(value: Any) -> list[str]:
    """A list of names, written as a list or with commas between."""
    if value is None:
        return []
    items = value if isinstance(value, list | tuple) else str(value).split(",")
    return [str(item).strip() for item in items if str(item).strip()]


def truthy(value: Any) -> bool:
    """Whether a switch is on, however it is written."""
    return value is True or (isinstance(value, str) and value.strip().lower() in ("true", "yes", "1", "on"))


def number(value: Any) -> float | int | None:
    """A number, also where it was written as text (YAML 1.1 reads 1e-4 as text in other tools)."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, int | float):
        return value
    try:
        found = float(str(value))
    except ValueError:
        return None
    return (
        int(found)
        if found.is_integer() and "." not in str(value) and "e" not in str(value).lower()
        else found
    )
