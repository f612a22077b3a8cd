"""What of a recipe's data cannot be used, gathered and told all together: whole files, and rows by their lines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from tunesmith.data.formats import fix_of
from tunesmith.data.gather import Opened
from tunesmith.data.work import SPELT
from tunesmith.errors import DataError, Problem
from tunesmith.recipe import Data

# Formats that are read, checked and shown, but that no objective learns from yet.
NOT_TRAINED: Mapping[str | None, str] = {
    "preference": "which sft and pretrain cannot learn from; no objective for pairs exists yet",
    "kto": "which sft and pretrain cannot learn from: half of such answers are meant as bad ones",
    "choice": "which are for evaluation: name the file in evaluation.tasks",
}


def bad_row(where: str, reason: str, detail: str) -> Problem:
    """A row that cannot be used, for the user."""
    return Problem(where, f"{reason}: {detail}", fix_of(reason))


def bad_rows(spelt: Sequence[Problem], count: int, way_out: str) -> list[Problem]:
    """The rows that are spelt out of `count`; the last one, or one more, says what can be done about all."""
    if count > len(spelt):
        more = f"{count} bad rows in all, {count - len(spelt)} more than are listed"
        return [*spelt, Problem("data", more, f"correct them, or {way_out}")]
    return [*spelt[:-1], replace(spelt[-1], fix=f"{spelt[-1].fix}; or {way_out}")]


@dataclass(slots=True)
class Refused:
    """Files and rows that cannot be learnt from."""

    data: Data
    files: list[Problem] = field(default_factory=list)
    rows: list[Problem] = field(default_factory=list)
    row_count: int = 0

    def untrained(self, opened: Opened) -> bool:
        """Whether nothing learns from rows of this format; then the file is refused."""
        if opened.format not in NOT_TRAINED:
            return False
        what = f"holds rows of format {opened.format}, {NOT_TRAINED[opened.format]}"
        fix = "convert what is to be learnt to messages; tunesmith data check and show read it as it is"
        self.files.append(Problem(opened.source.path, what, fix))
        return True

    def add(self, problems: Sequence[Problem], count: int) -> None:
        """Rows of one more file, of which the first are spelt."""
        self.rows += problems[: max(0, SPELT - len(self.rows))]
        self.row_count += count

    def tell(self) -> None:
        """Raise DataError with all there is, if there is anything."""
        problems = [*self.files, *self.rows]
        if self.rows:
            way_out = "leave bad rows out and count them: data.on_bad_row=drop"
            if self.data.overlength == "error":
                way_out += "; longer rows: data.overlength=keep_last_turns"
            problems = [*self.files, *bad_rows(self.rows, self.row_count, way_out)]
        if problems:
            raise DataError(problems)
