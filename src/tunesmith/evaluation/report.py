"""The report of a run: report.json for programs, report.md for a person.

before + after + ledger + plan + what the engine measured -> {"schema": 1, "status", "before", "after", ...}
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from tunesmith import events
from tunesmith.evaluation.forgetting import compare, compare_heldout
from tunesmith.evaluation.report_text import to_markdown
from tunesmith.evaluation.scores import Evaluated
from tunesmith.folder import RunFolder, write_atomically, write_json

if TYPE_CHECKING:
    from tunesmith.data.ledger import Ledger
    from tunesmith.model.facts import ModelFacts
    from tunesmith.recipe import Recipe


class Forecast(Protocol):
    """What the report reads of a plan."""

    @property
    def peak_bytes(self) -> int:
        """Predicted peak."""

    @property
    def seconds(self) -> float | None:
        """Predicted time: steps, evaluations between them, saves, frozen layers once."""


class Spent(Protocol):
    """What the report reads of the engine's progress; totals of all finite steps."""

    @property
    def step(self) -> int:
        """Steps done."""

    @property
    def tokens(self) -> int:
        """Real tokens read."""

    @property
    def targets(self) -> int:
        """Tokens learnt from."""

    @property
    def seconds(self) -> float:
        """Time of the steps."""

    @property
    def best_step(self) -> int | None:
        """Where the held-out loss was lowest."""


class Fitted(Protocol):
    """How the engine ended."""

    @property
    def status(self) -> str:
        """done, stopped or interrupted."""

    @property
    def progress(self) -> Spent:
        """Totals."""


def write_report(
    folder: RunFolder,
    recipe: Recipe,
    *,
    before: Evaluated | None,
    after: Evaluated | None,
    test: Evaluated | None,
    ledger: Ledger,
    plan: Forecast,
    fit: Fitted,
    facts: ModelFacts,
    trainable: int,
    trunk: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Write report.json and report.md; return the JSON. `after` is null while a run is interrupted.

    trunk: the frozen layers that were computed once, and what that saved.
    """
    happened = list(events.read(folder.events))
    report = {
        "schema": 1,
        "status": fit.status,
        "before": before.scores if before else None,
        "after": after.scores if after else None,
        "test": test.scores if test else None,
        "forgetting": compare(before, after, recipe.evaluation.tasks) if before and after else {},
        "heldout_change": compare_heldout(before.heldout, after.heldout) if before and after else None,
        "ledger": ledger.to_json(),
        "plan": _plan_against_measured(plan, fit.progress, happened, trunk),
        "training": _training(fit.progress),
        "parameters": {"total": facts.parameters, "trainable": trainable},
        "trunk": trunk,
    }
    write_json(folder.report, report)
    write_atomically(folder.report_text, to_markdown(report, recipe, folder, happened))
    return report


def _training(progress: Spent) -> dict[str, Any]:
    return {
        "steps": progress.step,
        "tokens": progress.tokens,
        "targets": progress.targets,
        "seconds": progress.seconds,
        "best_step": progress.best_step,
    }


def _plan_against_measured(
    plan: Forecast, progress: Spent, happened: list[dict[str, Any]], trunk: dict[str, Any] | None
) -> dict[str, Any]:
    """Forecast and measurement of the same things, side by side; null where there is none.

    Checkpoints are written beside the steps: of a save only its copy takes time, and that is too little to be measured.
    """
    peaks = [event["peak_bytes"] for event in happened if event.get("kind") == "stepped"]
    between = sum(event["seconds"] for event in happened if event.get("kind") == "evaluated")
    return {
        "predicted_peak_bytes": plan.peak_bytes,
        "measured_peak_bytes": max(peaks, default=None),
        "predicted_seconds": plan.seconds,
        "measured_seconds": progress.seconds + between + (trunk["filled_seconds"] if trunk else 0.0),
    }
