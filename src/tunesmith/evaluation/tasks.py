"""Read the items of a task. Everything that is wrong is told at once, each with file:row.

choice    CMMLU csv (header; index, Question, A-D, Answer) | MMLU csv (no header; question, options, letter)
          | jsonl {"question", "options" or "choices", "answer": letter, index or the option itself}
generate  any chat format; the last assistant turn is the reference
loss      any chat or text format
`path` may be a folder of csv or jsonl files (one a subject): the first `shots` of each are its examples.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.formats import Fault, recognise, to_record
from tunesmith.data.records import Chat, Choice, Record, Text
from tunesmith.data.sources import BadRow, Row, describe_bytes, read_rows, wide_encoding
from tunesmith.errors import DataError, Problem
from tunesmith.recipe import Source, Task

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
    record: Record | Choice
    shots: tuple[Record | Choice, ...] = ()


@dataclass(frozen=True, slots=True)
class _Bad:
    address: str
    reason: str
    detail: str


_Read = tuple[str, Record | Choice] | _Bad


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
        good: list[tuple[str, Record | Choice]] = []
        for read in _READERS[task.kind](str(path)):
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


# ---- chats and texts --------------------------------------------------------------------------------


def _read_chats(path: str) -> Iterator[_Read]:
    for read in _read_records(path):
        if isinstance(read, tuple) and not isinstance(read[1], Chat):
            yield _Bad(read[0], "no_answer", "is a text; a generation needs a question and its answer")
        else:
            yield read


def _read_records(path: str) -> Iterator[_Read]:
    """Rows through the readers of training data, so that a task file may have any of their formats."""
    rows = list(read_rows(Source(path=path)))
    values = [row.value for row in rows if isinstance(row, Row)]
    shape = recognise(values, path, {}) if values else None
    for row in rows:
        if isinstance(row, BadRow):
            yield _Bad(row.address, row.reason, row.detail)
            continue
        assert shape is not None
        record = to_record(row.value, shape, {})
        if isinstance(record, Fault):
            yield _Bad(row.address, record.reason, record.detail)
        elif isinstance(record, Chat | Text):
            yield row.address, record
        else:
            yield _Bad(row.address, "wrong_type", f"is a row of format {shape}, not a chat or a text")


# ---- multiple choice --------------------------------------------------------------------------------


def _read_choices(path: str) -> Iterator[_Read]:
    if Path(path).suffix.lower() == ".csv":
        yield from _read_csv(path)
        return
    for row in read_rows(Source(path=path)):
        if isinstance(row, BadRow):
            yield _Bad(row.address, row.reason, row.detail)
        else:
            yield _choice_of(row.address, row.value)


def _read_csv(path: str) -> Iterator[_Read]:
    """Rows of a csv file; the address is the line on which a row begins."""
    reader = csv.reader(io.StringIO(_csv_text(path), newline=""), strict=True)
    header: dict[str, int] | None = None
    line = 1
    try:
        for number, row in enumerate(reader):
            address, line = f"{path}:{line}", reader.line_num + 1
            if not any(cell.strip() for cell in row):
                continue
            names = [cell.strip().lower() for cell in row]
            if number == 0 and "question" in names and "answer" in names:
                header = {name: at for at, name in enumerate(names)}
                continue
            yield _csv_choice(address, row, header)
    except csv.Error as error:
        yield _Bad(f"{path}:{line}", "broken_csv", str(error))


def _csv_text(path: str) -> str:
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise DataError.at(
            path, f"cannot be read: {error.strerror}", "give the path of a readable file"
        ) from error
    if coding := wide_encoding(data[: 1 << 16]):
        raise DataError.at(path, f"is {coding}, not UTF-8", f"convert it: iconv -f {coding} -t UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        what = describe_bytes(data, error.start)
        raise DataError.at(f"{path}:{line}", what, "save the file as UTF-8") from error


def _csv_choice(address: str, row: Sequence[str], header: Mapping[str, int] | None) -> _Read:
    """CMMLU by its header; without one MMLU: question first, letter last, options between."""
    if header is None:
        if len(row) < 4:
            return _Bad(
                address, "missing_column", f"has {len(row)} columns; question, 2 options, answer needed"
            )
        return _checked(address, row[0], row[1:-1], row[-1])
    if len(row) < len(header):
        return _Bad(address, "missing_column", f"has {len(row)} columns where the header has {len(header)}")
    options = [row[header[letter.lower()]] for letter in LETTERS if letter.lower() in header]
    return _checked(address, row[header["question"]], options, row[header["answer"]])


def _choice_of(address: str, value: Any) -> _Read:
    """A jsonl row; options may be a list, or {"A": .., "B": ..} or columns A, B, C, D."""
    if not isinstance(value, dict):
        return _Bad(address, "wrong_type", "the row is not a JSON object")
    row = {str(key).lower(): entry for key, entry in value.items()}
    options = row.get("options", row.get("choices"))
    if options is None:
        options = {letter: row[letter.lower()] for letter in LETTERS if letter.lower() in row}
    if isinstance(options, dict):
        options = [options[key] for key in sorted(options)]
    if not isinstance(options, list) or not all(isinstance(option, str) for option in options):
        return _Bad(address, "wrong_type", "options (or choices) must be a list of strings")
    if not isinstance(row.get("question"), str) or "answer" not in row:
        return _Bad(
            address, "missing_key", f"question and answer are needed, the row has {', '.join(row)[:200]}"
        )
    return _checked(address, row["question"], options, row["answer"])


def _checked(address: str, question: str, options: Sequence[str], answer: Any) -> _Read:
    if not question.strip():
        return _Bad(address, "empty_prompt", "the question is empty")
    if not 2 <= len(options) <= len(LETTERS):
        return _Bad(address, "wrong_options", f"{len(options)} options; 2 to {len(LETTERS)} can be scored")
    index = _answer_index(answer, options)
    if index is None:
        return _Bad(address, "wrong_answer", f"{answer!r:.60} is no letter, index or text of an option")
    return address, Choice(question.strip(), tuple(option.strip() for option in options), index)


def _answer_index(answer: Any, options: Sequence[str]) -> int | None:
    """A letter, an index from 0, or the option itself."""
    if isinstance(answer, bool):
        return None
    if isinstance(answer, int):
        return answer if 0 <= answer < len(options) else None
    text = str(answer).strip()
    if len(text) == 1 and text.upper() in LETTERS[: len(options)]:
        return LETTERS.index(text.upper())
    return next((i for i, option in enumerate(options) if option.strip() == text), None)


_READERS: Mapping[str, Callable[[str], Iterator[_Read]]] = {
    "choice": _read_choices,
    "generate": _read_chats,
    "loss": _read_records,
}
_FIX: Mapping[str, str] = {
    "choice": 'csv: question, options, letter; jsonl: {"question": .., "options": [..], "answer": "A"}',
    "generate": "correct or remove the row",
    "loss": "correct or remove the row",
}
