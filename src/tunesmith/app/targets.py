"""What the words after a verb mean: RECIPE|FILE is a recipe or data, --tasks are names or files.

"rows.jsonl" + --model M -> a recipe of these two        "sums,cmmlu/law.csv" -> (Task(sums), Task(law))
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

from tunesmith import recipe as recipes
from tunesmith.data.files import KNOWN, PACKED
from tunesmith.data.gather import objective_of
from tunesmith.errors import Problem, RecipeError
from tunesmith.folder import RECIPES, is_run, open_run
from tunesmith.recipe import Recipe, Task
from tunesmith.recipe.probes import read_probes

NO_MODEL = "."
"""Stands where a model would, in a recipe made for a data file alone."""


def recipe_of(target: str, model: str | None, overrides: Sequence[str] = (), *, model_needed: bool) -> Recipe:
    """The recipe at `target`, that of a run folder, or one made for a data file and --model.

    Of a recipe in stages `recipe.yaml#NAME` is one; without a name it is the last.
    """
    file, _, stage = target.partition("#") if not Path(target).exists() else (target, "", "")
    path = Path(file)
    if is_run(path) or path.suffix.lower() not in KNOWN | PACKED:
        found = recipes.load(open_run(path).recipe if is_run(path) else path, overrides)
        return _with_model(_stage_of(found, stage, file) if stage else found, model)
    if model is None and model_needed:
        raise RecipeError.at(
            target, "is data: tokens and labels depend on a model", "add --model MODEL, or give a recipe"
        )
    values = {
        "model": model or NO_MODEL,
        "data": {"train": target, "validation": None},
        "objective": objective_of(target),
    }
    return recipes.parse(values, target, overrides)


def _stage_of(recipe: Recipe, name: str, target: str) -> Recipe:
    """One stage, with the first one's model. Raises RecipeError naming those there are."""
    trains = {stage.name: stage.recipe for stage in recipe.stages if stage.recipe is not None}
    if name not in trains:
        fix = f"one of: {', '.join(f'{target}#{known}' for known in trains)}" if trains else f"give {target}"
        raise RecipeError.at(f"{target}#{name}", "there is no such training stage", fix)
    return trains[name]


def recipe_of_files(target: str, words: Sequence[str], model: str | None) -> Recipe:
    """The recipe at `target`, or one made for data files; words with an = that are no file change its keys."""
    overrides = [word for word in words if "=" in word and not Path(word).exists()]
    more = [word for word in words if word not in overrides]
    if not _is_data(target):
        if more:
            fix = "give data files alone, or a recipe and keys to change: data.limit=100"
            raise RecipeError.at(more[0], "stands behind a recipe, which names its own files", fix)
        return recipe_of(target, model, overrides, model_needed=False)
    files = [target, *more]
    kinds = {objective_of(file) for file in files}
    values = {
        "model": model or NO_MODEL,
        "data": {"train": files, "validation": None},
        "objective": "pretrain" if "pretrain" in kinds else "sft",
    }
    return recipes.parse(values, target, overrides)


def _is_data(target: str) -> bool:
    """Whether a name means data: by its suffix, or because it is neither a recipe nor a run."""
    path = Path(target)
    return not is_run(path) and path.suffix.lower() not in RECIPES and not (path / "recipe.yaml").is_file()


def _with_model(found: Recipe, model: str | None) -> Recipe:
    if model is None:
        return found
    return found.model_copy(update={"model": recipes.Model(path=model)})


def tasks_of(words: Sequence[str], target: str) -> tuple[Task, ...] | None:
    """The tasks named by --tasks; None where it was not given, which means the run's own."""
    if not words:
        return None
    known = {task.name: task for task in _own_tasks(target)}
    chosen: dict[str, Task] = {}
    problems: list[Problem] = []
    for word in (part for item in words for part in item.split(",") if part):
        for found in _tasks(word, known, problems):
            chosen[found.name] = found
    if problems:
        raise RecipeError(problems)
    return tuple(chosen.values())


def probes_of(name: str | None) -> tuple[str, ...] | None:
    """The questions in the file named by --probes; None where it was not given, which means the run's own."""
    if name is None:
        return None
    try:
        return read_probes(name)
    except ValueError as error:
        fix = 'give a YAML file that lists them: - "question"'
        raise RecipeError.at("--probes", str(error), fix) from None


def _own_tasks(target: str) -> tuple[Task, ...]:
    return recipes.load(open_run(target).recipe).tasks if is_run(target) else ()


def _tasks(word: str, known: dict[str, Task], problems: list[Problem]) -> Iterator[Task]:
    """A task of the run by its name, the tasks of a recipe file, or a file of items."""
    path = Path(word)
    if word in known:
        yield known[word]
    elif path.suffix.lower() in RECIPES:
        tasks = recipes.load(path).tasks
        if not tasks:
            fix = "give a recipe with evaluation.tasks, or a file of items"
            problems.append(Problem(f"--tasks {word}", "is a recipe without tasks", fix))
        yield from tasks
    elif path.is_file():
        yield Task(name=_name(path), kind=_kind(path), path=word)
    else:
        names = f"tasks of this run: {', '.join(known)}" if known else "this model has no tasks of its own"
        problems.append(Problem(f"--tasks {word}", "is neither a task nor a file", f"give a file; {names}"))


def _name(path: Path) -> str:
    kept = "".join(
        char if char.isascii() and (char.isalnum() or char in "_.-") else "_" for char in path.stem
    )
    return kept if kept[:1].isalnum() else f"task{kept}"


def _kind(path: Path) -> Literal["choice", "generate"]:
    """Items with options are multiple choice, others are answered freely."""
    if path.suffix.lower() == ".csv":
        return "choice"
    try:
        with open(path, encoding="utf-8-sig") as file:
            first = json.loads(next((line for line in file if line.strip()), "{}"))
    except (OSError, ValueError):
        return "generate"
    return "choice" if isinstance(first, dict) and {"options", "choices"} & first.keys() else "generate"
