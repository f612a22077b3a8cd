"""What a language model finds odd: a swap of look-alike words that it likes much better, a text it finds unlikely.

"他高兴的说"  -131.2 nats     "他高兴地说"  -124.9 nats   ->   suspect: 6.3 nats better with 地
Suspects only: the model is a base model, and people write what it has not read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from tunesmith.data.doctor.findings import Notes, excerpt

Score = Callable[[Sequence[str]], Sequence[float]]
"""Nats of each text in all, by the model."""
SWAPS = ("的地得", "在再", "做作", "帐账", "象像", "那哪", "以已", "坐座")
WORDS = (
    ("its", "it's"),
    ("your", "you're"),
    ("then", "than"),
    ("there", "their"),
    ("lose", "loose"),
    ("affect", "effect"),
)
MOST_SITES, MOST_TEXTS = 1500, 500
GAIN = 4.0  # nats: the model would bet 55 to 1
_SITES = re.compile(
    "[" + "".join(SWAPS) + "]|" + r"\b(?:" + "|".join(w for pair in WORDS for w in pair) + r")\b"
)
_SENTENCE = re.compile(r"[。！？!?\n]|(?<=[a-z])\. ")
_REACH = 60


@dataclass(frozen=True, slots=True)
class Site:
    """A place in a sentence where another word might be meant. `table`: a typo rule names it."""

    where: str
    sentence: str
    instead: str
    what: str
    table: bool


@dataclass(slots=True)
class Suspects:
    """Sites and texts while rows are read; asked of the model at the end, within a budget."""

    score: Score
    sites: list[Site] = field(default_factory=list)
    texts: list[tuple[str, str]] = field(default_factory=list)

    def typo(self, address: str, text: str, start: int, end: int, instead: str) -> None:
        """A suspect of the table, to be judged."""
        if len(self.sites) < MOST_SITES:
            self.sites.append(_site(address, text, start, end, instead, table=True))

    def look(self, address: str, text: str) -> None:
        """A text of a row: kept whole for its likelihood, and searched for words that are often mistaken."""
        if len(text) >= 40 and len(self.texts) < MOST_TEXTS:
            self.texts.append((address, text[:400]))
        for found in _SITES.finditer(text[:2000]):
            if len(self.sites) >= MOST_SITES:
                return
            for other in _others(found.group()):
                self.sites.append(_site(address, text, found.start(), found.end(), other, table=False))

    def judge(self, notes: Notes) -> None:
        """Ask the model, and note what it finds better or unlikely."""
        for site, gain in self._gains():
            if gain >= (1.0 if site.table else GAIN):
                notes.add("typo", site.where, f"{site.what}, by {gain:.1f} nats", excerpt(site.sentence))
        self._unlikely(notes)

    def _gains(self) -> Iterator[tuple[Site, float]]:
        asked = list(dict.fromkeys(t for site in self.sites for t in (site.sentence, site.instead)))
        nats = dict(zip(asked, self.score(asked))) if asked else {}
        told: set[tuple[str, str]] = set()
        order = sorted(self.sites, key=lambda s: nats[s.instead] - nats[s.sentence])
        for site in order:
            if (site.where, site.sentence) not in told:  # of several alternatives the best
                told.add((site.where, site.sentence))
                yield site, nats[site.sentence] - nats[site.instead]

    def _unlikely(self, notes: Notes) -> None:
        if len(self.texts) < 20:
            return
        nats = np.array(self.score([text for _, text in self.texts]))
        rates = nats / np.array([len(text.encode("utf-8", "replace")) for _, text in self.texts])
        middle = float(np.median(rates))
        spread = 1.4826 * float(np.median(np.abs(rates - middle)))
        for i in np.argsort(-rates).tolist():
            if rates[i] <= middle + 6 * max(spread, 0.02 * middle):
                return
            where, text = self.texts[i]
            notes.add(
                "unlikely_text",
                where,
                f"{rates[i]:.2f} nats a byte, half have at most {middle:.2f}",
                excerpt(text),
            )


def _others(word: str) -> Iterator[str]:
    for row in SWAPS:
        if word in row:
            yield from (c for c in row if c != word)
    for pair in WORDS:
        if word in pair:
            yield pair[1 - pair.index(word)]


def _site(address: str, text: str, start: int, end: int, instead: str, table: bool) -> Site:
    """The sentence around a place, as it is and as it might be meant."""
    first, last = max(0, start - _REACH), min(len(text), end + _REACH)
    for found in _SENTENCE.finditer(text, first, start):
        first = found.end()
    if after := _SENTENCE.search(text, end, last):
        last = after.end()
    before, behind = text[first:start], text[end:last]
    return Site(
        address,
        before + text[start:end] + behind,
        before + instead + behind,
        f"{text[start:end]!r:.30}, probably {instead!r:.30}",
        table,
    )
