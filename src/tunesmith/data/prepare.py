"""From data files to samples ready to learn from, with the books that say what became of each row.

test path, validation path, train sources  --read, convert, render-->  columns, a key a row
keys  --split-->  train (one set a source) | validation | test          equal rows never part
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy import ndarray

from tunesmith.data.files import files_of
from tunesmith.data.fingerprint import fingerprint, hash_file
from tunesmith.data.formats import Fault, fix_of
from tunesmith.data.gather import Columns, Gathered, open_source, read_records
from tunesmith.data.label_rules import breaches
from tunesmith.data.ledger import Ledger, SourceAccount, SplitLedger, TokenLedger, TouchedRow
from tunesmith.data.quality import source_weights
from tunesmith.data.records import Record, Text
from tunesmith.data.render import Drop, Rendered, render
from tunesmith.data.samples import IGNORED, SampleSet, to_sample
from tunesmith.data.splits import HeldOut, Key, Split, is_augmented, place, split_keys
from tunesmith.data.template import ChatTemplate
from tunesmith.errors import DataError, Problem
from tunesmith.events import Reporter, Silent
from tunesmith.recipe import Data, ObjectiveKind, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

# Formats that are read, checked and shown, but that no objective learns from yet.
NOT_TRAINED: Mapping[str | None, str] = {
    "preference": "which sft and pretrain cannot learn from; no objective for pairs exists yet",
    "kto": "which sft and pretrain cannot learn from: half of such answers are meant as bad ones",
    "choice": "which are for evaluation: name the file in evaluation.tasks",
}
SPELT = 50  # bad rows named one by one; the rest are counted


@dataclass(frozen=True, slots=True)
class Prepared:
    """All a run needs of its data. `longest` is the longest sample of any split, in tokens.

    `fingerprint` stands for everything that decides the samples, `files` names the sha256 of each file.
    """

    train: tuple[SampleSet, ...]
    weights: tuple[float | None, ...]
    validation: SampleSet | None
    test: SampleSet | None
    ledger: Ledger
    fingerprint: str
    longest: int
    files: dict[str, str]


def prepare(
    data: Data,
    objective: ObjectiveKind,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    seed: int,
    reporter: Reporter | None = None,
    training: bool = True,
) -> Prepared:
    """Read, convert, render, split and collect. Raises DataError with all bad rows at once.

    Comparisons and questions are no training data yet; `training=False` takes them too, to be counted.
    """
    reporter = reporter or Silent()
    inputs = inputs_of(data)
    _require_files(source.path for _, source in inputs)
    before = [hash_file(source.path) for _, source in inputs]
    reading = _Reading(data, objective, tokenizer, template, reporter, training)
    if data.on_bad_row == "error":  # reading costs a hundredth of rendering: a late bad row is told early
        reading.scan(inputs)
    for use, source in inputs:
        reading.read(use, source)
    reading.raise_problems()
    changed = [s.path for (_, s), old in zip(inputs, before) if hash_file(s.path) != old]
    if changed:
        raise DataError([Problem(path, "changed while it was being read", "run again") for path in changed])
    files = dict(zip((source.path for _, source in inputs), before))
    digest = fingerprint(before, data, objective, tokenizer, template, seed)
    return _split(reading, data, seed, digest, files)


def _require_files(paths: Iterable[str]) -> None:
    """All files that cannot be read, together."""
    problems: list[Problem] = []
    for path in dict.fromkeys(paths):
        try:
            files_of(path)
        except DataError as error:
            problems += error.problems
    if problems:
        raise DataError(problems)


def inputs_of(data: Data) -> list[tuple[Split, Source]]:
    """Every file of a recipe and what it is for; held-out files first, so that train can avoid their rows."""
    shapes = {(source.format, tuple(sorted(source.columns.items()))) for source in data.train}
    # names given for the train files hold for the held-out ones, where there is no doubt about them
    named = data.train[0] if len(shapes) == 1 and data.train[0].columns else Source(path="")
    inputs: list[tuple[Split, Source]] = []
    parts: list[tuple[Split, float | str | None]] = [("test", data.test), ("validation", data.validation)]
    for use, part in parts:
        if isinstance(part, str):
            inputs.append(
                (use, Source(path=part, format=named.format, columns=named.columns, tags=data.tags))
            )
    return [*inputs, *(("train", source) for source in data.sources)]


class _Reading:
    """Reads source after source; holds what is known of them and what is wrong with them."""

    def __init__(
        self,
        data: Data,
        objective: ObjectiveKind,
        tokenizer: PreTrainedTokenizerFast,
        template: ChatTemplate,
        reporter: Reporter,
        training: bool,
    ) -> None:
        self.data, self.objective, self.template, self.reporter = data, objective, template, reporter
        self.bos_id = tokenizer.bos_token_id
        self.sources: list[Gathered] = []
        self.bad: list[Problem] = []
        self.bad_count = 0
        self.broken_labels: list[Problem] = []
        self.broken_files: list[Problem] = []
        self.held_out = HeldOut()
        self.left = data.limit
        self.training = training

    def scan(self, inputs: Iterable[tuple[Split, Source]]) -> None:
        """Look for bad rows without rendering any; raises them all."""
        for use, source in inputs:
            for _, address, record in self._records(use, source):
                if isinstance(record, Fault):
                    self._complain(address, record.reason, record.detail)
        self.raise_bad_rows()
        self.sources, self.left = [], self.data.limit

    def _records(self, use: Split, source: Source) -> Iterator[tuple[Gathered, str, Record | Fault]]:
        """Each row of a source within data.limit; a file that cannot be used is noted, and gives none."""
        try:
            opened = open_source(source, self.reporter)
        except DataError as error:  # told together with the bad rows of other files
            self.broken_files += error.problems
            return
        if opened.format in NOT_TRAINED and self.training:
            what = f"holds rows of format {opened.format}, {NOT_TRAINED[opened.format]}"
            fix = "convert what is to be learnt to messages; tunesmith data check and show read it as it is"
            self.broken_files.append(Problem(source.path, what, fix))
            return
        got = Gathered(source, use, SourceAccount(source.path, opened.format, use))
        self.sources.append(got)
        for address, record in read_records(opened, got.account, self.left if use == "train" else None):
            no_answer = isinstance(record, Text) and self.objective == "sft"
            yield got, address, _NO_ANSWER if no_answer else record
        if use == "train" and self.left is not None:
            self.left -= min(self.left, got.account.rows_in)

    def read(self, use: Split, source: Source) -> None:
        """Read one source to its end. Bad rows are gathered, never raised here."""
        for got, address, record in self._records(use, source):
            if not isinstance(record, Fault):
                self._take(got, address, record)
                continue
            self._drop(got, address, record.reason, record.detail)
            if self.data.on_bad_row == "error":
                self._complain(address, record.reason, record.detail)
        for got in self.sources[-1:] if use != "train" else ():
            for keys in got.keys:
                self.held_out.add(got.use, keys)

    def _take(self, got: Gathered, address: str, record: Record) -> None:
        """One good record: rendered, checked and laid into the columns, or dropped."""
        keys = split_keys(record)
        if is_augmented(keys) and got.use != "train":
            self._drop(got, address, "augmented", f"an augmented row is never in {got.use}")
            return
        if (held_out := self.held_out.find(got.use, keys)) is not None:
            detail = f"the row, its beginning or its continuation stands in the {held_out} file"
            self._drop(got, address, f"also_in_{held_out}", detail)
            return
        data = self.data
        result = render(record, address, self.template, self.objective, data.max_length, data.overlength)
        if isinstance(result, Drop):
            if result.fatal or (result.reason not in _TOO_LONG and data.on_bad_row == "error"):
                self._complain(address, result.reason, result.detail)
            self._drop(got, address, result.reason, result.detail)
            return
        spot = len(got.keys) < 50 or len(got.keys) % 50 == 0
        wrong = breaches(record, result, self.template, self.objective, self.bos_id, against_inference=spot)
        self.broken_labels += [
            Problem(address, what, "set data.template: plain, and please report this template")
            for what in wrong
        ]
        if not wrong:
            self._keep(got, address, result, keys)

    def _keep(self, got: Gathered, address: str, result: Rendered, keys: tuple[Key, ...]) -> None:
        row = len(got.keys)
        got.keys.append(keys)
        if is_augmented(keys):
            got.augmented[row] = (address, result)
        for rendering in result.renderings:
            got.columns.append(to_sample(rendering), row)
        got.cut_tokens += result.tokens_cut
        got.kept_tokens += result.tokens_in - result.tokens_cut
        got.repeated_tokens += result.tokens_repeated
        reason = _REASONS.get(result.fate)
        got.account.settle(result.fate, reason)
        if reason:
            turns = sorted({cut.turn for rendering in result.renderings for cut in rendering.cut})
            detail = f"turns {', '.join(map(str, turns))} left out" if turns else ""
            got.touched.append(
                TouchedRow(address, result.fate, reason, detail, result.tokens_cut, len(result.renderings))
            )

    def _drop(self, got: Gathered, address: str, reason: str, detail: str) -> None:
        got.account.settle("dropped", reason)
        got.touched.append(TouchedRow(address, "dropped", reason, detail))

    def _complain(self, address: str, reason: str, detail: str) -> None:
        self.bad_count += 1
        if len(self.bad) < SPELT:
            self.bad.append(Problem(address, f"{reason}: {detail}", fix_of(reason)))

    def raise_bad_rows(self) -> None:
        """One error for all files that cannot be used and all rows that mean nothing."""
        problems = [*self.broken_files, *self.bad]
        if self.bad:
            more = f", {self.bad_count - SPELT} more than are listed" if self.bad_count > SPELT else ""
            fix = "correct them, or leave them out and count them: data.on_bad_row=drop"
            if self.data.overlength == "error":
                fix += "; longer rows: data.overlength=keep_last_turns"
            rows = f"{self.bad_count} bad row{'s' * (self.bad_count != 1)}"
            problems.append(Problem("data", f"{rows} in all{more}", fix))
        if problems:
            raise DataError(problems)

    def raise_problems(self) -> None:
        """One error for everything that is wrong with the rows."""
        if self.broken_labels:
            raise DataError(self.broken_labels[:SPELT])
        self.raise_bad_rows()
        for got in self.sources:
            if not got.keys and got.use != "train":
                _raise_empty(f"data.{got.use}", [got])
        train = [got for got in self.sources if got.use == "train"]
        if not any(got.keys for got in train):
            _raise_empty("data.train", train)


_NO_ANSWER = Fault("no_answer", "a text has no answer to learn; objective: pretrain learns it whole")
_TOO_LONG = {"too_long", "turn_too_long"}  # what data.overlength decides, not a fault of the row
_REASONS = {"shortened": "too_long", "split": "too_long", "expanded": "template_not_prefix_stable"}


def _raise_empty(where: str, sources: Sequence[Gathered]) -> None:
    reasons = ", ".join(f"{n} {reason}" for got in sources for reason, n in got.account.reasons.items())
    rows = sum(got.account.rows_in for got in sources)
    raise DataError.at(where, f"none of {rows} rows is left ({reasons})", "see tunesmith data check")


def _split(reading: _Reading, data: Data, seed: int, digest: str, files: dict[str, str]) -> Prepared:
    """Assign each row to its side, cut the columns accordingly and close the books."""
    by_share = {
        use: None if isinstance(p := getattr(data, use), str) else p for use in ("validation", "test")
    }
    train = [got for got in reading.sources if got.use == "train"]
    sides = dict(
        zip(
            map(id, train),
            place(
                [got.keys for got in train],
                [got.account.format == "text" for got in train],
                by_share["validation"],
                by_share["test"],
                seed,
            ),
        )
    )
    parts: dict[Split, list[SampleSet]] = {"train": [], "validation": [], "test": []}
    counts = dict.fromkeys(parts, 0)
    for got in reading.sources:
        side = np.array(sides.get(id(got), [got.use] * len(got.keys)), dtype="U10")
        _leave_out(got, side)
        for split, sets in parts.items():
            chosen = side == split
            counts[split] += int(chosen.sum())
            if (split == "train" and got.use == "train") or chosen.any():
                sets.append(got.columns.select(chosen))
        got.columns = Columns()
    held_out = {split: _join(parts[split]) for split in ("validation", "test")}
    ledger = _close(reading.sources, parts, counts)
    every = [s for sets in parts.values() for s in sets]
    return Prepared(
        train=tuple(parts["train"]),
        weights=source_weights([got.source for got in train], [len(s.tokens) for s in parts["train"]]),
        validation=held_out["validation"],
        test=held_out["test"],
        ledger=ledger,
        fingerprint=digest,
        longest=max(int(s.lengths.max(initial=0)) for s in every),
        files=files,
    )


def _leave_out(got: Gathered, side: ndarray) -> None:
    """Take augmented rows out of the books again whose originals are held out."""
    for row, (address, result) in got.augmented.items():
        if side[row] == "train":
            got.account.augmented += 1
            continue
        original, side[row] = side[row], "dropped"
        got.cut_tokens -= result.tokens_cut
        got.kept_tokens -= result.tokens_in - result.tokens_cut
        got.repeated_tokens -= result.tokens_repeated
        got.account.take_back(result.fate, _REASONS.get(result.fate))
        got.touched = [touched for touched in got.touched if touched.address != address]
        got.account.settle("dropped", f"augmented_of_{original}")
        detail = f"the row it was made of is in {original}"
        got.touched.append(TouchedRow(address, "dropped", f"augmented_of_{original}", detail))


def _join(sets: Sequence[SampleSet]) -> SampleSet | None:
    """Several sets as one, in order; None when there is none."""
    if len(sets) <= 1:
        return next(iter(sets), None)
    lengths: ndarray = np.concatenate([s.lengths for s in sets])
    return SampleSet(
        tokens=np.concatenate([s.tokens for s in sets]),
        labels=np.concatenate([s.labels for s in sets]),
        offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths)]),
        addresses=tuple(address for s in sets for address in s.addresses),
        weights=_join_weights(sets),
    )


def _join_weights(sets: Sequence[SampleSet]) -> ndarray | None:
    if all(s.weights is None for s in sets):
        return None
    given = (s.weights if s.weights is not None else (s.labels != IGNORED).astype(np.float32) for s in sets)
    joined: ndarray = np.concatenate(list(given))
    return joined


def _close(
    sources: Sequence[Gathered], parts: dict[Split, list[SampleSet]], rows: dict[Split, int]
) -> Ledger:
    """The books, train sources first."""
    splits = {
        str(split): SplitLedger(
            rows=rows[split],
            samples=sum(len(s) for s in sets),
            tokens=sum(len(s.tokens) for s in sets),
            targets=sum(int(s.targets.sum()) for s in sets),
        )
        for split, sets in parts.items()
        if sets
    }
    ordered = sorted(sources, key=lambda got: ("train", "validation", "test").index(got.use))
    tokens = TokenLedger(
        kept=sum(got.kept_tokens for got in sources),
        cut=sum(got.cut_tokens for got in sources),
        targets=sum(split.targets for split in splits.values()),
        repeated=sum(got.repeated_tokens for got in sources),
    )
    touched = tuple(row for got in ordered for row in got.touched)
    return Ledger(tuple(got.account.close() for got in ordered), tokens, splits, touched)
