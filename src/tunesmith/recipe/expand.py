"""Several recipes in one: keys at the top are what each stage begins with, the stage's own keys come on top.

{max_length: 512, stages: [{name: a, data: ..}, {data: .., max_length: 64}]}  ->  two plain recipes, values and names
Plain values in, plain values out; what they mean is checked by document.py.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.errors import Problem
from tunesmith.recipe.tuning import TUNING_ALIASES

WHOLE = ("output", "track", "stages")  # of the whole, not of a stage
_KINDS = {"tuning": "method", "model": "path", "objective": "kind"}
_ONE_OF = ("budget", "objective")  # sections that are replaced, never mixed
Values = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """One stage as plain values: `own` as it was written, `merged` on top of the defaults; a recipe or a vocabulary."""

    index: int
    name: str
    own: Values
    merged: Values
    vocabulary: Any = None

    def where(self, key: str, defaults: Mapping[str, Any]) -> str:
        """Where a key of the merged values was written: in the stage, or at the top."""
        if not _holds(self.own, key) and _holds(defaults, key):
            return key
        return f"stages.{self.index}.{key}"


def folder_of(index: int, name: str) -> str:
    """The folder of a stage, inside the run's: stages/02-sft."""
    return f"stages/{index + 1:02d}-{name}"


def find(stages: Sequence[Any], key: str) -> Any:
    """The stage that a part of an override names, by number from 0 or by name; None where there is none."""
    if key.isdigit():
        return stages[int(key)] if int(key) < len(stages) else None
    return next((stage for stage, name in zip(stages, names(stages)) if name == key), None)


def names(stages: Sequence[Any]) -> list[str]:
    """A name for each: its own, else what it does; one that stands twice gets a number."""
    found: list[str] = []
    for stage in stages:
        name = stage.get("name") if isinstance(stage, dict) else None
        if not isinstance(name, str):
            name = _does(stage)
            name = name if name not in found else f"{name}-{sum(n.startswith(name) for n in found) + 1}"
        found.append(name)
    return found


def _does(stage: Any) -> str:
    if not isinstance(stage, dict):
        return "stage"
    if "vocabulary" in stage:
        return "vocabulary"
    objective = stage.get("objective", "sft")
    return str(objective.get("kind", "sft") if isinstance(objective, dict) else objective)


def expand(values: Mapping[str, Any]) -> tuple[list[Part], list[Problem]]:
    """The stages of a recipe, and what is wrong with how they are written."""
    stages = values["stages"]
    if not isinstance(stages, list) or not all(isinstance(stage, dict) and stage for stage in stages):
        fix = "write each stage as a mapping: stages: [{objective: pretrain, data: ...}, {data: ...}]"
        return [], [Problem("stages", "needs a list of recipes, each starting from the one before", fix)]
    defaults = {key: value for key, value in values.items() if key not in WHOLE}
    problems: list[Problem] = []
    parts = []
    called = names(stages)
    for index, (name, stage) in enumerate(zip(called, stages)):
        problems += _misnamed(index, stage.get("name", name), called[:index])
        own = {key: value for key, value in stage.items() if key != "name"}
        problems += _misplaced(index, own)
        own = {key: value for key, value in own.items() if key not in WHOLE}
        if "vocabulary" in own:
            problems += _not_of_vocabulary(index, own, len(stages))
            vocabulary = {} if own["vocabulary"] is None else own["vocabulary"]
            parts.append(Part(index, name, own, _model_of(defaults, own), vocabulary))
        else:
            if index:
                own.pop("model", None)
            parts.append(Part(index, name, own, _merge(defaults, own)))
    first = parts[0].merged.get("model") if parts else None
    if first is not None:  # the later ones begin with what the one before hands over
        for part in parts[1:]:
            part.merged["model"] = first
    return parts, problems


def _misplaced(index: int, own: Values) -> list[Problem]:
    """Keys of a stage that belong to the whole, or to the first stage."""
    found = [
        Problem(f"stages.{index}.{key}", "is of the whole run, not of a stage", f"move it to the top: {key}:")
        for key in WHOLE
        if key in own
    ]
    if index and "model" in own:
        what = "a stage starts from the one before"
        found.append(Problem(f"stages.{index}.model", what, "leave it out; model: stands at the top"))
    return found


def _not_of_vocabulary(index: int, own: Values, stages: int) -> list[Problem]:
    found = [
        Problem(
            f"stages.{index}.{key}", "a vocabulary trains nothing by itself", "move it to the stage behind it"
        )
        for key in own
        if key not in ("vocabulary", "model")
    ]
    if index == stages - 1:
        what, fix = "nothing learns its new tokens", "put a training stage behind it, or use: tunesmith vocab"
        found.append(Problem(f"stages.{index}.vocabulary", what, fix))
    return found


def _misnamed(index: int, name: Any, others: Sequence[str]) -> list[Problem]:
    """A name becomes that of a folder, and stands once."""
    where, fix = f"stages.{index}.name", "letters, digits, and _ . - behind the first, such as sft-2"
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        return [Problem(where, f"{name!r:.80} cannot name a folder", fix)]
    return [Problem(where, f"{name!r} stands twice", "give it another name")] if name in others else []


def _model_of(defaults: Mapping[str, Any], own: Values) -> Values:
    return {key: source["model"] for source in (defaults, own) for key in ("model",) if key in source}


def _merge(defaults: Mapping[str, Any], own: Mapping[str, Any], within: str = "") -> Values:
    """`own` on top of `defaults`, section by section; another method or budget replaces the whole section."""
    merged = dict(defaults)
    for key, value in own.items():
        before = merged.get(key)
        if not within and key in _KINDS:
            before, value = _spelt(key, before), _spelt(key, value)
        if isinstance(before, dict) and isinstance(value, dict) and not _replaces(within, key, before, value):
            merged[key] = _merge(before, value, within or key)
        else:
            merged[key] = value
    return merged


def _spelt(key: str, value: Any) -> Any:
    return {_KINDS[key]: value} if isinstance(value, str) else value


def _replaces(within: str, key: str, before: Values, value: Values) -> bool:
    if not within and key in _ONE_OF:
        return True
    method = value.get("method")
    return not within and key == "tuning" and method is not None and _plain(before) != _plain(value)


def _plain(tuning: Values) -> Any:
    method = tuning.get("method")
    return TUNING_ALIASES.get(method, {"method": method})["method"] if isinstance(method, str) else method


def _holds(values: Any, key: str) -> bool:
    """Whether a dotted key was written in these values, as far as they are mappings and lists."""
    here = values
    for name in key.split("."):
        if isinstance(here, dict):
            if name not in here:
                return False
            here = here[name]
        elif isinstance(here, list) and name.isdigit() and int(name) < len(here):
            here = here[int(name)]
        else:
            return True
    return True
