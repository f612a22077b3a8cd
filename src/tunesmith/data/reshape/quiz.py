"""Build a test set of one's own field: questions with options to be scored by themselves, open ones for people.

{"question": "1+1?", "answer": "2"} + other answers -> {"question": "1+1?", "options": ["4", "2", ..], "answer": "B",
                                                        "review": "options drawn from other answers: ..."}
rows that have options already                      -> as they are, without a need of review
any rows                                            -> a sheet (.md or .csv) to read, answer beside and mark

Note 001, point 9: two test sets, one of choices scored automatically, one open and judged by people.
"""

from __future__ import annotations

import csv
import io
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.data.judged import LETTERS
from tunesmith.data.records import Choice
from tunesmith.data.reshape.draw import Asked, asked, bad_rows, draw_questions, in_turn, rank, write_rest
from tunesmith.data.reshape.output import Spool, require_new, require_output, staged
from tunesmith.data.reshape.rows import Losses, plain
from tunesmith.data.reshape.spell import spell
from tunesmith.errors import DataError
from tunesmith.events import Reporter
from tunesmith.recipe import Source

OPTIONS = 4
LONGEST = 200
"""Characters of an answer that still makes an option; longer ones are for the open sheet."""
REVIEW = "options drawn from other answers: check that exactly one is right, then remove this column"
_SAME, _KNOWN = 0.8, 2000


@dataclass(frozen=True, slots=True)
class _Other:
    """An answer that may stand as a wrong option."""

    text: str
    address: str
    grams: frozenset[str]
    asked: frozenset[str]


def build_choices(
    sources: Sequence[Source],
    count: int,
    out: str,
    *,
    seed: int = 0,
    rest: str | None = None,
    drop_bad: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write `count` multiple-choice items to the new file `out`; the report.

    Wrong options are other rows' answers: of like length and script, as near in letters as they may be without
    being the same answer. They are plausible, not proved wrong: each such item is marked for review.
    """
    require_output(out, sources[0].path)
    bad = Losses()
    every = asked(sources, bad, drop_bad, reporter)
    fit = [item for item in every if item.question is not None and _may_be_asked(item, bad)]
    others = [
        _Other(item.answer.strip(), item.address, _grams(item.answer), _grams(item.said))
        for item in fit
        if not isinstance(item.record, Choice)
    ]
    items, chosen = _items(fit, others, count, seed, bad)
    if len(items) < count:
        told = "; ".join(f"{n} {reason}" for reason, n in bad.counts.items())
        raise DataError.at(
            sources[0].path, f"gives {len(items)} items, {count} are asked for" + (f" ({told})" if told else ""),
            "ask for fewer, or take the open form for long answers: --as open",
        )  # fmt: skip
    _write(items, out)
    left = _rest(every, chosen, rest, sources) if rest else None
    marked = sum("review" in item for item in items)
    return {
        "kind": "choice", "path": out, "rows": len(items), "rows_read": len(every) + bad_rows(bad), "to_review": marked,
        "answers": dict(sorted(Counter(item["answer"] for item in items).items())),
        "rest": left, "losses": bad.to_json(),
    }  # fmt: skip


def _items(
    fit: Sequence[Asked], others: Sequence[_Other], count: int, seed: int, bad: Losses
) -> tuple[list[dict[str, Any]], list[Asked]]:
    """At most `count` items, and the rows they ask."""
    items: list[dict[str, Any]] = []
    chosen: list[Asked] = []
    for candidate in in_turn(fit, seed):
        if len(items) == count:
            break
        if (item := _item(candidate, others, seed)) is None:
            what = f"fewer than {OPTIONS - 1} other answers are like its own"
            bad.note("no_distractors", candidate.address, what)
            continue
        items.append(item)
        chosen.append(candidate)
    return items, chosen


def _may_be_asked(item: Asked, bad: Losses) -> bool:
    if isinstance(item.record, Choice) or (
        len(item.answer.strip()) <= LONGEST and "\n" not in item.answer.strip()
    ):
        return True
    bad.note(
        "too_long_for_an_option",
        item.address,
        f"the answer has {len(item.answer)} characters or several lines",
    )
    return False


def _item(asked: Asked, others: Sequence[_Other], seed: int) -> dict[str, Any] | None:
    if isinstance(asked.record, Choice):
        return {**spell(asked.record, "choice").rows[0], "from": asked.address}
    draw = random.Random(rank(asked.keys[-1], seed))
    answer = asked.answer.strip()
    wrong = _distractors(asked, others, draw)
    if len(wrong) < OPTIONS - 1:
        return None
    options = [answer, *(other.text for other in wrong)]
    draw.shuffle(options)
    return {
        "question": asked.said,
        "options": options,
        "answer": LETTERS[options.index(answer)],
        "from": asked.address,
        "options_from": [other.address for other in wrong],
        "review": REVIEW,
    }


def _distractors(asked: Asked, others: Sequence[_Other], draw: random.Random) -> list[_Other]:
    """Answers to the likest questions that are not the same answer said differently, nor each other."""
    answer = asked.answer.strip()
    grams, question = _grams(answer), _grams(asked.said)
    some = draw.sample(others, min(len(others), _KNOWN))
    size = len(answer)

    def distance(other: _Other) -> tuple[bool, bool, float, float]:
        ratio = len(other.text) / size if size else 9.0
        far = not 0.5 <= ratio <= 2
        near = _likeness(question, other.asked) + _likeness(grams, other.grams)
        return _script(other.text) != _script(answer), far, -near, abs(ratio - 1)

    chosen: list[_Other] = []
    for other in sorted(some, key=distance):
        taken = [answer, *(c.text for c in chosen)]
        if _script(other.text) != _script(answer) or other.text.casefold() in {
            text.casefold() for text in taken
        }:
            continue
        if all(_likeness(other.grams, held) < _SAME for held in (grams, *(c.grams for c in chosen))):
            chosen.append(other)
        if len(chosen) == OPTIONS - 1:
            break
    return chosen


def _grams(text: str) -> frozenset[str]:
    """Pairs of neighbouring letters; of a single letter itself."""
    letters = "".join(text.casefold().split())
    return frozenset(letters[i : i + 2] for i in range(max(1, len(letters) - 1)))


def _likeness(one: frozenset[str], other: frozenset[str]) -> float:
    """Jaccard: 1 for the same pairs of letters, 0 for none in common."""
    return len(one & other) / len(one | other) if one | other else 1.0


def _script(text: str) -> str:
    """han, digits or letters: what the answer mostly is."""
    han = sum("\u3400" <= char <= "\u9fff" for char in text)
    digits = sum(char.isdigit() for char in text)
    letters = sum(char.isalpha() for char in text) - han
    return max((han, "han"), (digits, "digits"), (letters, "letters"))[1]


def _write(items: Sequence[Mapping[str, Any]], out: str) -> None:
    goal = require_output(out)
    with staged(goal) as beside, Spool(goal.parent) as spool:
        for item in items:
            spool.put(item)
        spool.lay(beside)


def _rest(
    every: Sequence[Asked], chosen: Sequence[Asked], rest: str, sources: Sequence[Source]
) -> dict[str, Any]:
    """The rows that the test does not ask, as they were, to be learnt."""
    goal = require_output(rest, sources[0].path)
    picked = {id(item) for item in chosen}
    with Spool(goal.parent) as spool:
        for item in every:
            spool.put(plain(item.value)[0])
        numbers = {i for i, item in enumerate(every) if id(item) in picked}
        return write_rest(spool, [item.keys for item in every], numbers, rest, sources)


SHEETS = (".md", ".csv")
_COLUMNS = ("id", "question", "answer", "model_answer", "score", "remarks", "from")


def build_sheet(
    sources: Sequence[Source],
    count: int,
    out: str,
    *,
    seed: int = 0,
    drop_bad: bool = False,
    reporter: Reporter | None = None,
) -> dict[str, Any]:
    """Write `count` open questions with their reference answers to a new sheet, .md to print or .csv to fill in."""
    goal = Path(out)
    if goal.suffix.lower() not in SHEETS:
        raise DataError.at(out, "is neither .md nor .csv", "name a sheet: --out open.md or --out open.csv")
    require_new(goal)
    bad = Losses()
    found = asked(sources, bad, drop_bad, reporter)
    drawn = draw_questions(found, count, seed)
    if len(drawn) < count:
        what = f"asks {len(drawn)} different questions, {count} are wanted"
        raise DataError.at(sources[0].path, what, "ask for fewer")
    with staged(goal) as beside:
        beside.write_text(
            _as_markdown(drawn) if goal.suffix.lower() == ".md" else _as_csv(drawn), "utf-8", newline="\n"
        )
    return {
        "kind": "open", "path": out, "rows": count, "rows_read": len(found) + bad_rows(bad),
        "losses": bad.to_json(),
    }  # fmt: skip


def _as_csv(drawn: Sequence[Asked]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(_COLUMNS)
    for number, item in enumerate(drawn, 1):
        writer.writerow([number, item.said, item.answer.strip(), "", "", "", item.address])
    return text.getvalue()


def _as_markdown(drawn: Sequence[Asked]) -> str:
    parts = [
        "# Open questions, to be judged by people",
        "",
        "Score 1 (useless or wrong) to 5 (as good as the reference, or better). Judge the answer, not its length.",
        "The reference is one good answer, not the only one.",
        "",
    ]
    for number, item in enumerate(drawn, 1):
        parts += [
            f"## {number}",
            "",
            _fenced(item.said),
            "",
            f"Reference ({item.address}):",
            "",
            _fenced(item.answer),
            "",
        ]
        parts += ["Model's answer:", "", "", "", "Score: ____ / 5    Remarks:", ""]
    return "\n".join(parts)


def _fenced(text: str) -> str:
    """The text as it is, whatever marks it holds: behind a fence longer than any inside it."""
    longest = max((len(run) for run in "".join(c if c == "`" else " " for c in text).split()), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}text\n{text}\n{fence}"
