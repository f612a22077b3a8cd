"""Every rule that looks at one row by itself; each tells of a row once.

finders() is the table: name -> finder of Marks in a piece of text. Which of them say anything is decided at
the end, where a rule depends on the rest: a set of one-letter answers has no short ones, verses miss no full stop.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

from tunesmith.data.doctor import language, text_faults, wording
from tunesmith.data.doctor.answers import Ends, cut_off
from tunesmith.data.doctor.custom import OwnRules, ask
from tunesmith.data.doctor.findings import Example, Notes, excerpt
from tunesmith.data.doctor.leakage import question_of
from tunesmith.data.doctor.pieces import Mark, Piece, pieces_of
from tunesmith.data.doctor.private import personal
from tunesmith.data.doctor.rules import Rules
from tunesmith.data.doctor.suspects import Suspects
from tunesmith.data.records import Chat, Choice, Judged, Record, Text

Find = Callable[[Piece], Iterator[Mark]]


def finders(rules: Rules, control: re.Pattern[str] | None) -> dict[str, Find]:
    """Rules on a text by themselves, by name, in the order in which they are shown."""
    return {
        "placeholder": text_faults.placeholders,
        "odd_character": text_faults.odd_characters,
        "invisible_character": text_faults.invisible,
        "mojibake": text_faults.mojibake,
        "control_token_in_text": partial(text_faults.control_tokens, control or text_faults.KNOWN_CONTROL),
        "filler_word": partial(wording.fillers, rules),
        "refusal": partial(wording.refusals, rules),
    }


@dataclass(slots=True)
class Look:
    """Looks at rows one by one, and remembers only what it needs to judge them together."""

    notes: Notes
    rules: Rules
    own: OwnRules
    control: re.Pattern[str] | None
    suspects: Suspects | None
    find: dict[str, Find] = field(init=False)
    ends: Ends = field(default_factory=Ends)
    answered: int = 0
    uncertain: list[Example] = field(default_factory=list)
    uncertain_rows: int = 0
    languages: Counter[str] = field(default_factory=Counter)
    usual: str = ""
    of_language: dict[str, list[Example]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.find = finders(self.rules, self.control)

    def at(self, address: str, record: Record) -> str | None:
        """Look at one row; gives its language."""
        pieces = pieces_of(record)
        for rule, find in self.find.items():
            for piece in pieces:
                if mark := next(find(piece), None):
                    self._note(rule, address, piece, mark)
                    break
        self._personal(address, pieces)
        self._typos(address, pieces)
        self._html(address, pieces)
        self._unfit(address, pieces)
        self._own(address, pieces)
        if isinstance(record, Chat | Judged):
            chat = record if isinstance(record, Chat) else record.chat
            self._answers(address, chat)
        return self._language(address, record, pieces)

    def _note(self, rule: str, address: str, piece: Piece, mark: Mark) -> None:
        self.notes.add(rule, address, f"{piece.where} {mark.what}", excerpt(piece.text, mark.start, mark.end))

    def _personal(self, address: str, pieces: tuple[Piece, ...]) -> None:
        """All that a row holds, without its words: they would tell it."""
        if found := [f"{piece.where} {mark.what}" for piece in pieces for mark in personal(piece)]:
            more = f" and {len(found) - 3} more" if len(found) > 3 else ""
            self.notes.add("personal_data", address, "; ".join(found[:3]) + more)

    def _html(self, address: str, pieces: tuple[Piece, ...]) -> None:
        """Tags are no fault in a row where any text is about markup."""
        hits = ((piece, mark) for piece in pieces if (mark := next(text_faults.stray_html(piece), None)))
        hit = next(hits, None)
        if hit and not any(text_faults.is_about_markup(piece.text) for piece in pieces):
            self._note("stray_html", address, *hit)

    def _typos(self, address: str, pieces: tuple[Piece, ...]) -> None:
        told = False
        for piece in pieces:
            for mark in wording.typos(self.rules, piece):
                if self.suspects is not None and mark.instead is not None:
                    self.suspects.typo(address, piece.text, mark.start, mark.end, mark.instead)
                elif not told:
                    told = True
                    self._note("typo", address, piece, mark)
            if self.suspects is not None:
                self.suspects.look(address, piece.text)

    def _unfit(self, address: str, pieces: tuple[Piece, ...]) -> None:
        told: set[str] = set()
        for piece in pieces:
            for rule, mark in wording.unfit(self.rules, piece):
                if rule.name not in told:
                    told.add(rule.name)
                    self._note(f"unfit:{rule.name}", address, piece, mark)

    def _own(self, address: str, pieces: tuple[Piece, ...]) -> None:
        for name, rule in self.own.find.items():
            for piece in pieces:
                if what := ask(rule, f"find_{name}", address, str, piece.text, piece.role):
                    self.notes.add(name, address, f"{piece.where}: {what:.200}", excerpt(piece.text))
                    break
        for name, rule in self.own.clean.items():
            for piece in pieces:
                said = ask(rule, f"clean_{name}", address, str, piece.text, piece.role)
                if said is not None and said != piece.text:
                    self.notes.add(
                        name, address, f"clean_{name} would change {piece.where}", excerpt(piece.text)
                    )
                    break

    def _answers(self, address: str, chat: Chat) -> None:
        """Too short, or cut off; the last answer alone may be, since the others were answered again."""
        answers = [m.content for m in chat.messages if m.role == "assistant" and not m.calls]
        if not answers:
            return
        self.answered += 1
        shortest = min(answers, key=lambda text: len(text.strip())).strip()
        if len(shortest) < 2:
            self.notes.add("short_answer", address, f"the answer is {shortest!r}", excerpt(_asked(chat)))
        last = answers[-1]
        self.ends.count(last)
        if (cut := cut_off(last)) is None:
            return
        certain, why = cut
        shown = excerpt(last, max(0, len(last.rstrip()) - 50), len(last.rstrip()))
        if certain:
            self.notes.add("cut_off_answer", address, f"the answer {why}", shown)
        else:
            self.uncertain_rows += 1
            if len(self.uncertain) < self.notes.examples_kept:
                self.uncertain.append(Example(address, f"the answer {why}", shown))

    def _language(self, address: str, record: Record, pieces: tuple[Piece, ...]) -> str | None:
        if isinstance(record, Choice):
            return None
        is_plain = True
        if isinstance(record, Text):
            name = language.language_of(record.text)
        else:
            question, answer = question_of(record), pieces[-1].text
            asked, name = language.language_of(question), language.language_of(answer)
            differs = language.differs(asked, name)
            if differs or (name is not None and name != self.usual):
                crosses = any(language.crosses(p.text) for p in pieces if p.role != "assistant")
                is_plain = not crosses and not text_faults.is_about_markup(answer)
            if differs and is_plain:
                what = f"the question is {asked}, the answer {name}"
                self.notes.add("other_language", address, what, excerpt(answer))
            name = name or asked
        if name is not None and is_plain:
            self.languages[name] += 1
            if self.languages[name] > self.languages.get(self.usual, 0):
                self.usual = name
            held = self.of_language.setdefault(name, [])
            if len(held) < self.notes.examples_kept:
                held.append(Example(address, f"is {name}", excerpt(pieces[-1].text)))
        return name

    def close(self) -> None:
        """What can be said only once all rows were seen."""
        if self.notes.counts.get("short_answer", 0) > 0.2 * self.answered:
            self.notes.drop("short_answer")  # the task is short by nature
        if self.uncertain_rows and self.ends.are_telling:
            for example in self.uncertain:
                self.notes.add("cut_off_answer", example.where, example.what, example.excerpt)
            self.notes.counts["cut_off_answer"] += self.uncertain_rows - len(self.uncertain)
        for name, count in language.rare(self.languages).items():
            for example in self.of_language[name]:
                self.notes.add("rare_language", example.where, example.what, example.excerpt)
            self.notes.counts["rare_language"] += count - len(self.of_language[name])
        if self.suspects is not None:
            self.suspects.judge(self.notes)


def _asked(chat: Chat) -> str:
    return next((m.content for m in reversed(chat.messages[:-1]) if m.role == "user"), "")
