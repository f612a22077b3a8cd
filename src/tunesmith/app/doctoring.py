"""The verbs that look after data: check and clean. No logic lives here."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from tunesmith.app.answer import Answer, document_of
from tunesmith.app.progress import reporting
from tunesmith.app.verbs import OUT, Json, OptionalModel, Whole, names
from tunesmith.errors import UserError

Files = Annotated[str, Parameter(name="RECIPE|FILE", help="A recipe, a run folder, or data files.")]
Words = Annotated[str, Parameter(name="FILE|KEY=VALUE", help="More data files, or recipe keys to change.")]
RuleFiles = Annotated[
    list[str] | None,
    Parameter(name="--rules", help="Rules of your own: a .yaml file, or a .py file (it is run as code)."),
]


def data_check(
    target: Files,
    /,
    *words: Words,
    model: OptionalModel = None,
    rules: RuleFiles = None,
    examples: Annotated[Whole, Parameter(name="--examples", help="Examples of each finding.")] = 5,
    model_score: Annotated[
        bool,
        Parameter(
            name="--model-score",
            help="Let the base model weigh suspected typos and name unlikely texts. Slow on a CPU.",
            show_default=False,
        ),
    ] = False,
    png: Annotated[
        str | None, Parameter(name="--png", help="Draw lengths, turns, sources and findings into this file.")
    ] = None,
    json: Json = False,
) -> Answer:
    """Find what is wrong with data, and what to do about it.

    Duplicates, leaks into validation and tasks, wrong encodings, personal data, cut-off answers, unbalanced sources
    and more: each with how many rows, file:row examples and the remedy. Changes nothing; see `data clean`.
    """
    from tunesmith import run
    from tunesmith.app.render import check, picture, pile
    from tunesmith.app.targets import recipe_of_files
    from tunesmith.readable import require_model

    if examples < 1:
        raise UserError.at("--examples", f"must be at least 1, got {examples}", "try --examples 5")
    if png is not None:
        picture.require_png(Path(png))
    recipe = recipe_of_files(target, words, model)
    if model_score and recipe.model.path == ".":
        raise UserError.at("--model-score", "needs a model", "add --model MODEL")
    if model is not None:
        require_model(recipe.model)
    with reporting() as reporter:
        found = run.check(recipe, reporter, rules=rules or (), examples=examples, model_score=model_score)
    if png is not None:
        pile.save(found, Path(png), target)
    document = document_of(found) | {"png": png}

    def page(document: dict[str, Any]) -> object:
        return check.page(document, target, examples)

    return Answer(document, page, json, code=0 if document["ok"] else 2)


def data_clean(
    target: Annotated[
        str | None,
        Parameter(name="RECIPE|FILE", help="A recipe, whose train files are cleaned, or data files."),
    ] = None,
    /,
    *words: Words,
    out: Annotated[str, Parameter(name=OUT, help="Folder of the cleaned copies; with --undo, the file.")],
    rules: RuleFiles = None,
    also: Annotated[
        list[str] | None, Parameter(name="--with", help="Steps beside the usual ones, with commas between.")
    ] = None,
    without: Annotated[
        list[str] | None, Parameter(name="--without", help="Usual steps that are not wanted.")
    ] = None,
    undo: Annotated[
        str | None, Parameter(name="--undo", help="A report: give back the original, byte for byte.")
    ] = None,
    json: Json = False,
) -> Answer:
    """A cleaned copy of data, with a report that undoes it. The original is not touched.

    Unasked: encoding, control, invisible, line_ends, unreadable, duplicates. More with --with: html, fillers, typos,
    personal, tags, placeholders, refusals, unfit, cut_off, leaks, near_duplicates. Cleaning twice is cleaning once.
    """
    from tunesmith import run
    from tunesmith.app.render import cleaned
    from tunesmith.app.targets import recipe_of_files
    from tunesmith.data.clean import restore

    if undo is not None:
        return Answer(restore(Path(undo), Path(out)), cleaned.restored, json)
    if target is None:
        raise UserError.at("data clean", "needs data", "give a recipe or files, or --undo REPORT")
    recipe = recipe_of_files(target, words, None)
    with reporting() as reporter:
        found = run.clean(
            recipe, Path(out), reporter, rules=rules or (), also=names(also), without=names(without)
        )
    return Answer(found, lambda document: cleaned.page(document, target), json)
