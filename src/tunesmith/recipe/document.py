"""The recipe as a whole: YAML in, a frozen and checked object out, all problems at once.

load("recipe.yaml", ["optim.lr=2e-4"])  ->  Recipe  ->  dump(recipe) == what the run folder keeps
With `stages` the Recipe speaks as its last stage does, from the first one's model; `stages` holds each by itself.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator

from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe.expand import Part, expand, find, folder_of
from tunesmith.recipe.plain_yaml import parse_yaml, write_yaml
from tunesmith.recipe.problems import problems
from tunesmith.recipe.section import Section
from tunesmith.recipe.sections import (
    Budget,
    Checkpoint,
    Compute,
    Data,
    Epochs,
    Evaluation,
    Model,
    ObjectiveKind,
    Optim,
    Rescue,
    Sharding,
    Steps,
    Task,
    Tokens,
)
from tunesmith.recipe.tuning import TUNING_ALIASES, Lora, Tuning
from tunesmith.recipe.vocabulary import Vocabulary


class Recipe(Section):
    """Everything a run needs to know; the one input."""

    model: Model
    """What is trained."""
    data: Data
    """What is learnt from."""
    tuning: Tuning = Lora(method="lora")
    """How it is changed."""
    objective: ObjectiveKind = "sft"
    """sft learns answers; pretrain learns every token."""
    optim: Optim = Optim()
    """How weights move."""
    budget: Annotated[Budget, Field(validate_default=True)] = Epochs(epochs=1)
    """How long: {epochs: N}, {steps: N} or {tokens: N}."""
    compute: Compute = Compute()
    """Where and how it is computed."""
    evaluation: Evaluation = Evaluation()
    """What is measured."""
    checkpoint: Checkpoint = Checkpoint()
    """When the run is saved."""
    rescue: Rescue = Rescue()
    """What happens when a step goes wrong."""
    sharding: Sharding = Sharding()
    """Over which devices."""
    track: tuple[Literal["tensorboard", "wandb", "trackio", "swanlab", "mlflow"], ...] = ()
    """Who else is told of the run; pip install 'tunesmith[track]' has them all."""
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0
    """Of every random choice."""
    output: str = "runs/my-first-run"
    """The run folder."""
    stages: tuple[Stage, ...] = ()
    """Several recipes in order, each starting from the one before; keys at the top hold for each."""

    @field_validator("track", mode="before")
    @classmethod
    def _one_or_many_trackers(cls, value: Any) -> Any:
        return (value,) if isinstance(value, str) else value

    @field_validator("model", mode="before")
    @classmethod
    def _model_path(cls, value: Any) -> Any:
        return {"path": value} if isinstance(value, str) else value

    @field_validator("tuning", mode="before")
    @classmethod
    def _expand_alias(cls, value: Any) -> Any:
        value = {"method": value} if isinstance(value, str) else value
        method = value.get("method") if isinstance(value, dict) else None
        if isinstance(method, str) and method in TUNING_ALIASES:
            return {**value, **TUNING_ALIASES[value["method"]]}
        return value

    @field_validator("output")
    @classmethod
    def _output_is_a_folder(cls, value: str) -> str:
        if "://" in value:
            raise ValueError(
                "is an address, and a run folder lies on this machine; give a path, such as runs/first"
            )
        return value

    @field_validator("budget", mode="before")
    @classmethod
    def _one_budget(cls, value: Any) -> Any:
        kinds: dict[str, type[Epochs | Steps | Tokens]] = {"epochs": Epochs, "steps": Steps, "tokens": Tokens}
        if isinstance(value, Section):
            return value
        if not isinstance(value, dict):
            raise ValueError(
                "has no amount with what it counts; write {epochs: 1}, {steps: 200} or {tokens: 1000000}"
            )
        if len(value) != 1 or next(iter(value)) not in kinds:
            raise ValueError(
                f"has {', '.join(map(str, value)) or 'nothing'}; keep exactly one of {', '.join(kinds)}"
            )
        name = next(iter(value))
        return kinds[name].model_validate(value)

    @field_validator("objective", mode="before")
    @classmethod
    def _objective_kind(cls, value: Any) -> Any:
        return value["kind"] if isinstance(value, dict) and set(value) == {"kind"} else value

    @field_validator("budget")
    @classmethod
    def _streams_have_a_length(cls, value: Budget, info: ValidationInfo) -> Budget:
        data: Data | None = info.data.get("data")
        streams = [] if data is None else [source.path for source in data.train if source.stream is not None]
        if streams and not isinstance(value, Steps):
            raise ValueError(
                f"counts what a stream does not say: {streams[0]} has no size; say how long to train: {{steps: 200}}"
            )
        return value

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The scored tasks, each with the tags that hold for it: questions are asked as they were learnt."""
        return tuple(
            task if task.tags or not self.data.tags else task.model_copy(update={"tags": self.data.tags})
            for task in self.evaluation.tasks
        )


class Stage(Section):
    """One of several: a recipe of its own, whose model is the stage before; or new tokens for that model."""

    name: str
    """Its name in reports and folders; what it does, where none is given."""
    recipe: Recipe | None = None
    """What it trains. Its output lies in the whole run's folder."""
    vocabulary: Vocabulary | None = None
    """Or the tokens it adds."""


Recipe.model_rebuild()


def load(path: str | Path, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe file and apply key=value overrides, such as optim.lr=2e-4 (values are YAML).

    Raises RecipeError with every problem found.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        what, fix = _no_recipe(path)
        raise RecipeError.at(str(path), what or f"cannot be read: {error.strerror}", fix) from error
    except UnicodeDecodeError as error:
        what, fix = _no_recipe(path)
        raise RecipeError.at(str(path), what or "is not UTF-8 text", fix) from error
    what, fix = _no_recipe(path)
    if what:
        raise RecipeError.at(str(path), what, fix)
    values = parse_yaml(text, str(path))
    if not isinstance(values, dict):
        raise RecipeError.at(
            str(path), "is not a recipe: a mapping of keys is needed", "see the README for one"
        )
    return parse(values, where=str(path), overrides=overrides)


DATA_FILES = frozenset({".jsonl", ".csv", ".tsv", ".parquet", ".arrow", ".txt", ".gz", ".zst"})


def _no_recipe(path: Path) -> tuple[str, str]:
    """What somebody gave in place of a recipe ("" where that cannot be told), and what to do about it."""
    folder = str(path).rstrip("/")
    if path.suffix.lower() in DATA_FILES:
        return "is a data file, not a recipe", f"have one written: tunesmith init --model MODEL --data {path}"
    if not path.is_dir():
        if "=" in path.name and not path.exists():
            return "is no file", "the recipe comes first, then the keys: tunesmith train RECIPE optim.lr=2e-4"
        whole, mark, _ = str(path).rpartition("#")
        if mark and Path(whole).is_file():
            return (
                "is one stage of a recipe",
                f"give all of it, {whole}; single stages are for lr-find and sweep",
            )
        return "", "give the path of a recipe file, as UTF-8 text"
    if (path / "recipe.yaml").is_file():
        return "is a folder with a recipe in it", f"give {folder}/recipe.yaml"
    if (path / "config.json").is_file():
        return (
            "is a model folder, not a recipe",
            f"have one written: tunesmith init --model {folder} --data FILE",
        )
    return "is a folder, not a recipe", "give the path of a recipe file"


def _apply(values: dict[str, Any], override: str) -> Problem | None:
    """Set one dotted key in place. Returns what is wrong with the override, if anything."""
    key, equals, text = override.partition("=")
    if not equals or not key:
        return Problem(override, "is not an override", "write key=value, such as optim.lr=2e-4")
    set_key(values, key, parse_yaml(text, key))
    return None


_SHORT = {"model": "path", "tuning": "method", "objective": "kind", "train": "path"}
"""Sections that may be written as one word, and the key that the word stands for."""


def set_key(values: dict[str, Any], key: str, value: Any, of_stage: bool = False) -> None:
    """Set one dotted key of plain recipe values in place, as an override does; a stage leaves the rest to the top."""
    *parents, last = key.split(".")
    if parents[:1] == ["stages"] and isinstance(values.get("stages"), list):
        stage = find(values["stages"], parents[1] if parents[1:] else last)
        if not isinstance(stage, dict) or not parents[1:]:
            fix = "write stages.NAME.key=value, or stages.0.key=value"
            raise RecipeError.at(key, "names no key of a stage", fix)
        return set_key(stage, ".".join([*parents[2:], last]), value, of_stage=True)
    here: Any = values
    for name in parents:
        if isinstance(here, list):
            item = here[_index(here, name, key)]
            here[int(name)] = here = item if isinstance(item, dict | list) else {"path": item}
            continue
        inner = here.get(name)
        if isinstance(inner, str) and name in _SHORT:
            inner = {_SHORT[name]: inner}
        if name == "tuning" and inner is None and not of_stage:
            inner = {"method": Recipe.model_fields["tuning"].default.method}
        here[name] = here = inner if isinstance(inner, dict | list) else {}
    if isinstance(here, list):
        here[_index(here, last, key)] = value
        return None
    if key == "tuning.method" and here.get("method") != value:
        here.clear()  # only the chosen method's fields exist
    if parents == ["budget"]:
        here.clear()
    here[last] = value
    return None


def _index(items: list[Any], name: str, key: str) -> int:
    """The item of a list that a part of a dotted key names. Raises RecipeError."""
    if not name.isdecimal() or int(name) >= len(items):
        what = f"names no item of a list of {len(items)}: {name!r:.40}"
        raise RecipeError.at(key, what, "give its place, counted from 0")
    return int(name)


def parse(values: Mapping[str, Any], where: str = "recipe", overrides: Sequence[str] = ()) -> Recipe:
    """Check plain values, after key=value overrides. Raises RecipeError with all problems at once."""
    chosen = copy.deepcopy(dict(values))
    misfits = [problem for override in overrides if (problem := _apply(chosen, override))]
    if misfits:
        raise RecipeError(misfits)
    if chosen.get("stages"):
        return _parse_stages(chosen, where)
    try:
        return Recipe.model_validate(chosen)
    except ValidationError as error:
        raise RecipeError(problems(error, Recipe, where)) from error


def _parse_stages(values: dict[str, Any], where: str) -> Recipe:
    """A recipe of several stages. Raises RecipeError with all problems of all stages, each told where it stands."""
    parts, misplaced = expand(values)
    found = {problem.where: replace(problem, where=f"{where}: {problem.where}") for problem in misplaced}
    whole = {key: values[key] for key in ("output", "track") if key in values}
    stages = []
    for part in parts:
        try:
            if part.vocabulary is not None:
                section = Vocabulary.model_validate(part.vocabulary)
                stages.append(Stage(name=part.name, vocabulary=section))
                continue
            recipe = Recipe.model_validate({**part.merged, **whole})
            output = f"{recipe.output}/{folder_of(part.index, part.name)}"
            alone = recipe.model_copy(update={"output": output, "track": ()})
            stages.append(Stage(name=part.name, recipe=alone))
        except ValidationError as error:
            for problem in problems(error, Recipe if part.vocabulary is None else Vocabulary, where):
                place = _place(part, problem.where.removeprefix(f"{where}: "), values)
                found.setdefault(place, replace(problem, where=f"{where}: {place}"))
    if found:
        raise RecipeError(found.values())
    stages = [_with_text(stage, stages[n + 1 :]) for n, stage in enumerate(stages)]
    return recipe.model_copy(update={"stages": tuple(stages)})


def _place(part: Part, key: str, values: dict[str, Any]) -> str:
    """Where a faulty key was written."""
    if part.vocabulary is not None:
        return f"stages.{part.index}.vocabulary.{key}".removesuffix(".recipe")
    return part.where(key, values)


def _with_text(stage: Stage, later: Sequence[Stage]) -> Stage:
    """A vocabulary without data of its own learns from what the next stage learns from."""
    if stage.vocabulary is None or stage.vocabulary.data:
        return stage
    train = next(after.recipe.data.train for after in later if after.recipe is not None)
    return stage.model_copy(update={"vocabulary": stage.vocabulary.model_copy(update={"data": train})})


def values_of(recipe: Recipe) -> dict[str, Any]:
    """The recipe as plain values, every one spelt out, as `parse` takes them."""
    values: dict[str, Any] = recipe.model_dump(mode="json", exclude={"stages"})
    if not recipe.stages:
        return values
    stages = []
    for stage in recipe.stages:
        inner = stage.model_dump(mode="json", exclude={"recipe"}, exclude_none=True)
        if stage.recipe is not None:
            own = values_of(stage.recipe)
            inner |= {key: value for key, value in own.items() if key not in ("model", "output", "track")}
        stages.append(inner)
    return {**{key: values[key] for key in ("model", "output", "track")}, "stages": stages}


def dump(recipe: Recipe) -> str:
    """The recipe as YAML, every value spelt out, aliases expanded; load(dump(r)) == r."""
    return write_yaml(values_of(recipe))


def diff(old: Recipe, new: Recipe) -> list[tuple[str, Any, Any]]:
    """Keys whose values differ: (dotted key, old, new)."""
    flat_old, flat_new = _flatten(values_of(old)), _flatten(values_of(new))
    keys = list(dict.fromkeys([*flat_old, *flat_new]))
    return [(k, flat_old.get(k), flat_new.get(k)) for k in keys if flat_old.get(k) != flat_new.get(k)]


def _flatten(value: Any, prefix: str = "") -> dict[str, Any]:
    if prefix == "stages" and isinstance(value, list):
        value = {stage["name"]: stage for stage in value}
    if not isinstance(value, dict) or not value:
        return {prefix: value}
    flat: dict[str, Any] = {}
    for key, inner in value.items():
        flat |= _flatten(inner, f"{prefix}.{key}" if prefix else str(key))
    return flat
