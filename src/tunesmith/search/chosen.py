"""Which recipe is searched: a whole one, or one stage of several, as a recipe of its own.

recipe.yaml                   load(recipe.yaml, words)
recipe.yaml#chat              the stage's keys, from what the stage before handed over; else from the base, told
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import RecipeError
from tunesmith.recipe import Recipe, Stage, load, parse
from tunesmith.stages.plan import begun, stage_folders

Read = Callable[[Sequence[str]], Recipe]


@dataclass(frozen=True, slots=True)
class Chosen:
    """read(overrides) -> the recipe; note: what it starts from, where that is not what the whole run would have.

    prefix: what stands before its keys in the file: "stages.chat.".
    """

    read: Read
    note: str | None = None
    prefix: str = ""


def choose_recipe(target: str, verb: str) -> Chosen:
    """The recipe at `target`. Raises RecipeError for a recipe with stages of which none is named."""
    file, _, name = (target, "", "") if Path(target).exists() else target.partition("#")
    whole = load(file)
    if not name:
        _require_single(whole, verb, file)
        return Chosen(lambda words: load(file, words))
    number, stage = _named(whole, name, file)
    recipe, note = _alone(whole, number, stage)
    values = recipe.model_dump(mode="json")
    return Chosen(lambda words: parse(values, target, words), note, f"stages.{name}.")


def _require_single(recipe: Recipe, verb: str, file: str) -> None:
    if recipe.stages:
        names = [stage.name for stage in recipe.stages if stage.recipe is not None]
        what = f"{verb} looks at one stage, and this recipe has several"
        raise RecipeError.at("stages", what, f"name one: {' or '.join(f'{file}#{name}' for name in names)}")


def _named(recipe: Recipe, name: str, file: str) -> tuple[int, Recipe]:
    """Number and recipe of a training stage."""
    trains = {
        stage.name: (n, stage.recipe) for n, stage in enumerate(recipe.stages) if stage.recipe is not None
    }
    if name not in trains:
        fix = f"one of: {', '.join(f'{file}#{known}' for known in trains)}" if trains else f"give {file}"
        raise RecipeError.at(f"{file}#{name}", "there is no such training stage", fix)
    return trains[name]


def _alone(whole: Recipe, number: int, stage: Recipe) -> tuple[Recipe, str | None]:
    """A stage as a recipe of its own, beside the whole run's output; what it starts from, where that is the base."""
    name = whole.stages[number].name
    alone = stage.model_copy(update={"output": f"{whole.output}-{name}", "track": whole.track, "stages": ()})
    if number == 0:
        return alone, None
    before = stage_folders(whole)[number - 1]
    if before.handed_over is not None:
        return begun(whole, number, alone), None
    _require_no_new_words(whole.stages[:number], name)
    model = alone.model_copy(update={"model": whole.model})
    return model, f"from {whole.model.path or 'a new model'}: {before.path} is not trained yet"


def _require_no_new_words(before: Sequence[Stage], name: str) -> None:
    if words := next((stage.name for stage in before if stage.vocabulary is not None), None):
        what = f"reads the words of stage {words}, which are not made yet"
        fix = "train up to it (tunesmith train RECIPE, Ctrl-C in the stage), then ask again"
        raise RecipeError.at(f"stage {name}", what, fix)
