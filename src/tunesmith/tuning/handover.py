"""In which form a run is handed over first: merged where its method folds into weights, else as an adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from tunesmith.errors import UserError
from tunesmith.folder import RunFolder
from tunesmith.recipe import load
from tunesmith.tuning.methods import METHODS


def form_of(run: str | Path) -> Literal["merged", "adapter"]:
    """The form to propose for a run folder; one that cannot be read is proposed what most can do."""
    try:
        method = load(RunFolder(Path(run)).recipe).tuning.method
    except UserError:
        return "merged"
    return "adapter" if METHODS[method].can.merge == "no" else "merged"


def export_words(run: str | Path, shown: str) -> str:
    """The command that hands it over; `shown` is how the page spells the folder."""
    return f"tunesmith export {shown} --to {form_of(run)}"
