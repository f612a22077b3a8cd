"""The recipe of a run folder, read where the folder stands now: a stage starts from the one beside it.

runs/x/stages/02-sft/recipe.yaml says model: runs/x/stages/01-pretrain/model    mv runs/x old/x -> old/x/stages/01-...
"""

from __future__ import annotations

from pathlib import Path

from tunesmith.errors import FolderError
from tunesmith.folder import RunFolder, open_run
from tunesmith.recipe import Recipe, load


def recipe_of(run: RunFolder) -> Recipe:
    """The recipe of a run. Raises RecipeError where another version wrote it."""
    recipe = load(run.recipe)
    before = run.stage_before
    if before is None or before.handed_over is None:
        return recipe
    model = recipe.model.model_copy(update={"path": str(before.handed_over)})
    return recipe.model_copy(update={"model": model})


def trained_run(path: str | Path) -> RunFolder:
    """The run whose weights `path` stands for: itself, or its last stage. Raises FolderError where that is to come."""
    run = open_run(path)
    if not run.last.recipe.is_file():
        fix = f"finish it first: {run.resume_words}"
        raise FolderError.at(str(path), "the run has not come to its last stage", fix)
    return run.last
