"""The one pass over all rows: each is read, compared with those before it, looked at, measured and let go.

rows --> cannot be read | means nothing | stands twice | contradicts | is held out too | looks odd | too long
What is held: per row two 8-byte digests, a place, a length and 128 bytes of sketch; never the rows.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.data.doctor.balance import judge_sources, judge_tasks
from tunesmith.data.doctor.columns import Columns
from tunesmith.data.doctor.custom import NONE, OwnRules
from tunesmith.data.doctor.findings import CheckedFile, CheckReport, Notes, Share, excerpt
from tunesmith.data.doctor.leakage import HeldText, Leakage, question_of, texts_of
from tunesmith.data.doctor.look import Look
from tunesmith.data.doctor.near import Sketches
from tunesmith.data.doctor.rules import Rules, load_rules
from tunesmith.data.doctor.suspects import Score, Suspects
from tunesmith.data.doctor.twins import confirm
from tunesmith.data.formats import Fault
from tunesmith.data.gather import Opened, open_source
from tunesmith.data.prepare import inputs_of
from tunesmith.data.records import Chat, Judged, Record, Text, as_chats
from tunesmith.data.splits import HeldOut, Key, Split, answer_key, prompt_key, row_keys
from tunesmith.data.stats import describe
from tunesmith.errors import DataError
from tunesmith.events import Reporter, Silent
from tunesmith.recipe import Data, ObjectiveKind, Source

if TYPE_CHECKING:
    from tunesmith.data.template import ChatTemplate

EXAMPLES = 5
LEAST_TEXT = 20  # letters of a document that is worth calling a duplicate
LINE = 40  # bits of a place that are the row; those above are the file


def check(
    data: Data,
    *,
    objective: ObjectiveKind | None = None,
    template: ChatTemplate | None = None,
    reporter: Reporter | None = None,
    rules: Rules | None = None,
    own: OwnRules = NONE,
    tasks: Iterable[HeldText] = (),
    score: Score | None = None,
    examples: int = EXAMPLES,
) -> CheckReport:
    """Look at every row of every file. With a template lengths are exact tokens, without one characters.

    `tasks` are the questions of evaluation tasks, `score` a language model's nats of texts, for suspects.
    Never raises for what stands in the files; an unreadable file is a finding. UserError for a rule that fails.
    """
    reporter = reporter or Silent()
    doctor = _Doctor(data, objective, template, rules or load_rules(), own, score, Notes(examples))
    for task in tasks:
        doctor.leakage.add(task)
    files = []
    for use, source in inputs_of(data):
        try:
            files.append(doctor.read(use, source, open_source(source, reporter)))
        except DataError as error:
            for problem in error.problems:
                doctor.notes.add("unreadable_file", problem.where, f"{problem.what}; {problem.fix}")
            files.append(CheckedFile(source.path, use, source.format, "cannot be read", 0, 0))
    order = ("train", "validation", "test")
    files.sort(key=lambda file: order.index(file.use))
    return doctor.report(tuple(files), reporter)


@dataclass(slots=True)
class _Tally:
    """What one train source brings."""

    source: Source
    rows: int = 0
    size: int = 0
    learnt: int = 0
    languages: Counter[str] = field(default_factory=Counter)


@dataclass(slots=True)
class _Doctor:
    """What is known of the rows so far: digests, sketches, lengths, counts and a few examples."""

    data: Data
    objective: ObjectiveKind | None
    template: ChatTemplate | None
    rules: Rules
    own: OwnRules
    score: Score | None
    notes: Notes
    # a row is half of its digest and its place, a file's number and a line: millions fit in memory
    seen: dict[int, int] = field(default_factory=dict)
    answers: dict[int, tuple[int, int]] = field(default_factory=dict)
    files: list[tuple[Split, str]] = field(default_factory=list)
    held_out: HeldOut = field(default_factory=HeldOut)
    lengths: array[int] = field(default_factory=lambda: array("q"))
    turns: array[int] = field(default_factory=lambda: array("q"))
    tallies: list[_Tally] = field(default_factory=list)
    sketches: Sketches = field(default_factory=Sketches)
    leakage: Leakage = field(init=False)
    look: Look = field(init=False)
    columns: Columns = field(init=False)

    def __post_init__(self) -> None:
        self.leakage = Leakage(self.sketches.units)
        suspects = Suspects(self.score) if self.score is not None else None
        pattern = self.template.control.pattern() if self.template else None
        self.look = Look(self.notes, self.rules, self.own, pattern, suspects)
        self.columns = Columns(self.data)

    def read(self, use: Split, source: Source, opened: Opened) -> CheckedFile:
        """Read one file to its end."""
        rows = bad = 0
        path = ""
        last = ""
        tally = _Tally(source)
        if use == "train":
            self.tallies.append(tally)
        for raw in opened.rows:
            rows += 1
            last = raw.address
            if (of := last.rpartition(":")[0]) != path:  # a folder has several files
                path = of
                self.files.append((use, path))
            record = opened.record(raw)
            if isinstance(record, Fault):
                bad += 1
                self.notes.add_bad(record.reason, raw.address, record.detail)
            else:
                self._row(use, raw.address, record, tally)
                if use == "train":
                    self.columns.take(raw)
        if opened.format == "text" and rows == 1 and source.split == "auto" and source.path.endswith(".txt"):
            self.notes.add("one_document", last, "the whole file is one document")
        return CheckedFile(source.path, use, opened.format, opened.why, rows, bad)

    def _row(self, use: Split, address: str, record: Record, tally: _Tally) -> None:
        """Everything that is asked of a good row."""
        is_new = self._compare(use, address, record)
        if isinstance(record, Text) and self.objective == "sft":
            self.notes.add("text_under_sft", address, "a text has no answer to learn")
        if language := self.look.at(address, record):
            tally.languages[language] += 1
        tally.rows += 1
        if isinstance(record, Chat | Judged):
            chat = record if isinstance(record, Chat) else record.chat
            self.turns.append(sum(m.role == "user" for m in chat.messages))
        texts = texts_of(record)
        if use != "train":
            self.leakage.add(HeldText(use, address, question_of(record)))
        elif is_new:
            self.sketches.add(self._at(address), "\n".join(texts))
            if leak := self.leakage.find(texts):
                rule = f"leak_of_{leak.held.use if leak.held.use in ('validation', 'test') else 'task'}"
                what = f"holds {100 * leak.share:.0f}% of the question at {leak.held.address}"
                self.notes.add(rule, address, what, excerpt(leak.held.text))
        self._measure(address, record, texts, tally)

    def _at(self, address: str) -> int:
        return (len(self.files) - 1 << LINE) | int(address.rpartition(":")[2])

    def _compare(self, use: Split, address: str, record: Record) -> bool:
        """With all rows before it: the same, or the same question with another answer. Whether it is new."""
        keys = row_keys(record)
        key, place = _short(keys[-1]), self._at(address)
        first = self.seen.setdefault(key, place)
        other, where = self._place(first)
        # a heading or a line of stars may come again in a book
        short = isinstance(record, Text) and sum(map(str.isalnum, record.text)) < LEAST_TEXT
        if first != place and other == use and not short:
            self.notes.add("duplicate_row", address, f"the same as {where}", excerpt(question_of(record)))
        if held_out := self.held_out.find(use, keys):
            what = f"the same as {where}" if other == held_out else f"begins or continues a row of {held_out}"
            self.notes.add(f"{use}_row_in_{held_out}", address, what, excerpt(question_of(record)))
        if use != "train":
            self.held_out.add(use, keys)
        if isinstance(record, Chat):
            answer = _short(answer_key(record))
            first_answer, asked = self.answers.setdefault(_short(prompt_key(record)), (answer, place))
            if answer != first_answer:
                where = self._place(asked)[1]
                what = f"{where} answers the same question otherwise"
                self.notes.add("contradictory_answer", address, what, excerpt(question_of(record)))
        return first == place and not held_out

    def _place(self, place: int) -> tuple[Split, str]:
        """What the file of a place is for, and its address; in the file at hand the row alone."""
        use, path = self.files[place >> LINE]
        row = place & (1 << LINE) - 1
        return use, f"row {row}" if place >> LINE == len(self.files) - 1 else f"{path}:{row}"

    def _measure(self, address: str, record: Record, texts: Sequence[str], tally: _Tally) -> None:
        """The length, in tokens where a template is given, and what the limit would do to it."""
        if self.template is None:
            size = sum(map(len, texts))
            learnt = _answered(record)
        else:
            from tunesmith.data.render import Drop, render

            whole, objective = 1 << 40, self.objective or _objective(record)
            result = render(record, address, self.template, objective, whole, "drop")
            if isinstance(result, Drop):
                self.notes.add_bad(result.reason, address, result.detail)
                return
            ids = [rendering.ids for rendering in result.renderings]
            unknown = sum(int((part == self.template.control.unknown).sum()) for part in ids)
            if unknown:
                what = f"{unknown} of {result.tokens_in} tokens are unknown"
                self.notes.add("unknown_token", address, what)
            size, learnt = max(map(len, ids)), sum(int(r.learnt.sum()) for r in result.renderings)
            if size > self.data.max_length:
                what = f"{size} tokens; data.max_length is {self.data.max_length}"
                self.notes.add("too_long", address, what)
        self.lengths.append(size)
        tally.size += size
        tally.learnt += learnt

    def report(self, files: tuple[CheckedFile, ...], reporter: Reporter) -> CheckReport:
        """Put it together, errors first, then by count."""
        sources = [source for use, source in inputs_of(self.data) if use == "train"]
        exact = confirm(self.sketches, sources, self.files, self.rules.near, self.notes, reporter)
        self.look.close()
        budget = self._budget()
        judge_sources(budget, self.notes)
        judge_tasks(self.columns.tasks, self.notes)
        for name in self.columns.missing:
            self.notes.add("missing_tag_column", "data.tags", f"no row has {name!r:.40}")
        unit = "characters" if self.template is None else "tokens"
        compared = {
            "near_rows": len(self.sketches.rows),
            "near_left_out": self.sketches.left_out,
            "near_exact": exact,
            "held_out_questions": len(self.leakage.items),
        }
        return CheckReport(
            files,
            self.notes.findings(self.data.on_bad_row),
            describe(np.array(self.lengths, np.int64), unit),
            describe(np.array(self.turns, np.int64), "questions a row"),
            budget,
            compared,
        )

    def _budget(self) -> tuple[Share, ...]:
        total = max(1, sum(tally.size for tally in self.tallies))
        return tuple(
            Share(
                t.source.path,
                t.rows,
                t.size,
                t.learnt,
                round(t.size / total, 4),
                t.source.weight,
                _most(t.languages),
            )
            for t in self.tallies
        )


def _most(counts: Counter[str]) -> Mapping[str, int]:
    return dict(counts.most_common(8))


def _answered(record: Record) -> int:
    """Characters that would be learnt."""
    if isinstance(record, Text):
        return len(record.text)
    return sum(
        len(m.content) for chat in as_chats(record)[:1] for m in chat.messages if m.role == "assistant"
    )


def _short(key: Key) -> int:
    return int.from_bytes(key[:8], "little")


def _objective(record: Record) -> ObjectiveKind:
    return "pretrain" if isinstance(record, Text) else "sft"
