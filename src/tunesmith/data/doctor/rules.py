"""The rules a person may change, read from YAML: filler words, refusals, unfit content, suspected typos, steps.

rules.yaml (comes with Tunesmith)  +  --rules mine.yaml (lists replaced, mappings added to)  ->  Rules
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError, field_validator

from tunesmith.data.doctor.custom import OwnRules, load_own
from tunesmith.errors import Problem, UserError
from tunesmith.recipe import Section, Tags
from tunesmith.recipe.plain_yaml import parse_yaml
from tunesmith.recipe.problems import problems

Place = Literal["answers", "questions", "texts", "all"]


class Unfit(Section):
    """Content that does not belong."""

    pattern: str
    """A regular expression."""
    where: Place = Field("all", alias="in")
    """answers, questions, texts or all."""
    why: str = "does not belong here"
    """Said with each case."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, value: str) -> str:
        return _require_pattern(value)


class RuleFile(Section):
    """What a rules file may hold."""

    fillers: tuple[str, ...] | None = None
    """Sounds without meaning, marked where they stand by themselves."""
    refusals: tuple[str, ...] | None = None
    """Regular expressions tried at the beginning of an answer."""
    unfit: dict[str, Unfit | None] = Field(default_factory=dict)
    """NAME: {pattern, in, why}."""
    typos: dict[str, str | None] = Field(default_factory=dict)
    """Regular expression: what was meant."""
    steps: tuple[str, ...] | None = None
    """What `data clean` does."""
    near: float = Field(0.8, gt=0.3, le=1)
    """Share of common word triples from which two rows are near duplicates."""
    tags: Tags | None = None
    """Columns that `data clean` writes into the prompt."""

    @field_validator("refusals")
    @classmethod
    def _each_compiles(cls, value: tuple[str, ...] | None) -> tuple[str, ...] | None:
        return value and tuple(map(_require_pattern, value))

    @field_validator("typos")
    @classmethod
    def _keys_compile(cls, value: dict[str, str | None]) -> dict[str, str | None]:
        for pattern, meant in value.items():
            if meant is not None:
                try:
                    re.compile(_require_pattern(pattern)).sub(meant, "")
                    re._parser.parse_template(meant, re.compile(pattern))  # type: ignore[attr-defined]
                except (re.error, IndexError) as error:
                    raise ValueError(f"{meant!r} is no replacement for {pattern!r}: {error}") from error
        return value


def _require_pattern(value: str) -> str:
    try:
        compiled = re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from error
    if compiled.search("") is not None:
        raise ValueError(f"{value!r} matches nothing at all, so it would match everywhere")
    return value


@dataclass(frozen=True, slots=True)
class Banned:
    """Content that does not belong, ready to be looked for."""

    name: str
    pattern: re.Pattern[str]
    where: Place
    why: str


@dataclass(frozen=True, slots=True)
class Typo:
    """A suspected slip. `needs` is a piece of text without which the pattern cannot match: cheap to look for."""

    pattern: re.Pattern[str]
    needs: str
    meant: str


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules in force, compiled. `fillers` and `refusals` are None where their list is empty."""

    fillers: re.Pattern[str] | None
    refusals: re.Pattern[str] | None
    unfit: tuple[Banned, ...]
    typos: tuple[Typo, ...]
    steps: tuple[str, ...] | None
    near: float
    tags: Tags | None


def load_rules(files: Sequence[str | Path] = ()) -> Rules:
    """The rules that come with Tunesmith, changed by the files in their order. Raises UserError."""
    merged = _shipped()
    for file in files:
        merged = _merge(merged, _read(Path(file)))
    return _compile(merged)


@lru_cache(maxsize=1)
def _shipped() -> RuleFile:
    text = resources.files(__package__).joinpath("rules.yaml").read_text(encoding="utf-8")
    return RuleFile.model_validate(parse_yaml(text, "rules.yaml"))


def _read(path: Path) -> RuleFile:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        message = getattr(error, "strerror", None) or "is not UTF-8 text"
        raise UserError.at(str(path), f"cannot be read: {message}", "give a YAML file of rules") from error
    values = parse_yaml(text, str(path))
    if not isinstance(values, Mapping):
        keys = ", ".join(RuleFile.model_fields)
        raise UserError.at(str(path), "is no mapping of rules", f"keys are {keys}")
    try:
        return RuleFile.model_validate(values)
    except ValidationError as error:
        raise UserError(problems(error, RuleFile, str(path))) from error


def _merge(below: RuleFile, above: RuleFile) -> RuleFile:
    """Lists of the upper take the place of the lower's; mappings are joined, a null takes an entry away."""
    update: dict[str, Any] = {name: getattr(above, name) for name in above.model_fields_set}
    for name in ("unfit", "typos"):
        joined = {**getattr(below, name), **getattr(above, name)}
        update[name] = {key: value for key, value in joined.items() if value is not None}
    return below.model_copy(update=update)


def _compile(rules: RuleFile) -> Rules:
    # longest first, so that "umm" is not taken for "um"
    words = sorted(rules.fillers or (), key=len, reverse=True)
    sounds = "|".join(_sound(word) for word in words)
    edge = r"(?:^|(?<=[，。！？、；：,.!?;:…~～\s\"“”‘’—-]))"
    close = r"(?=[，。！？、；：,.!?;:…~～\"”’—-]|$)"
    fillers = f"{edge}(?:{sounds}){close}"
    unfit = [(name, rule) for name, rule in rules.unfit.items() if rule is not None]
    return Rules(
        fillers=re.compile(fillers, re.IGNORECASE | re.MULTILINE) if words else None,
        refusals=re.compile("|".join(f"(?:{p})" for p in rules.refusals), re.IGNORECASE)
        if rules.refusals
        else None,
        unfit=tuple(Banned(n, re.compile(r.pattern, re.IGNORECASE), r.where, r.why) for n, r in unfit),
        typos=tuple(
            Typo(re.compile(p), _literal(p), meant) for p, meant in rules.typos.items() if meant is not None
        ),
        steps=rules.steps,
        near=rules.near,
        tags=rules.tags,
    )


def _literal(pattern: str) -> str:
    """The longest text that stands in every match of a pattern, by its own parse; "" where that cannot be told."""
    best = run = ""
    for kind, value in re._parser.parse(pattern):  # type: ignore[attr-defined]
        run = run + chr(value) if str(kind) == "LITERAL" else ""
        best = max(best, run, key=len)
    return best


def _sound(word: str) -> str:
    """A filler, drawn out or doubled: 嗯 is 嗯嗯嗯 too, um is ummm."""
    quoted = re.escape(word)
    if not word.isascii():
        return f"(?:{quoted})+"
    return f"{quoted}{word[-1]}*" if word[-1] in "mh" else quoted


def require(known: Sequence[str], wanted: Sequence[str], where: str) -> None:
    """Refuse names that are not among the known ones, each with the nearest."""
    import difflib

    wrong = [name for name in wanted if name not in known]
    if wrong:
        near = [difflib.get_close_matches(name, known, n=1) for name in wrong]
        raise UserError(
            Problem(
                where,
                f"{name!r:.60} does not exist",
                (f"did you mean {close[0]}? " if close else "") + f"there are {', '.join(known)}",
            )
            for name, close in zip(wrong, near)
        )


def load_all(files: Sequence[str | Path]) -> tuple[Rules, OwnRules]:
    """Rules from YAML and from Python files, told apart by their suffix. Raises UserError."""
    code = [file for file in files if str(file).endswith(".py")]
    return load_rules([file for file in files if file not in code]), load_own(code)
