"""`tunesmith plan`: the forecast, for this device or another, as a page, a picture or a recipe that fits."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain, count
from pathlib import Path
from typing import Any

from tunesmith.errors import DoesNotFitError
from tunesmith.folder import RunFolder, read_json, write_atomically
from tunesmith.recipe.edit import with_changes
from tunesmith.recipe.plain_yaml import parse_yaml


def write_fitting(recipe: str, overrides: Sequence[str], plan: dict[str, Any], out: str) -> str:
    """Write the recipe with its overrides and the nearest change that fits, comments kept, to a new file.

    Its run gets a folder of its own where the old recipe's is there already; returned is which it has.
    Raises DoesNotFitError where no rung of the ladder does.
    """
    if not plan["fits"] and plan["nearest"] is None:
        raise DoesNotFitError.at(
            "--fix", f"nothing that was tried fits into {plan['device']['name']}",
            "take a smaller model, see largest.family in tunesmith plan --json",
        )  # fmt: skip
    changes = {} if plan["fits"] else plan["nearest"]["change"]
    own = {key: parse_yaml(text, key) for key, _, text in (word.partition("=") for word in overrides)}
    text = Path(recipe).read_text(encoding="utf-8")
    fixed = with_changes(text, {**own, **changes}, recipe)
    if "output" not in own and Path(fixed.recipe.output).exists():
        apart = _free_beside(fixed.recipe.output, Path(out).stem)
        fixed = with_changes(text, {**own, **changes, "output": apart}, recipe)
    write_atomically(Path(out), fixed.text)
    return fixed.recipe.output


def _free_beside(output: str, name: str) -> str:
    """A run folder beside another that is not there yet."""
    first = f"{output.rstrip('/')}-{name}"
    names = chain([first], (f"{first}-{number}" for number in count(2)))
    return next(name for name in names if not Path(name).exists())


def remember(run: RunFolder, report: dict[str, Any] | None) -> None:
    """Add a run's forecast and what it took to what was measured on this machine; nothing where either is missing."""
    from tunesmith.plan.measured import Row, TimeRow, record

    try:
        device, told = read_json(run.plan)["device"], (report or {})["plan"]
        predicted, taken = int(told["predicted_peak_bytes"]), int(told["measured_peak_bytes"])
        seconds = float(told["predicted_seconds"]), float(told["measured_seconds"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    whose = device["kind"], device["name"], f"train {run.path.name}"
    record(Row(*whose, predicted, taken))
    if (report or {})["status"] == "done":  # one that stopped early had less to do than was forecast
        record(TimeRow(*whose, *seconds))
