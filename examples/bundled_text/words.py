"""A small world in two languages: names, things, numbers, days, animals, places, read from words.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import yaml

_TABLES: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("words.yaml").read_text(encoding="utf-8"))


def _rows(name: str) -> list[list[str]]:
    return [line.split() for line in _TABLES[name].splitlines()]


class Thing(NamedTuple):
    """Something that can be counted, coloured, sold and lost."""

    one: str
    many: str
    zh: str
    measure: str


class Animal(NamedTuple):
    """An animal and three things known about it."""

    en: str
    zh: str
    legs: str
    home: str
    home_zh: str
    food: str
    food_zh: str


THINGS = tuple(Thing(*row) for row in _rows("things"))
ANIMALS = tuple(Animal(*row) for row in _rows("animals"))
COLOURS = dict(_rows("colours"))
LIKES = dict(_rows("likes"))
PLACES = dict(_rows("places"))
NUMBERS, NUMBERS_ZH = zip(*_rows("numbers"))
DAYS, DAYS_ZH = zip(*_rows("days"))
MONTHS, MONTHS_ZH = zip(*_rows("months"))
NAMES, NAMES_ZH = _TABLES["names"].split(), _TABLES["names_zh"].split()
VERBS, KEYS, DESK, DESK_ZH = (_TABLES[name].split() for name in ("verbs", "keys", "desk", "desk_zh"))
CAPITALS, COLOURED, OPPOSITES = _rows("capitals"), _rows("coloured"), _rows("opposites")
SMALL_TALK: list[tuple[list[str], str]] = [(ask, answer) for ask, answer in _TABLES["small_talk"]]
SMALL_TALK_ZH: list[tuple[list[str], str]] = [(ask, answer) for ask, answer in _TABLES["small_talk_zh"]]


def phrase(number: int, colour: str, thing: Thing, digit: bool = False) -> str:
    """three red apples."""
    amount = str(number) if digit else NUMBERS[number]
    return f"{amount} {colour} {thing.one if number == 1 else thing.many}"


def amount_zh(number: int, digit: bool = False) -> str:
    """A number before a measure word: 两, not 二."""
    return str(number) if digit else ("两" if number == 2 else NUMBERS_ZH[number])


def phrase_zh(number: int, colour: str, thing: Thing, digit: bool = False) -> str:
    """三个红色的苹果."""
    return f"{amount_zh(number, digit)}{thing.measure}{COLOURS[colour]}色的{thing.zh}"
