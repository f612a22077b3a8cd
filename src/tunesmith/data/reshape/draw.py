"""Draw a few rows from many: the first for a small first run, or a seeded few; and questions to ask every time.

rows --first N, or N by content and seed--> rows.jsonl (as they were), rest.jsonl (what is equal to none of them)
rows --a question a row, from each source--> probes.yaml, for evaluation: {probes: probes.yaml}
"""

from __future__ import annotations

import hashlib
import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tunesmith.data.formats import Fault
from tunesmith.data.records import Chat, Record, as_chats
from tunesmith.data.reshape.output import Spool, require_new, require_output, staged
from tunesmith.data.reshape.rows import Losses, good_rows, one_format, plain
from tunesmith.data.splits import Key, row_keys
from tunesmith.errors import DataError
from tunesmith.events import Reporter
from tunesmith.recipe import Source

# Reasons for which a good row is not asked.
GOOD = ("no_question", "too_long_for_an_option", "no_distractors")


@dataclass(frozen=True, slots=True)
class Asked:
    """A row, its first question and the answer to it; None where it asks nothing that can be answered at once."""

    question: str | None
    answer: str
    address: str
    source: int
    keys: tuple[Key, ...]
    record: Record
    value: Mapping[str, Any]

    @property
    def said(self) -> str:
        """The question without the white space around it."""
        assert self.question is not None
        return self.question.strip()


def rank(key: Key, seed: int) -> bytes:
    """Where a row stands in an order that only its content and the seed decide."""
    return hashlib.blake2b(key, key=seed.to_bytes(8, "little", signed=True), digest_size=16).digest()


def draw_rows(
    sources: Sequence[Source],
    count: int,
    out: str,
    *,
    or_all: bool = False,
    random: bool = False,
    seed: int = 0,
    rest: str | None = None,
    drop_bad: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write `count` rows to the new file `out`, as they were read, in their order; the report.

    Of fewer rows it writes all where `or_all`, else that is a DataError.
    `rest` names a file for the rows that neither equal, begin nor continue one that was drawn.
    """
    goal = require_output(out, sources[0].path)
    bad = Losses()
    keys: list[tuple[Key, ...]] = []
    with Spool(goal.parent) as spool:
        for _, row in one_format(good_rows(sources, drop_bad, reporter), sources, out):
            if isinstance(row.record, Fault):
                bad.note(row.record.reason, row.address, row.record.detail)
                continue
            assert row.value is not None
            keys.append(row_keys(row.record))
            spool.put(plain(row.value)[0])
            if not random and rest is None and spool.rows == count:
                break
        count = min(count, spool.rows) if or_all else count
        if count > spool.rows:
            raise DataError.at(
                sources[0].path,
                f"has {spool.rows} rows, {count} are asked for",
                f"ask for fewer: --number {spool.rows}",
            )
        numbers = heapq.nsmallest(count, range(len(keys)), key=lambda i: (rank(keys[i][-1], seed), i))
        chosen = set(numbers) if random else set(range(count))
        write_chosen(spool, [i in chosen for i in range(len(keys))], out)
        left = write_rest(spool, keys, chosen, rest, sources) if rest else None
    read = len(keys) + sum(bad.counts.values())
    return {
        "kind": "rows",
        "path": out,
        "rows": count,
        "rows_read": read,
        "rest": left,
        "losses": bad.to_json(),
    }


def write_chosen(spool: Spool, wanted: Sequence[bool], out: str) -> int:
    """The wanted rows of a spool, as a new file; how many there are."""
    goal = require_output(out)
    with staged(goal) as beside, Spool(goal.parent) as chosen:
        for row, keep in zip(spool, wanted):
            if keep:
                chosen.put(row)
        chosen.lay(beside)
        return chosen.rows


def write_rest(
    spool: Spool, keys: Sequence[tuple[Key, ...]], chosen: set[int], rest: str, sources: Sequence[Source]
) -> dict[str, Any]:
    """The rows that give none of the chosen away: what may be learnt when those are asked."""
    require_output(rest, sources[0].path)
    whole = {keys[i][-1] for i in chosen}
    beginnings = {key for i in chosen for key in keys[i]}
    wanted = [
        i not in chosen and keys[i][-1] not in beginnings and whole.isdisjoint(keys[i])
        for i in range(len(keys))
    ]
    rows = write_chosen(spool, wanted, rest)
    return {"path": rest, "rows": rows, "kept_out": len(keys) - len(chosen) - rows}


def asked(
    sources: Sequence[Source], bad: Losses, drop_bad: bool, reporter: Reporter | None = None
) -> list[Asked]:
    """Each row with its first question; those that cannot be read or ask nothing are counted."""
    found = []
    for number, _, row in good_rows(sources, drop_bad, reporter):
        if isinstance(row.record, Fault):
            bad.note(row.record.reason, row.address, row.record.detail)
            continue
        assert row.value is not None
        question, answer = _first_round(row.record)
        if question is None:
            bad.note("no_question", row.address, "is a text, or speaks to tools before it answers")
        keys = row_keys(row.record)
        found.append(Asked(question, answer, row.address, number, keys, row.record, row.value))
    return found


def _first_round(record: Record) -> tuple[str | None, str]:
    chats: tuple[Chat, ...] = as_chats(record)
    turns = [message for message in chats[0].messages if message.role != "system"] if chats else []
    if len(turns) < 2 or turns[1].role != "assistant" or turns[1].calls:
        return None, ""
    return turns[0].content, turns[1].content


def in_turn(found: Iterable[Asked], seed: int) -> list[Asked]:
    """Different questions in an order of content and seed, from each source in turn."""
    first: dict[str, Asked] = {}
    for item in found:
        if item.question is not None:
            first.setdefault(item.said, item)
    by_source: dict[int, list[Asked]] = {}
    for item in sorted(first.values(), key=lambda item: rank(item.keys[-1], seed)):
        by_source.setdefault(item.source, []).append(item)
    turns = itertools.zip_longest(*(by_source[number] for number in sorted(by_source)))
    return [item for turn in turns for item in turn if item is not None]


def draw_questions(found: Iterable[Asked], count: int, seed: int) -> list[Asked]:
    """Different questions, as many from each source as it can give, short ones and long ones.

    A source gives them in bands of length, one from each, so that ten questions are not ten of the same kind.
    """
    order = in_turn(found, seed)
    wanted = Counter(item.source for item in order[:count])
    drawn: list[Asked] = []
    for source, number in sorted(wanted.items()):
        mine = [item for item in order if item.source == source]
        place = {id(item): i for i, item in enumerate(mine)}
        ordered = sorted(mine, key=lambda item: (len(item.said), item.said))
        bounds = [round(i * len(ordered) / number) for i in range(number + 1)]
        bands = (ordered[a:b] for a, b in itertools.pairwise(bounds))
        drawn += [min(band, key=lambda item: place[id(item)]) for band in bands]
    return drawn


def draw_probes(
    sources: Sequence[Source],
    count: int,
    out: str,
    *,
    written: Sequence[str] = (),
    seed: int = 0,
    drop_bad: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write `count` questions to the new probes file `out`: the written ones first, then drawn ones."""
    goal = require_probes(out)
    bad = Losses()
    found = asked(sources, bad, drop_bad, reporter) if len(written) < count else []
    known = {question.strip() for question in written}
    fresh = (item for item in found if item.question is not None and item.said not in known)
    drawn = draw_questions(fresh, max(0, count - len(written)), seed)
    if len(written) + len(drawn) < count:
        what = f"asks {len(drawn)} different questions, {count - len(written)} are wanted"
        raise DataError.at(sources[0].path, what, "ask for fewer, or write some: --question TEXT")
    with staged(goal) as beside:
        beside.write_text(_probes_text(written, drawn), "utf-8")
    return {
        "kind": "probes",
        "path": out,
        "rows": len(written) + len(drawn),
        "rows_read": len(found) + bad_rows(bad),
        "questions": [*({"question": text, "from": None} for text in written),
                      *({"question": item.said, "from": item.address} for item in drawn)],
        "losses": bad.to_json(),
    }  # fmt: skip


def bad_rows(bad: Losses) -> int:
    """Rows that could not be read, among those that were noted."""
    return sum(n for reason, n in bad.counts.items() if reason not in GOOD)


def require_probes(out: str) -> Path:
    """The path of a probes file to be made."""
    if Path(out).suffix.lower() not in (".yaml", ".yml"):
        raise DataError.at(out, "is no .yaml", "probes are kept in YAML: --out probes.yaml")
    return require_new(Path(out))


def _probes_text(written: Sequence[str], drawn: Sequence[Asked]) -> str:
    lines = [
        "# Asked before and after training, in every evaluation of a recipe that says",
        "#   evaluation: {probes: THIS FILE}",
        "# Read the answers yourself. Drawn questions stand in the data: they tell what was learnt, not what was",
        "# understood; add some of your own, and some on what must not be forgotten.",
    ]
    for question, where in [*((text, None) for text in written), *((d.said, d.address) for d in drawn)]:
        if where:
            lines.append(f"# {where.encode('unicode_escape').decode() if not where.isprintable() else where}")
        lines.append(
            yaml.safe_dump([question], allow_unicode=True, width=10**9, default_style='"').rstrip("\n")
        )
    return "\n".join(lines) + "\n"
