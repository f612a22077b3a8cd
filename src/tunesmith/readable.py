"""Whether what a command names can be read at all: told in a moment, before a heavy library is loaded.

recipe -> config of the model, rows of each data file     RUN|MODEL -> its recipe, its config, its adapter
No torch, no transformers; whatever is found here is found all at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Literal

from tunesmith.data.files import files_of
from tunesmith.data.gather import open_source
from tunesmith.data.streaming.reading import require_kept
from tunesmith.errors import Problem, UserError
from tunesmith.evaluation.tasks import read_tasks
from tunesmith.folder import is_run
from tunesmith.model.adapted import is_adapter, read_adapter
from tunesmith.model.config import read_config
from tunesmith.model.run_recipe import recipe_of, trained_run
from tunesmith.model.trained import trained_folder
from tunesmith.recipe import Model, Recipe, Source


def require_readable(
    recipe: Recipe,
    *,
    model: bool = True,
    rows: Literal["learnt", "counted", "shown"] = "learnt",
    kept: Path | None = None,
) -> None:
    """The model and every file a recipe reads. Raises the first kind of UserError met, with all problems.

    `model` is left out where the recipe's model is yet to be made. `rows`: what will be done with them; only for
    showing them a bad one is no fault. `kept`: where a run keeps what leaves a pipe.
    """
    looks: list[Callable[[], object]] = [partial(require_model, recipe.model)] if model else []
    looks += [
        *(_looks_at(recipe) if rows == "shown" else [partial(_require_rows, recipe, rows == "learnt")]),
        partial(read_tasks, recipe.tasks),
        partial(require_kept, recipe.data.train, kept),
    ]
    _raise_all(looks)


def require_sources(sources: Iterable[Source]) -> None:
    """Every data file. Raises DataError with all problems."""
    _raise_all([partial(open_source, source) for source in sources])


def require_model(model: Model) -> None:
    """A recipe's model, wherever it is: raises ModelError, or what is wrong with the run it came from."""
    if model.path is not None and is_run(model.path):
        trained_folder(trained_run(model.path))
    read_config(model)


def require_openable(target: str | Path) -> None:
    """A run that was trained, an adapter with its base, a model folder or a hub id. Raises UserError."""
    model = Model(path=str(target))
    require_model(model)
    if is_run(target):
        read_config(recipe_of(trained_run(target)).model)
    elif is_adapter(target):
        require_model(read_adapter(model).base)


def _require_rows(recipe: Recipe, training: bool) -> None:
    from tunesmith.data.early import require_rows

    require_rows(recipe.data, recipe.objective, training)


def _looks_at(recipe: Recipe) -> list[Callable[[], object]]:
    """A look at each data file that will be read; a stream is not touched, what is taken from it is gone."""
    data = recipe.data
    held_out = [part for part in (data.validation, data.test) if isinstance(part, str)]
    looks = [partial(open_source, source) for source in data.train if source.stream is None]
    return [*looks, *(partial(files_of, part) for part in held_out)]


def _raise_all(looks: Iterable[Callable[[], object]]) -> None:
    """Take every look; raise what the first fault was, with the problems of all."""
    first: UserError | None = None
    problems: list[Problem] = []
    for look in looks:
        try:
            look()
        except UserError as error:
            first = first or error
            problems += [problem for problem in error.problems if problem not in problems]
    if first is not None:
        raise type(first)(problems)
