"""Recipes of several stages are not searched: which stage a rate or a length is of, nobody could say."""

from __future__ import annotations

from tunesmith.errors import RecipeError
from tunesmith.recipe import Recipe


def require_single(recipe: Recipe, verb: str) -> None:
    """Raise RecipeError for a recipe with stages."""
    if recipe.stages:
        names = ", ".join(stage.name for stage in recipe.stages)
        what = f"{verb} looks at one stage, and this recipe has several ({names})"
        raise RecipeError.at("stages", what, "write the stage's keys into a recipe of its own, and give that")
