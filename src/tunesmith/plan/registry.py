"""The runs that lie beside a recipe's output, as rungs climbed: rows, then method, then size (note 002, tips 1 to 8).

runs/a (limit 100, lora, 0.5B) done   runs/b (all rows, lora, 0.5B) done   ->  next: another method, then a larger model
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.errors import RecipeError
from tunesmith.folder import RunFolder, read_json
from tunesmith.plan.case import Advice, Case
from tunesmith.recipe import Recipe, load

MOST_RUNS = 200
FIRST_ROWS, FEW_FOR_A_LADDER = 100, 1000
LONG_SECONDS = 1800.0
SOURCE = "note 002, tips 1, 5 and 8"


@dataclass(frozen=True, slots=True)
class PastRun:
    """A run that ended, on the same data."""

    name: str
    limit: int | None
    model: str | None
    parameters: int
    tuning: str

    @property
    def saw_all(self) -> bool:
        """Whether it learnt from all rows."""
        return self.limit is None


def read_runs(recipe: Recipe) -> tuple[PastRun, ...]:
    """Ended runs beside the recipe's output that learnt from one of its files, oldest first."""
    output = Path(recipe.output)
    try:
        places = [place for place in output.parent.iterdir() if place != output and place.is_dir()]
    except OSError:
        return ()
    found = [RunFolder(place) for place in places if (place / "recipe.yaml").is_file()]
    found.sort(key=lambda folder: folder.recipe.stat().st_mtime)
    paths = {source.path for source in recipe.data.train}
    return tuple(_ended(found[-MOST_RUNS:], paths))


def _ended(folders: Sequence[RunFolder], paths: set[str]) -> Iterator[PastRun]:
    for folder in folders:
        try:
            report, past = read_json(folder.report), load(folder.recipe)
            parameters = int(report["parameters"]["total"])
        except (OSError, ValueError, KeyError, TypeError, RecipeError):
            continue  # still running, or of another version
        if report.get("status") in ("done", "stopped") and paths & {
            source.path for source in past.data.train
        }:
            yield PastRun(
                folder.path.name, past.data.limit, past.model.path, parameters, past.tuning.model_dump_json()
            )


def ladder(case: Case) -> Advice | None:
    """The order in which to grow: a hundred rows, all rows, the method, the size."""
    if case.runs is None or case.data is None or case.new_model:
        return None
    for look in (_begin_small, _all_rows_now, _rows_before_size, _method_before_size, _one_at_a_time):
        if (advice := look(case, case.runs)) is not None:
            return advice
    return None


def _begin_small(case: Case, runs: Sequence[PastRun]) -> Advice | None:
    assert case.data is not None
    long = case.seconds is not None and case.seconds > LONG_SECONDS
    if runs or case.recipe.data.limit or not long or case.data.rows <= FEW_FOR_A_LADDER:
        return None
    hours = (case.seconds or 0) / 3600
    return Advice(
        "ladder",
        f"the first run on these {case.data.rows:,} rows would take {hours:.1f} hours; one of {FIRST_ROWS} rows "
        "takes minutes and shows a wrong column or template as well",
        SOURCE,
        {"data.limit": FIRST_ROWS},
    )


def _all_rows_now(case: Case, runs: Sequence[PastRun]) -> Advice | None:
    limit = case.recipe.data.limit
    mine = case.recipe.model.path, case.recipe.tuning.model_dump_json()
    tried = [run for run in runs if run.limit is not None and (run.model, run.tuning) == mine]
    if limit is None or not any(run.limit is not None and run.limit >= limit for run in tried):
        return None
    return Advice(
        "ladder",
        f"{tried[-1].name} went to its end on {tried[-1].limit} rows with this model and method: all rows are next",
        SOURCE,
        {"data.limit": None},
    )


def _rows_before_size(case: Case, runs: Sequence[PastRun]) -> Advice | None:
    if not _larger(case, runs) or any(run.saw_all for run in runs):
        return None
    return Advice(
        "ladder",
        f"a larger model before the smaller one ({_smaller(case, runs)}) has seen all rows: more rows cost less",
        SOURCE,
    )


def _method_before_size(case: Case, runs: Sequence[PastRun]) -> Advice | None:
    full = [run for run in runs if run.saw_all]
    if not full or not _larger(case, full) or len({run.tuning for run in full}) > 1:
        return None
    return Advice(
        "ladder",
        f"a larger model before a second method was tried on the smaller one ({_smaller(case, full)}): another "
        "rank or method costs less than size",
        SOURCE,
    )


def _one_at_a_time(case: Case, runs: Sequence[PastRun]) -> Advice | None:
    if not runs:
        return None
    last, recipe = runs[-1], case.recipe
    if last.model == recipe.model.path or last.tuning == recipe.tuning.model_dump_json():
        return None
    if any(run.model == recipe.model.path or run.tuning == recipe.tuning.model_dump_json() for run in runs):
        return None
    return Advice(
        "ladder",
        f"model and method both differ from {last.name}: change one at a time, or nobody knows which one helped",
        SOURCE,
    )


def _larger(case: Case, runs: Sequence[PastRun]) -> bool:
    return bool(runs) and case.facts.parameters > 1.5 * max(run.parameters for run in runs)


def _smaller(case: Case, runs: Sequence[PastRun]) -> str:
    return runs[-1].name
