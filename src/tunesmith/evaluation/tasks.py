"""Read the items of a task, through the readers of training data. All that is wrong is told at once, with file:row.

choice    questions with options: CMMLU's and MMLU's csv, jsonl {"question", "options" or "choices", "answer"}
generate  any chat format; the last assistant turn is the reference
loss      any chat or text format
`path` may be a folder of csv or jsonl files (one a subject): the first `shots` of each are its examples.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tunesmith.data.faults import Fault
from tunesmith.data.gather import open_source
from tunesmith.data.records import Chat, Choice, Record, Text
from tunesmith.errors import DataError, Problem
from tunesmith.recipe import DataFormat, Source, Tags, Task

LETTERS = "ABCDEFGHIJ"
SPELT_PROBLEMS = 50
METRICS_OF: Mapping[str, tuple[str, ...]] = {
    "choice": ("accuracy",),
    "generate": ("exact_match", "bleu", "chrf"),
    "loss": ("loss",),
}


@dataclass(frozen=True, slots=True)
class Item:
    """One scored item. `shots` are the solved examples before it, of the same file."""

    address: str
    record: Record
    shots: tuple[Record, ...] = ()


@dataclass(frozen=True, slots=True)
class _Bad:
    address: str
    reason: str
    detail: str


_Read = tuple[str, Record] | _Bad


def read_tasks(tasks: Sequence[Task]) -> list[tuple[Task, tuple[Item, ...]]]:
    """All tasks with their items. Raises one DataError with the problems of all; needs no torch, nor long."""
    read, problems = [], []
    for task in tasks:
        try:
            read.append((task, read_items(task)))
        except DataError as error:
            problems += list(error.problems)
    if problems:
        raise DataError(_at_most(problems))
    return read


def read_items(task: Task) -> tuple[Item, ...]:
    """The items of a task, `shots` set apart, cut to `limit`. Raises DataError with all problems."""
    problems = _metric_problem(task)
    items: list[Item] = []
    for path in _files(task.path):
        good: list[tuple[str, Record]] = []
        for read in _read(str(path), task.kind, task.tags):
            if isinstance(read, _Bad):
                problems.append(Problem(read.address, f"{read.reason}: {read.detail}", _FIX[task.kind]))
            else:
                good.append(read)
        shots = tuple(record for _, record in good[: task.shots])
        items += [Item(address, record, shots) for address, record in good[task.shots :]]
        if task.shots and not problems and len(good) <= task.shots:
            what = f"has {len(good)} items, which leaves none to score after {task.shots} shots"
            problems.append(Problem(str(path), what, "ask for fewer shots, or give more items"))
    if not items and not problems:
        problems.append(Problem(task.path, "has no items", "give a file with at least one"))
    if problems:
        raise DataError(_at_most(problems))
    return tuple(items[: task.limit])


def _metric_problem(task: Task) -> list[Problem]:
    allowed = METRICS_OF[task.kind]
    if task.metric in ("auto", *allowed):
        return []
    what = f"{task.metric} does not measure a task of kind {task.kind}"
    return [Problem(f"evaluation.tasks.{task.name}.metric", what, f"one of: auto, {', '.join(allowed)}")]


def _at_most(problems: Sequence[Problem]) -> list[Problem]:
    """The first problems spelt out, the rest counted."""
    more = len(problems) - SPELT_PROBLEMS
    if more <= 0:
        return list(problems)
    return [*problems[:SPELT_PROBLEMS], Problem("...", f"and {more} more", "mend these first")]


def _files(path: str) -> list[Path]:
    """The file itself, or the item files of a folder, by name."""
    folder = Path(path)
    if not folder.is_dir():
        return [folder]
    found = sorted(file for file in folder.iterdir() if file.suffix.lower() in (".csv", ".jsonl"))
    if not found:
        raise DataError.at(
            path, "is a folder without .csv or .jsonl files", "give a file, or put items in it"
        )
    return found


def _read(path: str, kind: str, tags: Tags | None) -> Iterator[_Read]:
    """The items of a file; the format of questions is known, that of chats and texts is recognised."""
    format, wanted = _WANTED[kind]
    opened = open_source(Source(path=path, format=format, tags=tags))
    for raw in opened.rows:
        record = opened.record(raw)
        if isinstance(record, Fault):
            yield _Bad(raw.address, record.reason, record.detail)
        elif isinstance(record, Choice) and len(record.options) > len(LETTERS):
            what = f"{len(record.options)} options; at most {len(LETTERS)} can be scored"
            yield _Bad(raw.address, "wrong_options", what)
        elif isinstance(record, wanted):
            yield raw.address, _trimmed(record) if isinstance(record, Choice) else record
        elif kind == "generate" and isinstance(record, Text):
            yield _Bad(raw.address, "no_answer", "is a text; a generation needs a question and its answer")
        else:
            yield _Bad(raw.address, "wrong_type", f"is a row of format {opened.format}, not a chat or a text")


def _trimmed(choice: Choice) -> Choice:
    """Without the white space that a table leaves around its cells."""
    options = tuple(option.strip() for option in choice.options)
    return Choice(choice.question.strip(), options, choice.answer)


_WANTED: Mapping[str, tuple[DataFormat | None, tuple[type, ...]]] = {
    "choice": ("choice", (Choice,)),
    "generate": (None, (Chat,)),
    "loss": (None, (Chat, Text)),
}
_FIX: Mapping[str, str] = {
    "choice": 'csv: question, options, letter; jsonl: {"question": .., "options": [..], "answer": "A"}',
    "generate": "correct or remove the row",
    "loss": "correct or remove the row",
}
