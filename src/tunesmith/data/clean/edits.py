"""What was cleaned, written down so that it can be undone: a line a touched row, with its bytes before and after.

{"kind": "begin", "schema": 1, "source": "a.jsonl", "sha256": ..}
{"kind": "row", "where": "a.jsonl:3", "at": 512, "before": "..", "after": "..", "changes": [{"rule", "text", ..}]}
{"kind": "end", "sha256_before": .., "sha256_after": .., "rows": 5000, "changed": {"invisible": 7}, "dropped": {}}
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from tunesmith.errors import DataError

SCHEMA = 1
_BLOCK = 1 << 20


@dataclass(slots=True)
class Writing:
    """Copies a file with edits in rising order, and writes each down."""

    original: Any
    """The bytes of the original, a mmap."""
    out: IO[bytes]
    report: IO[str]
    at: int = 0
    rows: int = 0
    before: Any = field(default_factory=hashlib.sha256)
    after: Any = field(default_factory=hashlib.sha256)
    changed: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)

    def begin(self, source: str, steps: list[str], form: str) -> None:
        """The first line: what is cleaned, with which steps, and what of it the original bytes are."""
        self._line({"kind": "begin", "schema": SCHEMA, "source": source, "steps": steps, "form": form})

    def edit(self, where: str, start: int, end: int, new: bytes, changes: list[dict[str, str]]) -> None:
        """Replace original[start:end]; an empty `new` takes the row out."""
        assert start >= self.at, "edits come in order"
        self._copy(start)
        old = self.original[start:end]
        self.before.update(old)
        self.out.write(new)
        self.after.update(new)
        self.at = end
        kinds = {change["rule"] for change in changes}
        (self.changed if new else self.dropped).update(kinds)
        line = {"kind": "row", "where": where, "at": start, "before": _spell(old), "after": _spell(new)}
        self._line(line | {"changes": changes})

    def end(self) -> dict[str, Any]:
        """The last line: totals, and the digests of both files."""
        self._copy(len(self.original))
        totals = {
            "sha256_before": self.before.hexdigest(),
            "sha256_after": self.after.hexdigest(),
            "rows": self.rows,
            "changed": dict(self.changed),
            "dropped": dict(self.dropped),
        }
        self._line({"kind": "end", **totals})
        return totals

    def _copy(self, until: int) -> None:
        while self.at < until:
            block = self.original[self.at : min(until, self.at + _BLOCK)]
            self.before.update(block)
            self.after.update(block)
            self.out.write(block)
            self.at += len(block)

    def _line(self, value: dict[str, Any]) -> None:
        self.report.write(json.dumps(value) + "\n")  # ASCII: bytes that are no UTF-8 are spelt \\udcXX


def _spell(data: bytes) -> str:
    return data.decode("utf-8", "surrogateescape")


def restore(report: Path, out: Path, cleaned: Path | None = None) -> dict[str, Any]:
    """Write the original of a cleaned file, byte for byte. Raises DataError where report and file do not belong.

    The cleaned file lies beside its report unless it is named.
    """
    lines = _lines(report)
    cleaned = cleaned or report.with_name(report.name.removesuffix(REPORT))
    if out.exists():
        raise DataError.at(str(out), "exists already", "choose another --out, or move it away")
    try:
        data = cleaned.read_bytes()
    except OSError as error:
        what = f"cannot be read: {error.strerror}"
        raise DataError.at(str(cleaned), what, "keep the cleaned file beside its report") from error
    totals = lines[-1]
    changed = "was changed after it was cleaned, or belongs to another report"
    if hashlib.sha256(data).hexdigest() != totals.get("sha256_after"):
        raise DataError.at(str(cleaned), changed, "clean the original again")
    original = b"".join(_undone(data, lines[1:-1]))
    if hashlib.sha256(original).hexdigest() != totals.get("sha256_before"):
        raise DataError.at(str(report), "does not give the original back: it was changed", "clean again")
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_bytes(original)
    except OSError as error:
        raise DataError.at(
            str(out), f"cannot be written: {error.strerror}", "choose another --out"
        ) from error
    source = {"source": lines[0].get("source"), "form": lines[0].get("form", "file")}
    return {"report": str(report), "cleaned": str(cleaned), "out": str(out), "rows": len(lines) - 2, **source}


REPORT = ".report"  # no suffix of data: a folder of copies is read as data


def _undone(data: bytes, edits: list[dict[str, Any]]) -> Iterator[bytes]:
    """The original, piece by piece: what was copied, and what stood where something was changed."""
    at = original = 0
    for edit in edits:
        copied = edit["at"] - original
        yield data[at : at + copied]
        before, after = (edit[key].encode("utf-8", "surrogateescape") for key in ("before", "after"))
        yield before
        at += copied + len(after)
        original = edit["at"] + len(before)
    yield data[at:]


def _lines(report: Path) -> list[dict[str, Any]]:
    fix = f"give a report that data clean wrote, such as FILE{REPORT}"
    try:
        lines = [json.loads(line) for line in report.read_text(encoding="utf-8").splitlines()]
    except OSError as error:
        raise DataError.at(str(report), f"cannot be read: {error.strerror}", fix) from error
    except (ValueError, RecursionError) as error:
        raise DataError.at(str(report), "is no report of data clean", fix) from error
    kinds = [line.get("kind") if isinstance(line, dict) else None for line in lines]
    whole = {"at": int, "before": str, "after": str}
    rows = lines[1:-1]
    if kinds[:1] != ["begin"] or kinds[-1:] != ["end"] or any(kind != "row" for kind in kinds[1:-1]):
        raise DataError.at(str(report), "is no whole report of data clean", fix)
    if any(not isinstance(row.get(key), kind) for row in rows for key, kind in whole.items()):
        raise DataError.at(str(report), "is no whole report of data clean", fix)
    return lines
