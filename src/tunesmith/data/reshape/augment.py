"""More rows from few: the same question said a little differently, the answer as it was (note 000, point 5).

{"prompt": "How do I fix a lamp?", "response": ".."}  ->
{"prompt": "How do I mend a lamp?", "response": "..", "augmented": {"of": "faq.jsonl:7", "by": "synonyms", "key": ".."}}

The mark keeps such a row on the side of its original when rows are split (data/splits.py); `key` is the
original's content, so that it holds whatever the file is called.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import Any

from tunesmith.data.formats import Fault
from tunesmith.data.marks import MARK, is_marked
from tunesmith.data.records import Chat, Choice, Judged, Message, Preference, Record, Text, as_chats
from tunesmith.data.reshape.columns import read_by
from tunesmith.data.reshape.edits import EDITS
from tunesmith.data.reshape.output import Spool, require_output, staged
from tunesmith.data.reshape.rows import Losses, Read, good_rows, plain
from tunesmith.data.reshape.spell import spell
from tunesmith.data.reshape.synonyms import Synonyms, read_synonyms
from tunesmith.data.reshape.words import cut
from tunesmith.data.splits import row_keys
from tunesmith.errors import DataError
from tunesmith.events import Reporter
from tunesmith.recipe import DataFormat, Source

_TRIES = 4


@dataclass(frozen=True, slots=True)
class Recast:
    """How rows are augmented. `rate` is the share of the words that change; `per_row` how many rows each gives."""

    per_row: int = 1
    operations: tuple[str, ...] = tuple(EDITS)
    rate: float = 0.1
    turns: frozenset[str] = frozenset({"user"})
    synonyms: str | None = None
    seed: int = 0


def augment(
    source: Source, how: Recast, out: str, *, drop_bad: bool = False, reporter: Reporter | None = None
) -> dict[str, Any]:
    """Write the augmented rows, and only them, to the new file `out`; the report.

    A row gives `per_row` new ones, each by one operation, none of them equal to another row or to each other;
    fewer where its questions are too short, which is counted.
    """
    goal = require_output(out, source.path)
    table = read_synonyms(how.synonyms)
    seen = {
        _said(row.record, how)
        for _, _, row in good_rows([source], drop_bad, None)
        if not isinstance(row.record, Fault)
    }
    work = _Work(how, table, seen, Losses(), Counter(), [])
    rows_in = 0
    with Spool(goal.parent) as spool:
        for _, format, row in good_rows([source], drop_bad, reporter):
            rows_in += 1
            for new in work.rows(format, row):
                spool.put(new)
        if not spool.rows:
            every = work.missed.to_json()
            told = "; ".join(
                f"{each['count']} {each['reason']}: {each['examples'][0]['what']}" for each in every
            )
            raise DataError.at(
                source.path,
                f"gives no new row ({told})",
                "give dialogues with longer questions, another --operation, or --synonyms of your own",
            )
        with staged(goal) as beside:
            spool.lay(beside)
    return {
        "path": out,
        "rows_in": rows_in,
        "rows_out": spool.rows,
        "wanted": how.per_row * rows_in,
        "operations": dict(sorted(work.made.items())),
        "examples": work.examples,
        "missed": work.missed.to_json(),
        "seed": how.seed,
    }


def _said(record: Record, how: Recast) -> bytes:
    """All that stands before the last answer, and the answer where it may change: the same twice is one row."""
    if isinstance(record, Text):
        return row_keys(record)[-1]
    said = (
        f"{m.role}\0{m.content}"
        for m in as_chats(record)[0].messages[: None if "assistant" in how.turns else -1]
    )
    return hashlib.blake2b("\0\0".join(said).encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _first_change(one: Record, other: Record) -> tuple[str, str]:
    """The first turn that differs, before and after."""
    turns = zip(as_chats(one)[0].messages, as_chats(other)[0].messages)
    return next((a.content, b.content) for a, b in turns if a != b)


@dataclass(slots=True)
class _Work:
    how: Recast
    table: Synonyms
    seen: set[bytes]
    missed: Losses
    made: Counter[str]
    examples: list[dict[str, str]]

    def rows(self, format: DataFormat, row: Read) -> list[dict[str, Any]]:
        """The new rows of one."""
        record = row.record
        if isinstance(record, Fault):
            self.missed.note(record.reason, row.address, record.detail)
            return []
        assert row.value is not None
        if is_marked(row.value):
            self.missed.note("augmented_already", row.address, "is an augmented row itself")
            return []
        if isinstance(record, Text | Choice):
            what = (
                "a document has no question"
                if isinstance(record, Text)
                else "a test question is not trained on"
            )
            self.missed.note("not_augmented", row.address, what)
            return []
        key = row_keys(record)[-1]
        read = read_by(row.value, format, {})
        beside = {name: plain(held)[0] for name, held in row.value.items() if name not in read}
        new = []
        for number in range(self.how.per_row):
            draw = Random(hashlib.blake2b(key + bytes([number % 256]), key=_seed(self.how.seed)).digest())
            if (found := self._one(record, draw)) is None:
                self.missed.note("nothing_changes", row.address, "too short, or no word of it may be changed")
                continue
            changed, operation = found
            self.made[operation] += 1
            if self.made[operation] == 1:
                before, after = _first_change(record, changed)
                self.examples.append({"of": row.address, "by": operation, "before": before, "after": after})
            mark = {"of": row.address, "by": operation, "key": key.hex()}
            new.append({**spell(changed, format).rows[0], **beside, MARK: mark})
        return new

    def _one(self, record: Record, draw: Random) -> tuple[Record, str] | None:
        """The record said differently by one operation, or None where that comes out as something seen."""
        names = draw.sample(self.how.operations, len(self.how.operations))
        for operation in names:
            for _ in range(_TRIES):
                changed = self._by(record, operation, draw)
                if changed is not None and (said := _said(changed, self.how)) not in self.seen:
                    self.seen.add(said)
                    return changed, operation
        return None

    def _by(self, record: Record, operation: str, draw: Random) -> Record | None:
        match record:
            case Chat(messages=messages):
                turns = self._turns(messages, operation, draw)
                return replace(record, messages=turns) if turns else None
            case Judged(chat=chat):
                turns = self._turns(chat.messages, operation, draw)
                return replace(record, chat=replace(chat, messages=turns)) if turns else None
            case Preference(prompt=prompt):
                turns = self._turns(prompt, operation, draw)
                return replace(record, prompt=turns) if turns else None
        raise AssertionError(type(record).__name__)

    def _turns(self, messages: Sequence[Message], operation: str, draw: Random) -> tuple[Message, ...] | None:
        """The turns with those changed that may be; None where none does."""
        new = list(messages)
        for i, message in enumerate(messages):
            if message.role not in self.how.turns or message.calls:
                continue
            answer = messages[i + 1].content if i + 1 < len(messages) else ""
            pieces = cut(message.content, repeated=answer if message.role == "user" else "")
            count = max(1, round(self.how.rate * sum(piece.free for piece in pieces)))
            text = EDITS[operation](pieces, draw, count, self.table)
            if text is not None and text.strip():
                new[i] = replace(message, content=text)
        return tuple(new) if new != list(messages) else None


def _seed(seed: int) -> bytes:
    return seed.to_bytes(8, "little", signed=True)
