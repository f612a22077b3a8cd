"""Clean the train files of a recipe: each becomes a copy of the same format, and a report that undoes it.

Packed files become unpacked copies, tables of rows become lines; undoing gives these back as they were.

row --parse--> texts --steps, until none changes anything--> record --leave out?--> edit of its bytes, or none
"""

from __future__ import annotations

import copy
import mmap
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tunesmith.data.clean.edits import REPORT, Writing
from tunesmith.data.clean.segments import (
    Kind,
    Segment,
    delimiter_of,
    kind_of_file,
    read_cells,
    segments,
    with_cells,
)
from tunesmith.data.clean.spots import Spot, put, rewrite, rewrite_whole, spots
from tunesmith.data.clean.steps import NAMES, UNASKED, Rewrite, rewrites, settle, verdicts, without_html
from tunesmith.data.clean.twice import Seen
from tunesmith.data.clean.unpacked import editable, form_of, name_of
from tunesmith.data.doctor.custom import NONE, OwnRules, ask
from tunesmith.data.doctor.findings import excerpt
from tunesmith.data.doctor.leakage import HeldText, Leakage, question_of, texts_of
from tunesmith.data.doctor.rules import Rules, load_rules, require
from tunesmith.data.files import DataFile, files_of
from tunesmith.data.formats import Fault, to_record
from tunesmith.data.gather import Opened, open_source
from tunesmith.data.prepare import inputs_of
from tunesmith.data.records import Record
from tunesmith.data.sources import BadRow, parse
from tunesmith.data.tags import tag_words, with_tags
from tunesmith.errors import DataError, UserError
from tunesmith.events import Reporter, Silent
from tunesmith.recipe import Data, Source, Tags

Change = dict[str, str]


@dataclass(frozen=True, slots=True)
class CleanedFile:
    """One file: where its copy and its report lie, and what was done to its rows, by step."""

    path: str
    out: str
    report: str
    rows: int
    changed: Mapping[str, int]
    dropped: Mapping[str, int]
    sha256_before: str
    sha256_after: str
    form: str = "file"
    """What undoing gives back: the file, or of a packed one its content (unpacked), or of a table its rows (lines)."""


@dataclass(frozen=True, slots=True)
class Cleaned:
    """All files, and the steps that were done."""

    steps: tuple[str, ...]
    files: tuple[CleanedFile, ...]

    def to_json(self) -> dict[str, Any]:
        """What `data clean --json` prints."""
        totals = {
            name: dict(sum((Counter(getattr(file, name)) for file in self.files), Counter()))
            for name in ("changed", "dropped")
        }
        files = [asdict(file) for file in self.files]
        paths = ",".join(file.out for file in self.files)
        return (
            {"steps": list(self.steps), "files": files, "rows": sum(file.rows for file in self.files)}
            | totals
            | {"train": paths}
        )


def clean(
    data: Data,
    out: Path,
    *,
    rules: Rules | None = None,
    own: OwnRules = NONE,
    steps: Sequence[str] | None = None,
    tasks: Iterable[HeldText] = (),
    reporter: Reporter | None = None,
) -> Cleaned:
    """Write a cleaned copy of every train file, and its report, into the folder `out`; nothing there is replaced.

    `steps` overrule those of the rules; without either the ones nobody disagrees with are done. `tasks` are
    questions of evaluation tasks, for the step `leaks`. Raises DataError and UserError.
    """
    rules = rules or load_rules()
    chosen = tuple(steps if steps is not None else rules.steps if rules.steps is not None else UNASKED)
    require(NAMES, chosen, "steps")
    if rules.tags is not None and "tags" not in chosen and steps is None:
        chosen = (*chosen, "tags")
    if "tags" in chosen and rules.tags is None and data.tags is None:
        raise UserError.at("steps", "tags needs columns", "add tags: [age, region] to the rules file")
    files = _places(data, out)
    washing = _Washing(rules, own, frozenset(chosen), rules.tags or data.tags, Seen(rules.near))
    if "leaks" in chosen:
        washing.leakage = _held_out(data, tasks, washing.seen.units)
    cleaned = [washing.file(source, file, copy_to, reporter or Silent()) for source, file, copy_to in files]
    return Cleaned(tuple(name for name in NAMES if name in chosen), tuple(cleaned))


def _places(data: Data, out: Path) -> list[tuple[Source, DataFile, Path]]:
    """Each train file and where its copy goes. DataError for one that cannot be cleaned, or a place that is taken."""
    if out.exists() and not out.is_dir():
        raise DataError.at(str(out), "is a file; the cleaned copies go into a folder", "such as --out clean")
    found: list[tuple[Source, DataFile, Path]] = []
    taken: set[str] = set()
    for source in data.train:
        for file in files_of(source.path):
            name, number = name_of(file), 1
            stem, suffix = Path(name).stem, Path(name).suffix
            while name in taken:
                number += 1
                name = f"{stem}-{number}{suffix}"
            taken.add(name)
            found.append((source, file, out / name))
    for _, _, place in found:
        for path in (place, place.with_name(place.name + REPORT)):
            if path.exists():
                raise DataError.at(str(path), "exists already", "choose another --out, or move it away")
    return found


def _held_out(data: Data, tasks: Iterable[HeldText], units: Any) -> Leakage:
    """The questions of validation and test files and of tasks."""
    leakage = Leakage(units)
    for held in tasks:
        leakage.add(held)
    for use, source in inputs_of(data):
        if use != "train":
            opened = open_source(source)
            for raw in opened.rows:
                if not isinstance(record := opened.record(raw), Fault):
                    leakage.add(HeldText(use, raw.address, question_of(record)))
    return leakage


@dataclass(slots=True)
class _Row:
    """A row while it is washed: its value before and after, and what was done."""

    before: Any
    after: Any
    texts: dict[tuple[str | int, ...], str] = field(default_factory=dict)
    changes: list[Change] = field(default_factory=list)
    grown: bool = False


@dataclass(slots=True)
class _Washing:
    """Washes file after file; remembers the rows that were kept, so that none is kept twice."""

    rules: Rules
    own: OwnRules
    steps: frozenset[str]
    tags: Tags | None
    seen: Seen
    leakage: Leakage | None = None

    def file(self, source: Source, file: DataFile, out: Path, reporter: Reporter) -> CleanedFile:
        """Clean one file."""
        report = out.with_name(out.name + REPORT)
        parts = [path.with_name(path.name + ".part") for path in (out, report)]
        try:
            out.parent.mkdir(parents=True, exist_ok=True)
            with (
                editable(file) as bytes_of,  # of a pattern or a folder each file is cleaned by itself
                open(bytes_of.path, "rb") as held,
                mmap.mmap(held.fileno(), 0, access=mmap.ACCESS_READ) as original,
                open(parts[0], "wb") as copied,
                open(parts[1], "w", encoding="utf-8") as told,
            ):
                writing = Writing(original, copied, told)
                writing.begin(file.name, sorted(self.steps), bytes_of.form)
                kind = kind_of_file(DataFile(file.name, bytes_of.path), original)
                self._rows(bytes_of.opened(source, reporter), kind, original, writing)
                totals = writing.end()
            os.replace(parts[1], report)  # before the copy: no copy is ever without what undoes it
            os.replace(parts[0], out)
        except OSError as error:
            raise DataError.at(
                str(out), f"cannot be written: {error.strerror}", "choose another --out"
            ) from error
        finally:
            for part in (*parts, *([] if out.exists() else [report])):
                part.unlink(missing_ok=True)
        return CleanedFile(file.name, str(out), str(report), **totals, form=form_of(file))

    def _rows(self, opened: Opened, kind: Kind, original: mmap.mmap, writing: Writing) -> None:
        header = _header(original) if kind == "cells" else []
        delimiter = delimiter_of(original[: original.find(b"\n") + 1 or None]) if kind == "cells" else ","
        kept_before = False
        last = 0
        for segment, after in _with_next(segments(opened.rows, kind, original)):
            writing.rows += 1
            row, why = self._row(opened, segment)
            if kind == "array" and not kept_before and after is not None and after.start is None:
                why = None  # without its comma the rest could not be read
            kept_before_this, last_end = kept_before, last
            last = segment.end
            if segment.start is None:  # bytes that cannot be told apart stay as they are
                kept_before = True
                continue
            where = segment.raw.address
            if why is not None:
                start, end = _taken_out(segment, after, kind, kept_before_this, last_end)
                writing.edit(where, start, end, b"", [why])
                continue
            kept_before = True
            if row is not None and row.changes:
                old = original[segment.start : segment.end]
                new = _written(row, old, kind, header, delimiter)
                if new != old:
                    writing.edit(where, segment.start, segment.end, new, row.changes)

    def _row(self, opened: Opened, segment: Segment) -> tuple[_Row | None, Change | None]:
        """The washed row, or None where it cannot be read; and why it is left out, or None."""
        where = segment.raw.address
        record = opened.record(segment.raw)
        read = parse(segment.raw)
        if isinstance(read, BadRow) or not isinstance(read.value, dict) or opened.format is None:
            why = record.detail if isinstance(record, Fault) else "cannot be read"
            reason = record.reason if isinstance(record, Fault) else "wrong_type"
            return None, {
                "rule": "unreadable",
                "why": f"{reason}: {why}",
            } if "unreadable" in self.steps else None
        row = self._washed(read.value, opened, where)
        after = to_record(row.after, opened.format, opened.source.columns)
        if isinstance(after, Fault):
            out = "unreadable" in self.steps
            return row, {"rule": "unreadable", "why": f"{after.reason}: {after.detail}"} if out else None
        return row, self._why_out(after, row.after, where)

    def _washed(self, value: dict[str, Any], opened: Opened, where: str) -> _Row:
        """The texts of a row after all steps."""
        assert opened.format is not None
        row = _Row(value, copy.deepcopy(value))
        found = spots(value, opened.format, opened.source.columns)
        steps = without_html(rewrites(self.steps, self.rules, self.own, where), found)
        for spot in found:
            text, by = settle(spot.text, spot.role, steps)
            if spot.role == "text" and segment_lines(spot.text) < segment_lines(text):
                text = _as_one_document(text, spot.text)
            if text != spot.text:
                row.texts[spot.path] = text
                put(row.after, spot.path, text)
                row.changes += [_change(rule, spot, text) for rule in by]
        if "tags" in self.steps and self.tags is not None:
            self._tag(row, found, steps)
        return row

    def _tag(self, row: _Row, found: Sequence[Spot], steps: Mapping[str, Rewrite]) -> None:
        """Write the row's tags into its prompt; a pair that holds whole dialogues has two."""
        assert self.tags is not None
        words, _ = settle(tag_words(row.before, self.tags), "user", steps)
        wanted = "user" if self.tags.place == "question" else "system"
        spot = next((spot for spot in found if spot.role == wanted and spot.text.strip()), None)
        if not words or any(spot.role in ("text", "dialogue") for spot in found):
            return
        if spot is not None:
            twins = [spot]
            if spot.path[0] in ("chosen", "rejected"):
                twins = [other for other in found if other.role == wanted and other.path[1:] == spot.path[1:]]
            for each in twins:
                old = row.texts.get(each.path, each.text)
                if (text := with_tags(old, words, self.tags)) != old:
                    row.texts[each.path] = text
                    put(row.after, each.path, text)
                    row.changes.append(_change("tags", each, text))
        elif wanted == "system":
            row.after["system"] = with_tags("", words, self.tags)
            row.grown = True
            row.changes.append(
                {"rule": "tags", "where": "system", "before": "", "after": row.after["system"]}
            )

    def _why_out(self, record: Record, value: dict[str, Any], where: str) -> Change | None:
        """Which step leaves a good row out, and why."""
        for name, rule in self.own.drop.items():
            if why := ask(rule, f"drop_{name}", where, str, value):
                return {"rule": name, "why": why[:200]}
        for name, verdict in verdicts(self.steps, self.rules).items():
            if why := verdict(record, value):
                return {"rule": name, "why": why}
        if self.leakage is not None and (leak := self.leakage.find(texts_of(record))):
            return {"rule": "leaks", "why": f"holds the question at {leak.held.address}"}
        if "duplicates" in self.steps and (first := self.seen.equal(where, record)):
            return {"rule": "duplicates", "why": f"the same as {first}"}
        if "near_duplicates" in self.steps and (first := self.seen.similar(where, record)):
            return {"rule": "near_duplicates", "why": f"nearly the same as {first}"}
        return None


def _change(rule: str, spot: Spot, text: str) -> Change:
    first = next(
        (i for i, (a, b) in enumerate(zip(spot.text, text)) if a != b), min(len(spot.text), len(text))
    )
    where = ".".join(map(str, spot.path))
    shown = (excerpt(each, max(0, first - 20), first + 40) for each in (spot.text, text))
    return {"rule": rule, "where": where, **dict(zip(("before", "after"), shown))}


def segment_lines(text: str) -> int:
    """Line ends of a text; a document of a .txt must not get more of them, or it would be two."""
    return text.count("\n")


def _as_one_document(text: str, before: str) -> str:
    """The lines of a document without new blank ones; of a single line, a single line."""
    lines = [line for line in text.split("\n") if line.strip()]
    if "\n" not in before:
        return " ".join(line.strip() for line in lines)
    return text if "\n\n" in before else "\n".join(lines)


def _with_next(found: Iterator[Segment]) -> Iterator[tuple[Segment, Segment | None]]:
    """Each segment with the one behind it."""
    last: Segment | None = None
    for segment in found:
        if last is not None:
            yield last, segment
        last = segment
    if last is not None:
        yield last, None


def _taken_out(
    segment: Segment, after: Segment | None, kind: Kind, kept_before: bool, last_end: int
) -> tuple[int, int]:
    """The bytes to take away with a row: its line, or its item and one comma."""
    assert segment.start is not None
    if kind != "array":
        return segment.start, segment.until
    if kept_before:
        return last_end, segment.end
    next_start = after.start if after is not None else None
    return segment.start, segment.end if next_start is None else next_start


def _written(row: _Row, old: bytes, kind: Kind, header: Sequence[str], delimiter: str) -> bytes:
    """The bytes of a changed row, in the manner of the old ones."""
    text = old.decode("utf-8")
    match kind:
        case "text":
            return str(row.after["text"]).encode("utf-8", "surrogatepass")
        case "cells":
            return with_cells(text, row.after, header, delimiter).encode("utf-8")
        case _:
            new = rewrite_whole(text, row.after) if row.grown else rewrite(text, row.texts)
            return new.encode("utf-8")


def _header(original: mmap.mmap) -> list[str]:
    first = original[: original.find(b"\n") + 1 or None].decode("utf-8-sig", "surrogateescape")
    return [
        cell.strip() for cell in read_cells(first, delimiter_of(first.encode("utf-8", "surrogateescape")))
    ]
