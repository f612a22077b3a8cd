"""The verbs before a run: init, plan, lr-find, sweep. No logic lives here."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from tunesmith.app.answer import Answer, document_of
from tunesmith.app.progress import reporting
from tunesmith.app.staging import laid_out
from tunesmith.app.verbs import OUT, Json, Overrides, RecipeFile, Whole

StageFile = Annotated[
    str, Parameter(name="RECIPE", help="Recipe file (YAML); RECIPE#NAME: one of its stages.")
]
Picture = Annotated[str | None, Parameter(name="--png", help="Draw it into this file.")]


def init(
    *,
    model: Annotated[str, Parameter(name="--model", help="Hub id, local folder or run folder.")],
    data: Annotated[list[str], Parameter(name="--data", help="A data file; may be given several times.")],
    goal: Annotated[
        Literal["dialogue", "domain", "task"] | None,
        Parameter(name="--goal", help="What for; told from the data where it is left out."),
    ] = None,
    memory: Annotated[
        str | None, Parameter(name="--memory", help="For another device: 24GB, cpu:64GB, 4090.")
    ] = None,
    output: Annotated[str, Parameter(name=OUT, help="The new recipe file.")] = "recipe.yaml",
    json: Json = False,
) -> Answer:
    """Write a first recipe for a model and data; each choice names its reason.

    Looks at both and takes the advice there is. A file of general questions is put beside it, for the forgetting
    report.
    """
    from tunesmith.app.render import advised as pages
    from tunesmith.plan.cards import device_with
    from tunesmith.plan.device import find_device
    from tunesmith.readable import require_readable
    from tunesmith.recipe import parse
    from tunesmith.search.begin import begin, to_json

    require_readable(parse({"model": model, "data": {"train": list(data)}}), rows="shown")
    here = find_device()
    device = device_with(memory, here) if memory else here
    file = Path(output)
    general = file.with_name(f"{file.stem}.general.jsonl")
    with reporting() as reporter, laid_out(file, general):
        found = begin(model, data, goal, device, str(general), reporter)
        file.write_text(found.text, encoding="utf-8")
    document = to_json(found, out=output, plan=found.plan)
    return Answer(document, pages.begun, json)


def plan(
    recipe: RecipeFile,
    /,
    *overrides: Overrides,
    memory: Annotated[
        str | None,
        Parameter(
            name="--memory", help="Plan for another device: a size (24GB, cpu:64GB) or a card (4090, H200)."
        ),
    ] = None,
    fix: Annotated[
        str | None, Parameter(name="--fix", help="Write the nearest recipe that fits to this new file.")
    ] = None,
    picture: Annotated[
        str | None,
        Parameter(name="--picture", help="Draw the memory, phase by phase, into this .png or .svg."),
    ] = None,
    apply: Annotated[
        str | None,
        Parameter(
            name="--apply", help="Write the recipe with the advice taken, comments kept, to this new file."
        ),
    ] = None,
    json: Json = False,
) -> Answer:
    """What a run will cost, and what is advised, before it starts.

    Memory by term, time and disk, from the model's config and the data's lengths; no weight is loaded.
    """
    if apply is not None:
        return write_advised(recipe, overrides, apply, memory, json)
    from tunesmith import run
    from tunesmith.app import planning
    from tunesmith.app.render import plan as pages
    from tunesmith.app.render import plan_picture
    from tunesmith.recipe import load
    from tunesmith.recipe.edit import require_new_recipe

    if fix is not None:
        require_new_recipe(Path(fix), "--fix")
    with reporting() as reporter:
        found = run.plan(load(recipe, overrides), reporter=reporter, **({"memory": memory} if memory else {}))
    if picture:
        plan_picture.save(found, Path(picture), Path(recipe).name)
    if fix:
        output = planning.write_fitting(recipe, overrides, found, fix)
    files = {name: file for name, file in (("fixed", fix), ("picture", picture)) if file}
    files |= {"fixed_output": output} if fix else {}
    return Answer(document_of(found) | files, lambda document: pages.page(document, recipe), json)


def write_advised(recipe: str, overrides: Sequence[str], out: str, memory: str | None, json: bool) -> Answer:
    """`plan --apply`: the recipe with overrides and advice in it, written to a new file, and its plan."""
    from tunesmith.app.render import advised as pages
    from tunesmith.folder import write_atomically
    from tunesmith.plan.cards import device_with
    from tunesmith.plan.device import find_device
    from tunesmith.recipe.edit import require_new_recipe
    from tunesmith.search.advised import own_changes, require_recipe_text, take_advice

    require_new_recipe(Path(out), "--apply")
    text, own = require_recipe_text(recipe), own_changes(overrides)
    device = device_with(memory, find_device()) if memory else None
    with reporting() as reporter:
        found = take_advice(text, recipe, own, reporter, device)
    write_atomically(Path(out), found.text)
    document = found.plan | {"applied": {"out": out, **found.to_json()}}
    return Answer(document, lambda it: pages.applied(it, recipe), json)


def lr_find(
    recipe: StageFile,
    /,
    *overrides: Overrides,
    steps: Annotated[Whole, Parameter(name="--steps", help="Steps of the test, one rate each.")] = 60,
    low: Annotated[
        float | None, Parameter(name="--from", help="First rate; null: a hundredth of the usual.")
    ] = None,
    high: Annotated[
        float | None, Parameter(name="--to", help="Last rate; null: a thousand times the usual.")
    ] = None,
    png: Picture = None,
    json: Json = False,
) -> Answer:
    """The learning rate that suits model, data and method.

    A short run whose rate rises at every step, until the loss does. Nothing is kept of it: no run folder, no weight.
    """
    from tunesmith.app.render import picture, rates
    from tunesmith.search.chosen import choose_recipe
    from tunesmith.search.rates import find_rate

    if png is not None:
        picture.require_png(Path(png))
    chosen = choose_recipe(recipe, "lr-find")
    with reporting() as reporter:
        found = find_rate(chosen.read(overrides), steps=steps, low=low, high=high, reporter=reporter)
    if png is not None:
        rates.save(found, Path(png), recipe)
    return Answer(
        found | {"starts": chosen.note, "key": f"{chosen.prefix}optim.lr", "png": png},
        lambda document: rates.page(document, recipe),
        json,
    )


def sweep(
    recipe: StageFile,
    /,
    *axes: Annotated[
        str, Parameter(name="KEY=A,B,C", help="Keys and the values to try; key=LOW..HIGH with --random.")
    ],
    drawn: Annotated[
        Whole | None, Parameter(name="--random", help="So many combinations, drawn by the recipe's seed.")
    ] = None,
    output: Annotated[
        str | None, Parameter(name=OUT, help="Folder of the sweep; the recipe's output and -sweep.")
    ] = None,
    resume: Annotated[
        bool, Parameter(name="--resume", help="Go on with a sweep; what ended is kept.", show_default=False)
    ] = False,
    png: Picture = None,
    json: Json = False,
) -> Answer:
    """Runs side by side: every combination of some keys, at equal tokens.

    Each is an ordinary run folder in one sweep folder. Where they cut the data differently, each model is measured
    on the held-out rows of every cut.
    """
    from tunesmith.app.render import picture
    from tunesmith.app.render import sweep as pages
    from tunesmith.search.sweep import sweep as carry_out

    if png is not None:
        picture.require_png(Path(png))
    with reporting() as reporter:
        found = carry_out(recipe, axes, drawn=drawn, output=output, resume=resume, reporter=reporter)
    if png is not None:
        pages.save(found, Path(png))
    failed = any(run["status"] == "failed" for run in found["runs"])
    return Answer(found | {"png": png}, pages.page, json, code=2 if failed else 0)
