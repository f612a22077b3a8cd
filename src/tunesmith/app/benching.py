"""`tunesmith bench`: what this machine does with a recipe, and how right the memory forecast is."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tunesmith.app.answer import Answer
from tunesmith.app.progress import reporting
from tunesmith.app.verbs import OUT, Json, Overrides, Whole
from tunesmith.errors import UserError
from tunesmith.events import Reporter
from tunesmith.folder import write_json


def bench(
    recipe: Annotated[
        str | None, Parameter(name="RECIPE", help="Recipe file; none: the bundled model and data.")
    ] = None,
    /,
    *overrides: Overrides,
    memory: Annotated[
        bool,
        Parameter(
            name="--memory", help="Hold the memory forecast against a matrix of models.", show_default=False
        ),
    ] = False,
    steps: Annotated[Whole, Parameter(name="--steps", help="Steps that are timed.")] = 5,
    out: Annotated[str | None, Parameter(name=OUT, help="Write the document to this new file, too.")] = None,
    json: Json = False,
) -> Answer:
    """Speed and memory on this machine.

    A few steps of a recipe: tokens a second, share of the machine's peak, forecast against measured memory and time,
    and where a step's time goes. With --memory: the forecast in some forty cells, each in a process of its own.
    """
    from tunesmith.app.render import bench as pages
    from tunesmith.recipe.edit import require_free

    if steps < 1:
        raise UserError.at("--steps", f"must be at least 1, got {steps}", "try --steps 5")
    if recipe and "=" in recipe and not Path(recipe).exists():  # overrides of the bundled recipe
        overrides = (recipe, *overrides)
        recipe = None
    if out:
        require_free(Path(out), "--out")
    if memory:
        from tunesmith.bench.memory import bench_memory, keep

        if recipe:
            raise UserError.at("--memory", "has models of its own", "leave the recipe out")
        with reporting() as reporter:
            document = bench_memory(reporter)
        keep(document)
        page, code = pages.memory_page, 0 if document["passed"] else 2
    else:
        with reporting() as reporter:
            document = _speed(recipe, overrides, steps, reporter)
        page, code = pages.speed_page, 0
    if out:
        write_json(Path(out), document)
    return Answer(document, page, json, code=code)


def _speed(recipe: str | None, overrides: tuple[str, ...], steps: int, reporter: Reporter) -> dict[str, Any]:
    """The recipe's document; without one, the demo's recipe on the bundled model."""
    from tunesmith import run
    from tunesmith.app.stage import recipe_text
    from tunesmith.recipe import load, parse
    from tunesmith.recipe.plain_yaml import parse_yaml

    if recipe is None:
        name = "the bundled recipe"
        chosen = parse(parse_yaml(recipe_text(), name), where=name, overrides=overrides)
    else:
        chosen = load(recipe, list(overrides))
    # what a step takes that computes every layer
    compute = chosen.compute.model_copy(update={"trunk_cache": "off"})
    work = run.prepare(chosen.model_copy(update={"compute": compute}), reporter)
    from tunesmith.bench.speed import bench_speed  # loads torch: only for a recipe that can be run

    return {"recipe": recipe or "bundled", **bench_speed(work, steps, reporter)}
