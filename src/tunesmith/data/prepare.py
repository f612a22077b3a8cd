"""From data files to samples ready to learn from, with the books that say what became of each row.

test path, validation path, train sources  --read, convert, render-->  shards in the cache, keys of each row
keys  --split-->  train (one set a source) | validation | test          equal rows never part
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tunesmith.data.files import files_of
from tunesmith.data.fingerprint import fingerprint, hash_file, hash_tokenizer
from tunesmith.data.gather import open_source
from tunesmith.data.heap import give_back
from tunesmith.data.index import held_out_of, index_of
from tunesmith.data.ledger import Ledger
from tunesmith.data.quality import source_weights
from tunesmith.data.refused import Refused
from tunesmith.data.samples import SampleSet, join
from tunesmith.data.splits import Split
from tunesmith.data.streaming.lanes import Streams
from tunesmith.data.streaming.reading import digest_of
from tunesmith.data.template import ChatTemplate
from tunesmith.data.tokenised import BadRows, Kitchen, Tokenised
from tunesmith.data.work import SPELT, Wanted
from tunesmith.data.workers import Words
from tunesmith.errors import DataError, Problem
from tunesmith.events import Reporter, Silent
from tunesmith.recipe import Data, ObjectiveKind, Source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


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
    streams: Streams | None = None
    """How the streams among the train sources are read; `train` has the others until their plan is made."""


def prepare(
    data: Data,
    objective: ObjectiveKind,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    seed: int,
    reporter: Reporter | None = None,
    training: bool = True,
    workers: int | None = None,
    watch: Callable[[list[int]], None] = lambda pids: None,
) -> Prepared:
    """Read, convert, render, split and collect, from the cache as far as it has it. Raises DataError with all bad rows.

    Comparisons and questions are no training data yet; `training=False` takes them too, to be counted.
    `workers` processes render (None: as many as the size is worth, here where it is small); `watch` hears who they are.
    """
    reporter = reporter or Silent()
    streamed = [source for source in data.sources if source.stream is not None]
    inputs = [(use, source) for use, source in inputs_of(data) if source.stream is None]
    _require_files(source.path for _, source in inputs)
    hashes = [hash_file(source.path) for _, source in inputs]
    digests = {source.path: digest_of(source) for source in streamed}
    wanted = Wanted(objective, data.max_length, data.overlength)
    give_back()  # what loading the tokenizer left
    rules = hash_tokenizer(tokenizer)
    kitchen = Kitchen(Words.of(tokenizer), rules, template, wanted, reporter, workers, watch)
    reading = _Reading(data, kitchen, training)
    for (use, source), content in zip(inputs, hashes):
        reading.read(use, source, content)
    reading.raise_problems()
    _require_unchanged(reading, inputs, hashes)
    validation, test = (None if isinstance(part, str) else part for part in (data.validation, data.test))
    found = index_of(reading.sources, validation, test, seed)
    every = [each for sets in found.sets.values() for each in sets]
    return Prepared(
        train=tuple(found.sets["train"]),
        weights=source_weights(
            [s for s in data.train if s.stream is None], [part.token_count for part in found.sets["train"]]
        ),
        validation=join(found.sets["validation"]),
        test=join(found.sets["test"]),
        ledger=found.ledger,
        fingerprint=fingerprint([*hashes, *digests.values()], data, objective, rules, template, seed),
        longest=max((data.max_length if streamed else 0, *(each.longest for each in every))),
        files=dict(zip((source.path for _, source in inputs), hashes)) | digests,
        streams=Streams(data.sources, kitchen, data.on_bad_row == "error", held_out_of(found.ledger))
        if streamed
        else None,
    )


def _require_unchanged(
    reading: _Reading, inputs: Sequence[tuple[Split, Source]], hashes: Sequence[str]
) -> None:
    """No file may have changed under the reading; what was made of one that has is taken away."""
    changed = [n for n, (_, source) in enumerate(inputs) if hash_file(source.path) != hashes[n]]
    for number in changed:
        reading.sources[number].discard()
    if changed:
        what = "changed while it was being read"
        raise DataError([Problem(inputs[number][1].path, what, "run again") for number in changed])


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


@dataclass(slots=True)
class _Reading:
    """Reads source after source; holds what is known of them and what is wrong with them."""

    data: Data
    kitchen: Kitchen
    training: bool
    sources: list[Tokenised] = field(default_factory=list)
    refused: Refused = field(init=False)
    left: int | None = None

    def __post_init__(self) -> None:
        self.left, self.refused = self.data.limit, Refused(self.data)

    def read(self, use: Split, source: Source, content: str) -> None:
        """Tokenise one source. What is wrong with it is gathered, never raised here."""
        strict = self.data.on_bad_row == "error"
        limit = self.left if use == "train" else None
        try:
            opened = open_source(source, self.kitchen.reporter)
            if self.training and self.refused.untrained(opened):
                return
            found = self.kitchen.tokenise(opened, use, content, limit, strict)
        except DataError as error:  # told together with the bad rows of other files
            self.refused.files += error.problems
            return
        if isinstance(found, BadRows):
            self.refused.add(found.problems, found.count)
            return
        self.refused.add(*found.complaints({"bad", "fatal"} if strict else {"fatal"}))
        self.sources.append(found)
        if limit is not None:
            self.left = limit - min(limit, found.rows_read)

    def raise_problems(self) -> None:
        """One error for all files that cannot be used and all rows that mean nothing; else for broken labels."""
        self.refused.tell()
        if labels := [each for source in self.sources for each in source.complaints({"labels"})[0]]:
            raise DataError(labels[:SPELT])
        for source in self.sources:
            if source.use != "train" and not source.rows:
                _raise_empty(f"data.{source.use}", [source])
        train = [source for source in self.sources if source.use == "train"]
        if train and not any(source.rows for source in train):
            _raise_empty("data.train", train)


def _raise_empty(where: str, sources: Sequence[Tokenised]) -> None:
    accounts = [source.account() for source in sources]
    reasons = ", ".join(f"{n} {reason}" for account in accounts for reason, n in account.reasons.items())
    rows = sum(account.rows_in for account in accounts)
    raise DataError.at(where, f"none of {rows} rows is left ({reasons})", "see tunesmith data check")
