"""Runs side by side: one recipe, some keys changed, the same number of tokens for each.

runs/x-sweep/ sweep.json                       what is tried, and how many tokens each run sees
              recipes/NAME.yaml                one a cell
              NAME/                            an ordinary run folder each
              cross.json                       every model on the held-out rows of every cut (cross.py)
A sweep that was killed goes on with --resume: runs that ended are kept, one in the middle resumes, exactly.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import FolderError, Interrupted, Problem, RecipeError, UserError
from tunesmith.events import Reporter, Silent
from tunesmith.folder import RunFolder, read_json, write_atomically, write_json
from tunesmith.recipe import Recipe, Tokens, diff, dump
from tunesmith.search.chosen import Read, choose_recipe
from tunesmith.search.cross import cross_evaluate
from tunesmith.search.grid import Cell, make_cells, read_axes
from tunesmith.search.table import table

SCHEMA = 1
ENDED = ("done", "stopped")
# Trains one recipe to its end; returns the problems of a run that failed.
Launch = Callable[[Path, bool, Reporter], list[Problem]]


@dataclass(frozen=True, slots=True)
class Member:
    """One run of a sweep, ready to be started."""

    cell: Cell
    recipe: Recipe
    file: Path

    @property
    def folder(self) -> RunFolder:
        """Where it runs."""
        return RunFolder(Path(self.recipe.output))

    @property
    def status(self) -> str:
        """done, stopped, interrupted, or new where it has no report."""
        report = self.folder.report
        return str(read_json(report)["status"]) if report.exists() else "new"


@dataclass(frozen=True, slots=True)
class SweepFolder:
    """Paths of a sweep."""

    path: Path

    @property
    def spec(self) -> Path:
        """What is tried."""
        return self.path / "sweep.json"

    @property
    def cross(self) -> Path:
        """Every model on every cut."""
        return self.path / "cross.json"


def sweep(
    recipe: str,
    words: Sequence[str],
    *,
    drawn: int | None = None,
    output: str | None = None,
    resume: bool = False,
    reporter: Reporter | None = None,
    launch: Launch | None = None,
) -> dict[str, Any]:
    """Carry out a sweep, or what is left of it; the document of its verb.

    `drawn`: so many cells at random, by the recipe's seed. A run that fails is told in the table; the others go on.
    """
    from tunesmith.search.launch import train_apart

    reporter, launch = reporter or Silent(), launch or train_apart
    fixed, axes = read_axes(words)
    chosen = choose_recipe(recipe, "sweep")
    base = chosen.read(fixed)
    cells = make_cells(axes, drawn, base.seed)
    folder = SweepFolder(Path(output or f"{base.output}-sweep"))
    spec = _spec(base, cells)
    began = _begin(folder, spec, resume)
    _recipes(chosen.read, fixed, cells, folder, began)  # a fault in a value is told before anything heavy
    tokens = began or _equal_tokens(base, cells, reporter)
    members = _members(chosen.read, fixed, cells, folder, tokens)
    write_json(folder.spec, spec | {"tokens": tokens})
    failures: dict[str, list[Problem]] = {}
    for number, member in enumerate(members):
        reporter.progress("sweep", number, len(members))
        if member.status not in ENDED:
            failures[member.cell.name] = _carry_out(member, launch, reporter)
    reporter.progress("sweep", len(members), len(members))
    ended = [member for member in members if member.status in ENDED]
    if not ended:
        raise UserError([problem for name in failures for problem in failures[name]])
    cross = cross_evaluate([(m.cell.name, m.recipe) for m in ended], reporter)
    if cross is not None:
        write_json(folder.cross, cross)
    rows = table([(m.cell.name, m.cell.changes, m.folder, failures.get(m.cell.name, [])) for m in members])
    return {
        "sweep": str(folder.path),
        "recipe": recipe,
        "tokens": tokens,
        "starts": chosen.note,
        "axes": [axis.key for axis in axes],
        **rows,
        "cross": cross,
    }


def _spec(base: Recipe, cells: Sequence[Cell]) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "recipe": base.model_dump(mode="json"),
        "cells": [{"name": cell.name, "changes": dict(cell.changes)} for cell in cells],
    }


def _begin(folder: SweepFolder, spec: dict[str, Any], resume: bool) -> int | None:
    """A new folder, or the tokens of the sweep that is gone on with; more values may be asked for than before."""
    if not folder.spec.exists():
        if folder.path.exists() and any(folder.path.iterdir()):
            raise FolderError.at(
                str(folder.path), "exists already and is no sweep", "choose another: --output NEW"
            )
        return None
    if not resume:
        fix = "go on with it: --resume; or choose another: --output NEW"
        raise FolderError.at(str(folder.path), "this sweep was begun already", fix)
    before = read_json(folder.spec)
    old, new = (Recipe.model_validate(each["recipe"]) for each in (before, spec))
    changed = [
        Problem(
            key,
            f"was {was!r} when the sweep began, is {now!r} now",
            "go on with what it began with, or --output NEW",
        )
        for key, was, now in diff(old, new)
        if key not in ("output", "track")
    ]
    if changed:
        raise RecipeError(changed)
    tokens: int | None = before["tokens"]
    return tokens


def _equal_tokens(base: Recipe, cells: Sequence[Cell], reporter: Reporter) -> int | None:
    """How many tokens each run sees: as many as the recipe itself would. None where the budget is what is swept."""
    from tunesmith import run
    from tunesmith.data.streaming.reading import require_kept

    require_kept(base.data.train, None)  # every run reads the rows anew
    if any(key == "budget" or key.startswith("budget.") for cell in cells for key in cell.changes):
        return None
    if isinstance(base.budget, Tokens):
        return base.budget.tokens
    if any(source.stream is not None for source in base.data.train):
        return None  # of a stream every run takes as many steps
    return run.prepare(base, reporter).steps.total_tokens


def _recipes(
    read: Read, fixed: Sequence[str], cells: Sequence[Cell], folder: SweepFolder, tokens: int | None
) -> list[tuple[Cell, Recipe]]:
    """Every cell as a recipe, all of them valid. RecipeError with the problems of all."""
    made: list[tuple[Cell, Recipe]] = []
    problems: list[Problem] = []
    for cell in cells:
        budget = [f"budget.tokens={tokens}"] if tokens else []
        output = f"output={folder.path / cell.name}"
        try:
            made.append((cell, read([*fixed, *cell.overrides(), *budget, output])))
        except RecipeError as error:
            problems += [Problem(f"{cell.name}: {p.where}", p.what, p.fix) for p in error.problems]
    if problems:
        raise RecipeError(problems)
    return made


def _members(
    read: Read, fixed: Sequence[str], cells: Sequence[Cell], folder: SweepFolder, tokens: int | None
) -> list[Member]:
    """Every cell as a recipe in a file."""
    members = []
    for cell, chosen in _recipes(read, fixed, cells, folder, tokens):
        file = folder.path / "recipes" / f"{cell.name}.yaml"
        write_atomically(file, dump(chosen))
        members.append(Member(cell, chosen, file))
    return members


def _carry_out(member: Member, launch: Launch, reporter: Reporter) -> list[Problem]:
    """Train one cell to its end. What is wrong with it is returned; an interruption is raised."""
    begun = member.folder.recipe.exists()
    stopped = Interrupted(
        [
            Problem(
                str(member.folder.path), "the sweep was stopped here", "go on: the same command and --resume"
            )
        ]
    )
    try:
        problems = launch(member.file, begun, reporter)
    except KeyboardInterrupt:
        raise stopped from None
    if not problems and member.status not in ENDED:
        raise stopped
    return problems
