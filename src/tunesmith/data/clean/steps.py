"""What can be done to a text or to a row, by name; those done unasked are ones that nobody disagrees with.

invisible   "a\\u200bb" -> "ab"                      duplicates  a row that stands twice is left out
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from tunesmith.data.clean.spots import Speaker, Spot
from tunesmith.data.doctor import text_faults, wording
from tunesmith.data.doctor.answers import cut_off
from tunesmith.data.doctor.custom import OwnRules, ask
from tunesmith.data.doctor.pieces import Mark, Piece, apply, pieces_of
from tunesmith.data.doctor.private import personal
from tunesmith.data.doctor.rules import Rules
from tunesmith.data.records import Chat, Judged, Record

Rewrite = Callable[[str, Speaker], str]
Verdict = Callable[[Record, Mapping[str, Any]], str | None]
ROUNDS = 8


@dataclass(frozen=True, slots=True)
class Step:
    """A step, what it does, and whether it is done unasked."""

    name: str
    does: str
    unasked: bool


STEPS: tuple[Step, ...] = (
    Step("encoding", "puts right text that was read in the wrong encoding", True),
    Step("control", "takes out control characters", True),
    Step("invisible", "takes out zero-width characters, bidi marks and soft hyphens", True),
    Step("line_ends", "writes line ends as \\n, takes blanks off the end of a text", True),
    Step("html", "turns entities into characters and takes out tags of web pages", False),
    Step("fillers", "takes out sounds without meaning: 嗯, 啊, um", False),
    Step("typos", "corrects what the table of suspects names", False),
    Step("personal", "masks telephone, identity and card numbers and e-mail addresses", False),
    Step("tags", "writes the columns of `tags` into the prompt", False),
    Step("unreadable", "leaves out rows that mean nothing, such as one with an empty answer", True),
    Step("placeholders", "leaves out rows with {{name}} still in them", False),
    Step("refusals", "leaves out rows that end in a boilerplate refusal", False),
    Step("unfit", "leaves out rows with content that the rule lists name", False),
    Step("cut_off", "leaves out rows whose answer is surely cut off", False),
    Step("leaks", "leaves out rows that hold a question of validation, test or a task", False),
    Step("duplicates", "keeps the first of equal rows", True),
    Step("near_duplicates", "keeps the first of nearly equal rows", False),
)
NAMES = tuple(step.name for step in STEPS)
UNASKED = tuple(step.name for step in STEPS if step.unasked)
_BLANK_END = re.compile(r"[ \t\n]+\Z")


def rewrites(steps: frozenset[str], rules: Rules, own: OwnRules, where: str) -> dict[str, Rewrite]:
    """The steps on texts that are wanted, in order, as functions of a text and who says it."""
    marked: dict[str, Callable[[Piece], Iterator[Mark]]] = {
        "encoding": text_faults.mojibake,
        "control": text_faults.odd_characters,
        "invisible": text_faults.invisible,
        "html": text_faults.stray_html,
        "fillers": partial(wording.fillers, rules),
        "typos": partial(wording.typos, rules),
        "personal": personal,
    }
    found: dict[str, Rewrite] = {}
    for name in NAMES:
        if name in steps and name in marked:
            found[name] = partial(_mended, marked[name], name)
        elif name in steps and name == "line_ends":
            found[name] = _line_ends
    for name, rule in own.clean.items():
        found[name] = partial(_by_own, rule, f"clean_{name}", where)
    return found


def _mended(find: Callable[[Piece], Iterator[Mark]], name: str, text: str, role: Speaker) -> str:
    if role in ("dialogue", "tool") and name in ("fillers", "typos"):
        return text
    speaker = "text" if role == "dialogue" else role
    return apply(text, find(Piece("", speaker, text)))


def _line_ends(text: str, role: Speaker) -> str:
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return text if role in ("dialogue", "text") else _BLANK_END.sub("", text)


def _by_own(rule: Callable[..., Any], name: str, where: str, text: str, role: Speaker) -> str:
    said = ask(rule, name, where, str, text, role)
    return text if said is None else str(said)


def settle(text: str, role: Speaker, steps: Mapping[str, Rewrite]) -> tuple[str, tuple[str, ...]]:
    """The text after all steps, again and again until none changes it; and the steps that did.

    A text that never settles is left as it was: cleaning twice must be the same as cleaning once.
    """
    changed: dict[str, None] = {}
    now = text
    for _ in range(ROUNDS):
        before = now
        for name, step in steps.items():
            if (after := step(now, role)) != now:
                changed[name], now = None, after
        if now == before:
            return now, tuple(changed) if now != text else ()
    return text, ()


def without_html(steps: Mapping[str, Rewrite], row: list[Spot]) -> Mapping[str, Rewrite]:
    """The steps for a row: tags stay where any of its texts is about markup."""
    if "html" in steps and any(text_faults.is_about_markup(spot.text) for spot in row):
        return {name: step for name, step in steps.items() if name != "html"}
    return steps


def verdicts(steps: frozenset[str], rules: Rules) -> dict[str, Verdict]:
    """The steps that leave a row out for what stands in it: each says why, or None."""
    known: dict[str, Verdict] = {
        "placeholders": lambda record, row: _first(record, text_faults.placeholders),
        "refusals": lambda record, row: _first(record, partial(wording.refusals, rules), last=True),
        "unfit": lambda record, row: _unfit(record, rules),
        "cut_off": lambda record, row: _cut_off(record),
    }
    return {name: known[name] for name in NAMES if name in steps and name in known}


def _first(record: Record, find: Callable[[Piece], Iterator[Mark]], last: bool = False) -> str | None:
    pieces = pieces_of(record)[-1:] if last else pieces_of(record)
    marks = (f"{piece.where} {mark.what}" for piece in pieces for mark in find(piece))
    return next(marks, None)


def _unfit(record: Record, rules: Rules) -> str | None:
    found = (rule.name for piece in pieces_of(record) for rule, _ in wording.unfit(rules, piece))
    return next(found, None)


def _cut_off(record: Record) -> str | None:
    if not isinstance(record, Chat | Judged):
        return None
    chat = record if isinstance(record, Chat) else record.chat
    found = cut_off(chat.messages[-1].content)
    return f"the answer {found[1]}" if found and found[0] else None
