"""Make one shard out of one piece: rows -> records -> exact tokens, checked -> columns and books.

piece --read--> parse --to_record--> (written quickly, or rendered) --label rules--> ShardBuilder --> shard-00003.*
                  |          |                    |                        |
                BadRow     Fault                 Drop                   a breach      --> complaints of the shard
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np

from tunesmith.data.books import Books
from tunesmith.data.formats import Fault
from tunesmith.data.gather import Opened
from tunesmith.data.label_rules import breaches, learnt_spans
from tunesmith.data.ledger import TouchedRow
from tunesmith.data.pieces import Piece
from tunesmith.data.rawrows import RawRow, count_lines
from tunesmith.data.records import Record, Text
from tunesmith.data.render import Drop, Overlength, Rendered, render
from tunesmith.data.samples import Rendering
from tunesmith.data.shard_builder import ShardBuilder
from tunesmith.data.splits import Key, split_keys
from tunesmith.data.template import ChatTemplate
from tunesmith.data.written import Quick, Written
from tunesmith.recipe import ObjectiveKind

SPELT = 50  # bad rows named one by one; the rest are counted
TOO_LONG = {"too_long", "turn_too_long"}  # what data.overlength decides, not a fault of the row
REASONS = {"shortened": "too_long", "split": "too_long", "expanded": "template_not_prefix_stable"}
_NO_ANSWER = Fault("no_answer", "a text has no answer to learn; objective: pretrain learns it whole")
_BATCH_ROWS, _BATCH_CHARACTERS = 512, 1 << 20
# How often a row is also compared with the prompts of inference: as slow as rendering it several times.
_ALWAYS, _OFTEN, _AT_FIRST, _SELDOM = 50, 50, 5000, 1000

Told = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Wanted:
    """What of a recipe decides how a row is rendered."""

    objective: ObjectiveKind
    max_length: int
    overlength: Overlength


def record_of(opened: Opened, raw: RawRow, objective: ObjectiveKind) -> Record | Fault:
    """What a row means for an objective, or why it means nothing."""
    record = opened.record(raw)
    return _NO_ANSWER if isinstance(record, Text) and objective == "sft" else record


@final
class Maker:
    """Makes shards, one after another, with one template."""

    def __init__(self, opened: Opened, wanted: Wanted, template: ChatTemplate, bos_id: int | None) -> None:
        self.opened, self.wanted, self.template, self.bos_id = opened, wanted, template, bos_id
        self.written = Written(template, wanted.objective)

    def scan(self, piece: Piece) -> Books:
        """Look for bad rows without rendering any."""
        books = Books(piece.name)
        for line, raw in piece.read():
            record = record_of(self.opened, raw, self.wanted.objective)
            if isinstance(record, Fault):
                books.complain(line, record.reason, record.detail, "bad", SPELT)
        if piece.rows is None:
            books.lines = count_lines(piece.path, piece.start, piece.end)
        return books

    def make(self, piece: Piece, folder: Path, told: Told = lambda done: None, strict: bool = False) -> Books:
        """Write the shard of a piece into the folder. `told` hears how many bytes of the file are done.

        `strict`: behind the first bad row the rest is only looked through, and nothing is written.
        """
        builder = ShardBuilder(piece.name)
        held: list[tuple[int, Record]] = []
        size, refused = 0, False
        for line, raw in piece.read():
            builder.books.rows_in += 1
            record = record_of(self.opened, raw, self.wanted.objective)
            if isinstance(record, Fault):
                self._drop(builder, line, record.reason, record.detail)
                builder.books.complain(line, record.reason, record.detail, "bad", SPELT)
                refused = strict
            if refused or isinstance(record, Fault):
                continue
            held.append((line, record))
            size += len(raw.data)
            if len(held) == _BATCH_ROWS or size > _BATCH_CHARACTERS:
                self._take(builder, held, first=piece.number == 0)
                held, size = [], 0
                told(raw.end)
        if not refused:
            self._take(builder, held, first=piece.number == 0)
        # bad rows were noted before those that are rendered after them: in the order of the file again
        builder.touched.sort(key=lambda row: int(row.address))
        if piece.rows is None:
            builder.books.lines = count_lines(piece.path, piece.start, piece.end)
        builder.books.format = self.opened.format
        if not refused:
            builder.write(folder, piece.number)
        told(piece.end)
        return builder.books

    def _take(self, builder: ShardBuilder, held: Sequence[tuple[int, Record]], first: bool) -> None:
        """Good records: rendered, checked and laid into the columns, or dropped."""
        quickly = self.written.write([record for _, record in held])
        for (line, record), quick in zip(held, quickly):
            keys = split_keys(record)
            rows = builder.rows
            often = _OFTEN if first and rows < _AT_FIRST else _SELDOM
            looked_at = (first and rows < _ALWAYS) or rows % often == 0
            if quick is not None and not looked_at and self._is_plain(quick):
                builder.row(line, "whole", keys, kept=len(quick.ids))
                builder.sample(quick.ids[: quick.spans[-1][1]], quick.spans, quick.weights)
            else:
                self._render(builder, line, record, keys, looked_at, quick)

    def _is_plain(self, quick: Quick) -> bool:
        """Whether a row fits, and does not begin with two BOS; the other rules of labels hold for its form."""
        fits = len(quick.ids) <= self.wanted.max_length
        return fits and (self.bos_id is None or not quick.ids[0] == quick.ids[1] == self.bos_id)

    def _render(
        self,
        builder: ShardBuilder,
        line: int,
        record: Record,
        keys: Sequence[Key],
        looked_at: bool,
        quick: Quick | None,
    ) -> None:
        wanted = self.wanted
        result = render(
            record, str(line), self.template, wanted.objective, wanted.max_length, wanted.overlength
        )
        if isinstance(result, Drop):
            kind = "fatal" if result.fatal else "long" if result.reason in TOO_LONG else "bad"
            if kind != "long":
                builder.books.complain(line, result.reason, result.detail, kind, SPELT)
            self._drop(builder, line, result.reason, result.detail)
            return
        if quick is not None and result.fate == "whole":
            assert quick.equals(result.renderings[0]), f"row {line}: written quickly, and rendered otherwise"
        wrong = breaches(
            record, result, self.template, wanted.objective, self.bos_id, against_inference=looked_at
        )
        for what in wrong:
            builder.books.complain(line, "labels", what, "labels", SPELT)
        if not wrong:
            _keep(builder, line, result, keys)

    def _drop(self, builder: ShardBuilder, line: int, reason: str, detail: str) -> None:
        builder.books.fates["dropped"] += 1
        builder.books.reasons[reason] += 1
        builder.touched.append(TouchedRow(str(line), "dropped", reason, detail))


def _keep(builder: ShardBuilder, line: int, result: Rendered, keys: Sequence[Key]) -> None:
    cut = result.tokens_cut
    builder.row(line, result.fate, keys, result.tokens_in - cut, cut, result.tokens_repeated)
    for rendering in result.renderings:
        spans, weights = stretches(rendering)
        builder.sample(rendering.ids[: spans[-1][1]].tolist(), spans, weights)
    reason = REASONS.get(result.fate)
    if reason:
        builder.books.reasons[reason] += 1
        turns = sorted({cut.turn for rendering in result.renderings for cut in rendering.cut})
        detail = f"turns {', '.join(map(str, turns))} left out" if turns else ""
        builder.touched.append(
            TouchedRow(str(line), result.fate, reason, detail, cut, len(result.renderings))
        )


def stretches(rendering: Rendering) -> tuple[list[tuple[int, int]], list[float] | None]:
    """[start, end) of what is learnt, and what each token of it weighs; parted where the weight changes."""
    if rendering.weights is None:
        starts, ends = learnt_spans(rendering.learnt)
        return list(zip(starts.tolist(), ends.tolist())), None
    weights = np.where(rendering.learnt, rendering.weights, 0)
    edges = [0, *(np.flatnonzero(np.diff(weights)) + 1).tolist(), len(weights)]
    spans = [(a, b) for a, b in itertools.pairwise(edges) if rendering.learnt[a]]
    return spans, [float(weights[a]) for a, _ in spans]
