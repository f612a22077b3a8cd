"""What pydantic found, in the user's words: the key, what is wrong with it, the nearest valid one.

{"modle": ...} -> recipe: modle: is not a known key / fix: did you mean model? valid here: ...
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, get_args

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from tunesmith.errors import Problem
from tunesmith.recipe.habits import HABITS
from tunesmith.recipe.tuning import TUNING_ALIASES

# Parts of pydantic's locations that name a member of a union, not a key of the user's.
_NOT_KEYS = {"Epochs", "Steps", "Tokens", "constrained-int", "constrained-float", "str"}

_PLAIN = {
    **dict.fromkeys(("int_parsing", "int_type", "int_from_float"), "is no whole number"),
    **dict.fromkeys(("float_parsing", "float_type"), "is no number"),
    **dict.fromkeys(("bool_parsing", "bool_type"), "is neither true nor false"),
    "dict_type": "is no mapping of keys",
    "string_type": "is no text",
    "list_type": "is no list",
}


def problems(error: ValidationError, root: type[BaseModel], where: str) -> list[Problem]:
    """Every fault of a recipe, once each. `root` is the model that was validated, `where` names the file."""
    words = _Words(root, where)
    return _told_once([words.problem(detail) for detail in error.errors()])


def _told_once(found: list[Problem]) -> list[Problem]:
    """One problem a place. A value that fits no member of a union fails each; a list fails with its items."""
    first: dict[str, Problem] = {}
    for problem in found:
        known = first.setdefault(problem.where, problem)
        if known is not problem and problem.fix.startswith("one of") and not known.fix.startswith("one of"):
            first[problem.where] = replace(known, fix=f"{known.fix} Or {problem.fix}")
    outer = {place for place in first if any(other.startswith(f"{place}.") for other in first)}
    return [problem for place, problem in first.items() if place not in outer]


class _Words:
    """Knows the sections of a recipe by the key or tag that leads to them."""

    def __init__(self, root: type[BaseModel], where: str) -> None:
        self.root, self.where = root, where
        self.sections = dict(_sections(root))
        self.tags = {
            key for key in self.sections if key not in root.model_fields and _is_tag(self.sections[key], key)
        }

    def problem(self, detail: ErrorDetails) -> Problem:
        """One fault: where, what, fix."""
        loc = [str(part) for part in detail["loc"]]
        unknown = loc[-1:] if detail["type"] == "extra_forbidden" else []  # the user's, whatever it is called
        known = loc[: len(loc) - len(unknown)]
        keys = [part for part in known if part not in _NOT_KEYS | self.tags and "[" not in part] + unknown
        place = f"{self.where}: {'.'.join(keys) or 'recipe'}"
        section = self._section(loc)
        match detail["type"]:
            case "extra_forbidden":
                fix = f"{self._meant(keys[-1], section)}valid here: {', '.join(sorted(section.model_fields))}"
                return Problem(place, "is not a known key", fix)
            case "missing":
                return Problem(place, "is missing", f"add {keys[-1]}: to the recipe")
            case "union_tag_invalid":
                names = [*str(detail["ctx"]["expected_tags"]).replace("'", "").split(", "), *TUNING_ALIASES]
                tag = str(detail["ctx"]["tag"])
                near = difflib.get_close_matches(tag, names, n=1)
                fix = f"did you mean {near[0]}? " if near else ""
                return Problem(
                    f"{place}.method", f"{tag!r} does not exist", f"{fix}one of: {', '.join(names)}"
                )
            case "union_tag_not_found":
                return Problem(f"{place}.method", "is missing", f"one of: {', '.join(sorted(self.tags))}")
            case "model_type" | "dict_type" if keys and (name := _name(loc)) in self.sections:
                inner = self.sections[name].model_fields
                first = next((key for key, field in inner.items() if field.is_required()), "")
                item = "-" if loc[-1].isdigit() else f"{name}:"
                such = f"such as {item} {{{first}: ...}}; " if first else ""
                what = f"has keys of its own, got {detail['input']!r:.80}"
                return Problem(place, what, f"{such}keys there: {', '.join(sorted(inner))}")
            case "literal_error":
                expected = f"one of: {detail['ctx']['expected']}"
                return Problem(place, f"{detail['input']!r:.80} does not exist", expected)
            case "value_error" if "; " in detail["msg"]:
                what, _, fix = detail["msg"].removeprefix("Value error, ").rpartition("; ")
                return Problem(place, what, fix)
            case "string_type" if isinstance(detail["input"], bool | int | float):  # a commit called 1234567
                what = f"is no text without quotes (got {detail['input']!r:.80})"
                return Problem(place, what, "put what is meant in quotes")
            case _:
                message = _PLAIN.get(detail["type"], detail["msg"].removeprefix("Value error, "))
                message = message.replace("Input should be", "must be")
                field = section.model_fields.get(keys[-1]) if keys else None
                help_text = (field.description if field else None) or "see the README for a recipe"
                return Problem(place, f"{message} (got {detail['input']!r:.80})", help_text)

    def _meant(self, key: str, section: type[BaseModel]) -> str:
        """The place where a recipe keeps such a thing, or a near key of the section; nothing if unknown."""
        if key in HABITS:
            return f"it is called {HABITS[key]} here; "
        for outer, field in self.root.model_fields.items():
            if outer != "stages" and any(key in inner.model_fields for inner in _members(field.annotation)):
                return f"it belongs into {outer}: {outer}.{key}; "
        if near := difflib.get_close_matches(key, section.model_fields, n=1):
            return f"did you mean {near[0]}? "
        habit = difflib.get_close_matches(key, HABITS, n=1, cutoff=0.8)
        return f"did you mean {HABITS[habit[0]]}? " if habit else ""

    def _section(self, loc: list[str]) -> type[BaseModel]:
        """The section that holds the last part of `loc`."""
        found = self.root
        for part in loc[:-1]:
            found = self.sections.get(part, found)
        return found


def _name(loc: list[str]) -> str:
    """The key that `loc` ends with; of an item of a list, the list's."""
    return next((part for part in reversed(loc) if not part.isdigit()), "")


def _sections(section: type[BaseModel]) -> Iterator[tuple[str, type[BaseModel]]]:
    """(key or tag, section) of everything nested in a section."""
    for name, field in section.model_fields.items():
        if name == "stages":  # each is a recipe again, and validated by itself
            continue
        members = list(_members(field.annotation))
        for member in members:
            # of a union with tags each member is found by its tag, else by the key
            method = member.model_fields.get("method")
            yield (get_args(method.annotation)[0] if method else name), member
            yield from _sections(member)


def _members(annotation: Any) -> Iterator[type[BaseModel]]:
    """Sections named anywhere in a type."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from _members(inner)


def _is_tag(section: type[BaseModel], key: str) -> bool:
    method = section.model_fields.get("method")
    return method is not None and key in get_args(method.annotation)
