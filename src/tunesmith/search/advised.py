"""A recipe with the advice on it taken, again and again until no advice with a change is left; comments kept.

text -> plan -> changes of the advice -> text -> plan -> ... -> Advised(text, what was changed and why)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import Problem, RecipeError
from tunesmith.events import Reporter
from tunesmith.recipe import Recipe, load
from tunesmith.recipe.edit import with_changes
from tunesmith.recipe.plain_yaml import parse_yaml
from tunesmith.search.grid import spell

if TYPE_CHECKING:
    from tunesmith.plan.device import Device

ROUNDS = 10
TITLE = "# Changed by `tunesmith plan --apply`, and why:"


@dataclass(frozen=True, slots=True)
class Change:
    """One key that was changed: by which rule, and why."""

    key: str
    old: Any
    value: Any
    rule: str
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class Advised:
    """The recipe's text with the advice taken, and its plan's document. `changes` in the order they were made in."""

    text: str
    recipe: Recipe
    plan: dict[str, Any]
    changes: tuple[Change, ...]
    comments_kept: bool

    def to_json(self) -> dict[str, Any]:
        """What was changed."""
        return {"changes": [asdict(change) for change in self.changes], "comments_kept": self.comments_kept}


def take_advice(
    text: str,
    where: str,
    own: Mapping[str, Any] | None = None,
    reporter: Reporter | None = None,
    device: Device | None = None,
    title: str = TITLE,
) -> Advised:
    """Plan, change, plan again. Raises what planning raises.

    own: changes of the user's, made first; title: stands above the account of the changes.
    """
    from tunesmith import run

    edited = with_changes(text, dict(own or {}), where)
    changes: list[Change] = []
    kept = edited.comments_kept
    for _ in range(ROUNDS):
        plan = run.plan_on(edited.recipe, reporter, device)
        new = _next(plan, edited.recipe, changes)
        if not new:
            break
        edited = with_changes(edited.text, {change.key: change.value for change in new}, where)
        kept = kept and edited.comments_kept
        changes += new
    return Advised(_told(edited.text, changes, title), edited.recipe, plan, tuple(changes), kept)


def _next(plan: dict[str, Any], recipe: Recipe, done: list[Change]) -> list[Change]:
    """Changes of the advice, one a key. A value that was there before is not gone back to: two rules disagree."""
    values = recipe.model_dump(mode="json")
    before = [(change.key, value) for change in done for value in (change.old, change.value)]
    found: dict[str, Change] = {}
    for advice in plan["advice"]:
        for key, value in advice["change"].items():
            if key not in found and (key, value) not in before:
                old = _value_at(values, key)
                found[key] = Change(key, old, value, advice["rule"], advice["reason"], advice["source"])
    return list(found.values())


def _value_at(values: Any, key: str) -> Any:
    parents = key.split(".")
    if parents[0] == "stages":
        stage: dict[str, Any] = next((each for each in values["stages"] if each["name"] == parents[1]), {})
        values, parents = stage.get("recipe"), parents[2:]
    for name in parents:
        values = values.get(name) if isinstance(values, dict) else None
    return values


def _told(text: str, changes: list[Change], title: str) -> str:
    """The text with an account of the changes before it."""
    if not changes:
        return text
    lines = [title]
    for change in changes:
        old = "unset" if change.old is None else _short(change.old)
        lines.append(f"#   {change.key}: {old} -> {_short(change.value)}  {change.rule}: {change.reason}")
    return "\n".join([*lines, "", text])


def _short(value: Any) -> str:
    words = spell(value)
    return words if len(words) <= 40 else words[:39] + "…"


def require_recipe_text(path: str) -> str:
    """The text of a recipe file. Raises RecipeError as `load` does."""
    load(path)  # says what is wrong with it
    return Path(path).read_text(encoding="utf-8")


def own_changes(overrides: Sequence[str]) -> dict[str, Any]:
    """key=value words as changes. Raises RecipeError for what is none."""
    wrong = [word for word in overrides if "=" not in word.lstrip("=")]
    if wrong:
        fix = "write key=value, such as optim.lr=2e-4"
        raise RecipeError([Problem(word, "is not an override", fix) for word in wrong])
    parts = (word.partition("=") for word in overrides)
    return {key: parse_yaml(text, key) for key, _, text in parts}
