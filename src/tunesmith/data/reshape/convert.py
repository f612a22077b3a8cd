"""Write a data file in another format or kind: nothing is lost, or it is told exactly what would be.

rows --record--> spell --beside the unread columns--> spool --lay--> new file --read back, compare--> kept
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, get_args

from tunesmith.data.files import LINES, DataFile
from tunesmith.data.formats import COLUMNS, Fault, recognise, to_record
from tunesmith.data.gather import Opened
from tunesmith.data.judged import LABELS, LETTERS, is_label
from tunesmith.data.marks import MARK
from tunesmith.data.rawrows import END_OF_TEXT
from tunesmith.data.records import Record
from tunesmith.data.reshape.columns import carry_turn_keys, read_by, unread_keys
from tunesmith.data.reshape.output import Spool, require_output, staged
from tunesmith.data.reshape.rows import Losses, Read, opened, plain, read
from tunesmith.data.reshape.spell import LEFT_OUT, REDUCED, spell
from tunesmith.errors import DataError, Problem
from tunesmith.events import Reporter
from tunesmith.recipe import DataFormat, Source

# What a row of the new file cannot hold for its kind, not for its format.
KIND_LOSSES: Mapping[str, str] = {
    "end_of_text_inside": "the document has a line <|endoftext|>, which would cut it",
    "outer_lines": "blank lines at its ends, or line ends other than \\n",
    "value_as_text": "the type of a date, number or bytes: written as text, or null where it is not a number",
}
_WORDS = {**LEFT_OUT, **REDUCED}
_AS_THEY_ARE = {"messages", "sharegpt", "alpaca", "prompt_response", "history", "text"}


def convert(
    source: Source,
    format: DataFormat | None,
    out: str,
    *,
    lossy: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write the rows of `source` as `format` (null: its own) to the new file `out`; its report.

    Raises DataError with every reason why a row could not be carried, counted, unless `lossy`.
    """
    goal = require_output(out, source.path)
    file = opened(source, reporter)
    assert file.format is not None
    work = _Conversion(file, format or file.format, goal)
    if work.kind == ".txt" and work.format != "text":
        raise DataError.at(
            out, f".txt holds documents alone, not {work.format}", "name an --out that ends in .jsonl"
        )
    with Spool(goal.parent) as spool:
        for row in read(file):
            work.take(row, spool)
        work.judge(lossy)
        with staged(goal) as beside:
            spool.lay(beside)
            work.compare(beside)
    return work.report()


@dataclass(slots=True)
class _Conversion:
    file: Opened
    format: DataFormat
    goal: Path
    whole: int = 0
    reduced: int = 0
    left_out: int = 0
    rows_out: int = 0
    losses: Losses = field(default_factory=Losses)
    carried: dict[str, int] = field(default_factory=dict)
    _homeless: Record | None = None
    """The first row that the new format cannot hold."""
    _digest: Any = field(default_factory=hashlib.sha256)
    _clashes: dict[frozenset[str], frozenset[str]] = field(default_factory=dict)

    @property
    def kind(self) -> str:
        return DataFile(str(self.goal), self.goal).kind

    @property
    def _is_same(self) -> bool:
        """Whether rows may stay as they are. Those of text have several shapes, and some kinds know but one."""
        if self.format == "text" and self.kind not in (".json", *LINES):
            return False
        return self.format == self.file.format and self.format in _AS_THEY_ARE

    def take(self, row: Read, spool: Spool) -> None:
        """One row: carried whole, reduced, or left out; each with its reasons."""
        if isinstance(row.record, Fault):
            self.losses.note(row.record.reason, row.address, row.record.detail)
            self.left_out += 1
            return
        assert row.value is not None
        rows, reasons = self._rows(row.value, row.record)
        for reason, what in reasons:
            self.losses.note(reason, row.address, what)
        if not rows:
            self.left_out += 1
            self._homeless = self._homeless or row.record
            return
        self.reduced += bool(reasons)
        self.whole += not reasons
        for new in rows:
            self._put(new, spool)

    def _put(self, row: dict[str, Any], spool: Spool) -> None:
        record = to_record(row, self.format, {})
        assert not isinstance(record, Fault), record
        self._digest.update(repr(record).encode("utf-8", "surrogatepass"))
        spool.put(row)
        self.rows_out += 1

    def _rows(
        self, value: Mapping[str, Any], record: Record
    ) -> tuple[list[dict[str, Any]], list[tuple[str, str]]]:
        """The new rows of one old one, and (reason, words) for what they do not hold."""
        source = self.file.source
        assert self.file.format is not None
        names = read_by(value, self.file.format, source.columns)
        if self._is_same and not source.columns:
            rows, reasons = [{name: value[name] for name in value if name in names}], []
        else:
            spelt = spell(record, self.format)
            rows, reasons = list(spelt.rows), [(reason, _WORDS[reason]) for reason in spelt.lost]
            keys = unread_keys(value, names, source.columns)
            kept = self._with_turn_keys(rows, value, names, record) if keys else set()
            reasons += (
                [("turn_keys", f"{key!r:.40} of a turn") for key in keys if key not in kept] if rows else []
            )
        rows = [fitted for row in rows if (fitted := self._fitted(row, reasons)) is not None]
        return [self._beside(row, value, names, reasons) for row in rows], reasons

    def _with_turn_keys(
        self, rows: list[dict[str, Any]], value: Mapping[str, Any], names: frozenset[str], record: Record
    ) -> set[str]:
        """Keys of turns that mean nothing to us, carried from dialogue to dialogue where they change no meaning."""
        if (
            len(rows) != 1
            or self.format not in ("messages", "sharegpt")
            or self.kind not in (".json", *LINES)
        ):
            return set()
        new = copy.deepcopy(rows[0])
        kept = carry_turn_keys(new, value, names, self.file.source.columns)
        if not kept or to_record(new, self.format, {}) != to_record(rows[0], self.format, {}):
            return set()
        for key in kept:
            self.carried[f"turns.{key}"] = self.carried.get(f"turns.{key}", 0) + 1
        rows[0] = plain(new)[0]
        return kept

    def _fitted(self, row: dict[str, Any], reasons: list[tuple[str, str]]) -> dict[str, Any] | None:
        """The row as its kind of file can hold it; None where it cannot."""
        match self.kind:
            case ".csv" | ".tsv" if self.format == "choice":
                options = dict(zip(LETTERS, row["options"]))
                return {"question": row["question"], **options, "answer": row["answer"]}
            case ".txt":
                return self._document(row, reasons)
        return row

    def _document(self, row: dict[str, Any], reasons: list[tuple[str, str]]) -> dict[str, Any] | None:
        lines = row["text"].replace("\r\n", "\n").removeprefix("\ufeff").split("\n")
        if any(line.strip(" \t\r\n") == END_OF_TEXT.decode() for line in lines):
            reasons.append(("end_of_text_inside", KIND_LOSSES["end_of_text_inside"]))
            return None
        while lines and not lines[0].strip(" \t\r\n"):
            lines.pop(0)
        while lines and not lines[-1].strip(" \t\r\n"):
            lines.pop()
        text = "\n".join(line.removesuffix("\r") for line in lines)
        if text != row["text"]:
            reasons.append(("outer_lines", KIND_LOSSES["outer_lines"]))
        return {"text": text} if text.strip() else None

    def _beside(
        self,
        row: dict[str, Any],
        value: Mapping[str, Any],
        read: frozenset[str],
        reasons: list[tuple[str, str]],
    ) -> dict[str, Any]:
        """The row with the columns that its old format did not read, as far as they mean nothing in the new one."""
        row, changed = plain(row)
        others = {name: held for name, held in value.items() if name not in read}
        if self.kind == ".txt":
            lost = frozenset(name for name, held in others.items() if held is not None)
        else:
            lost = self._clashing(row, others)
        reasons += [(f"column {name}", "has no place beside the new row") for name in sorted(lost)]
        for name, held in others.items():
            if name not in lost and name not in row:
                row[name], other = plain(held)
                changed |= other
                self.carried[name] = self.carried.get(name, 0) + 1
        if changed:
            reasons.append(("value_as_text", KIND_LOSSES["value_as_text"]))
        return row

    def _clashing(self, row: dict[str, Any], others: Mapping[str, Any]) -> frozenset[str]:
        """Columns that would change what the row means, or what it is taken for."""
        filled = frozenset(name for name, held in others.items() if held is not None and name != MARK)
        if not others:
            return frozenset()
        labels = {f"!{name}" for name in LABELS if is_label(others.get(name))}
        key = filled | {f"={name}" for name in row} | labels
        if key not in self._clashes:
            own = {name for name in COLUMNS[self.format] if name not in _TURN_NAMES} | row.keys()
            lost = set(filled & own)
            if not self._means(row, {name: others[name] for name in filled - lost}):
                lost |= {name for name in filled if not self._means(row, {name: others[name]})}
            if not self._means(row, {name: others[name] for name in filled - lost}):
                lost = set(filled)
            self._clashes[key] = frozenset(lost)
        return self._clashes[key]

    def _means(self, row: dict[str, Any], others: Mapping[str, Any]) -> bool:
        together = {**row, **{name: plain(held)[0] for name, held in others.items()}}
        try:
            found = recognise([together], "", {})
        except DataError:
            return False
        return found == self.format and to_record(together, found, {}) == to_record(row, found, {})

    def judge(self, lossy: bool) -> None:
        """Refuse what would lose something, unless that was asked for; and a file without rows."""
        if not self.rows_out or (self.losses.counts and not lossy):
            told = self._summary() if self.rows_out else self._nothing()
            raise DataError([*map(self._problem, self.losses.to_json()), told])

    def _problem(self, loss: Mapping[str, Any]) -> Problem:
        first = loss["examples"][0]
        more = f" (and {loss['count'] - 1} more)" if loss["count"] > 1 else ""
        return Problem(f"{first['where']}{more}", f"{loss['reason']}: {first['what']}", "")

    def _nothing(self) -> Problem:
        """No row at all: --lossy changes nothing."""
        what = f"would hold none of the {self.left_out} rows: they cannot be written as {self.format}"
        fix = f"see what is wrong with them: tunesmith data check {self.file.source.path}"
        if self._homeless is not None:
            names = [name for name in get_args(DataFormat) if spell(self._homeless, name).rows]
            fits = self.format in names  # but not that kind of file
            fix = "name an --out that ends in .jsonl" if fits else f"these can become --to {', '.join(names)}"
        return Problem(str(self.goal), what, fix)

    def _summary(self) -> Problem:
        what = f"{self.reduced} of {self.whole + self.reduced + self.left_out} rows would lose something"
        what += f", {self.left_out} could not be written at all"
        return Problem(
            str(self.goal),
            what,
            "take another --to, or carry what can be carried and count the rest: --lossy",
        )

    def compare(self, beside: Path) -> None:
        """Read the new file as a stranger would; what it means must be what was meant."""
        digest, format = hashlib.sha256(), None
        with contextlib.suppress(DataError):  # such as a cell whose text looks like JSON and is none
            again = opened(Source(path=str(beside)))
            format = again.format
            for row in read(again):
                digest.update(repr(row.record).encode("utf-8", "surrogatepass"))
        if format != self.format or digest.digest() != self._digest.digest():
            what = f"does not give back the same rows when it is read as {format}"
            raise DataError.at(str(self.goal), what, "write .jsonl, and please report these rows")

    def report(self) -> dict[str, Any]:
        """What became of the rows; rows_in = whole + reduced + left_out."""
        return {
            "from": {"path": self.file.source.path, "format": self.file.format},
            "to": {"path": str(self.goal), "format": self.format},
            "rows_in": self.whole + self.reduced + self.left_out,
            "whole": self.whole,
            "reduced": self.reduced,
            "left_out": self.left_out,
            "rows_out": self.rows_out,
            "columns_carried": self.carried,
            "losses": self.losses.to_json(),
        }


_TURN_NAMES = {"role", "content", "from", "value", "reasoning_content"}
