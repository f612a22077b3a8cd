"""What was counted and traced of an unknown family, kept for the next process: no torch is loaded to say it again.

config's values + versions of torch and transformers + this room's code  ->  ~/.cache/tunesmith/traced/KEY.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from tunesmith.data.cache import code_hash
from tunesmith.folder import cache_root, write_atomically
from tunesmith.model.config import FoundConfig
from tunesmith.model.facts import Asked, Kept, ModelFacts, Skeleton
from tunesmith.recipe import Model

Answers = dict[Asked, Kept | None]


@dataclass(frozen=True, slots=True)
class _Document:
    """A file: the facts, whether a layer of them can be run, and what such runs gave."""

    facts: ModelFacts | None = None
    runs: bool = False
    answers: list[tuple[Asked, Kept | None]] = field(default_factory=list)


def counted_facts(model: Model, found: FoundConfig) -> ModelFacts:
    """What an earlier process counted of such a config, else counted now, on the model without its weights."""
    # code of the model's own may change under its config
    own_code = bool(found.values.get("auto_map")) and model.trust_remote_code
    file = None if own_code else place_of(found.values)

    def count() -> ModelFacts:
        from tunesmith.model.skeleton import count_skeleton

        return count_skeleton(model, found, file)

    known = recall(file, count)
    if known is None:
        remember(file, known := count())
    return replace(known, name=found.name, kind=found.kind)


@cache
def _form() -> TypeAdapter[_Document]:
    return TypeAdapter(_Document)


def place_of(values: Mapping[str, Any]) -> Path | None:
    """Where what is known of a config lies; None without a home directory."""
    told = (json.dumps(values, sort_keys=True, default=str), version("torch"), version("transformers"))
    digest = hashlib.sha256(repr((*told, code_hash("model"))).encode()).hexdigest()
    try:
        return cache_root() / "traced" / f"{digest[:32]}.json"
    except RuntimeError:
        return None


def recall(file: Path | None, count: Callable[[], ModelFacts]) -> ModelFacts | None:
    """The facts as they were counted before; None where nobody did. `count` builds the model, for a new question."""
    found = _read(file)
    if found.facts is None or found.facts.skeleton is None:
        return None
    trace = _Known(dict(found.answers), count) if found.runs else None
    return replace(found.facts, skeleton=replace(found.facts.skeleton, trace=trace))


class _Known:
    """Answers from the file; a question that was not put before goes to the model itself, built anew."""

    def __init__(self, answers: Answers, count: Callable[[], ModelFacts]) -> None:
        self.answers, self.count = answers, count
        self.built: ModelFacts | None = None

    def __call__(self, asked: Asked) -> Kept | None:
        """What is kept for the backward pass."""
        if asked in self.answers:
            return self.answers[asked]
        self.built = self.built or self.count()
        self.answers[asked] = found = self.built.trace(asked)
        return found


def remember(file: Path | None, facts: ModelFacts) -> None:
    """Keep what was counted, with the answers that are there."""
    skeleton = facts.skeleton
    if skeleton is not None:
        bare = replace(facts, skeleton=Skeleton(skeleton.named, skeleton.linears, skeleton.outside))
        _write(file, replace(_read(file), facts=bare, runs=skeleton.trace is not None))


def known_answers(file: Path | None) -> Answers:
    """What was traced before; nothing where that cannot be read."""
    return dict(_read(file).answers)


def keep_answers(file: Path | None, answers: Answers) -> None:
    """Keep what was traced, beside the facts."""
    _write(file, replace(_read(file), answers=list(answers.items())))


def _read(file: Path | None) -> _Document:
    try:
        return _form().validate_json(file.read_bytes()) if file else _Document()
    except (OSError, ValueError):
        return _Document()


def _write(file: Path | None, document: _Document) -> None:
    """A place that cannot be written is no reason to fail a plan."""
    try:
        if file:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(file, _form().dump_json(document).decode())
    except OSError:
        return
