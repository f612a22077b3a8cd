"""The domain the base model never saw: requests at a shop's desk, answered by exactly one call.

"Three red apples, please." -> order(item: apple, qty: 3, colour: red)
Chinese requests are answered in the same form, so that a program can read both.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from random import Random
from typing import Any

from bundled_text.skills import Exchange
from bundled_text.words import (
    COLOURS,
    DAYS,
    DAYS_ZH,
    NUMBERS,
    SMALL_TALK,
    SMALL_TALK_ZH,
    THINGS,
    amount_zh,
    phrase,
    phrase_zh,
)  # fmt: skip

PARTS = ("train", "validation", "test")
SHARES = (0.55, 0.15, 0.3)  # of the combinations, not of the rows
GREETINGS = (SMALL_TALK[:3], SMALL_TALK_ZH[:3])
BY_WORD = {thing.one: thing for thing in THINGS}


@dataclass(frozen=True, slots=True)
class Pools:
    """What may be asked for in one part; no combination stands in two parts, in either language."""

    orders: tuple[tuple[str, int, str], ...]  # thing, how many, colour
    bookings: tuple[tuple[str, int, int], ...]  # day, hour, people
    stock: tuple[tuple[str, int, int], ...]  # thing, before, change
    tickets: tuple[tuple[str, str], ...]  # team, thing


TEAMS = {
    "delivery": (
        ("My {} has not arrived yet.", "Where is my {}? I am still waiting.", "The {} I ordered is late."),
        ("我的{}还没有送到。", "{}在哪里？我还在等。", "我买的{}怎么还不来？"),
    ),
    "payment": (
        (
            "I paid twice for the {}.",
            "The price of the {} on my bill is wrong.",
            "My bill for the {} is too high.",
        ),
        ("{}我付了两次钱。", "账单上{}的价格不对。", "{}的账单太高了。"),
    ),
    "repair": (
        ("My {} is broken.", "The {} does not work.", "Can you mend my {}? It is broken."),
        ("我的{}坏了。", "{}不能用了。", "能修一下我的{}吗？它坏了。"),
    ),
    "refund": (
        (
            "I want my money back for the {}.",
            "I do not want the {} any more.",
            "I would like to return the {}.",
        ),
        ("我想退{}的钱。", "我不想要这个{}了。", "我想退货，是{}。"),
    ),
}


def order_call(thing: str, number: int, colour: str) -> str:
    return f"order(item: {thing}, qty: {number}, colour: {colour})"


def book_call(day: str, hour: int, people: int) -> str:
    return f"book(day: {day}, hour: {hour}, people: {people})"


def order_ask(rng: Random, combination: tuple[str, int, str], zh: bool) -> str:
    """One of the ways to wish for so many things of a colour."""
    word, number, colour = combination
    thing, digits = BY_WORD[word], rng.random() < 0.5
    if zh:
        what, amount = phrase_zh(number, colour, thing, digits), amount_zh(number, digits) + thing.measure
        asks = [
            f"我要{what}。", f"请给我{what}。", f"来{what}，谢谢。",
            f"我们需要{amount}{thing.zh}，要{COLOURS[colour]}色的。",
        ]  # fmt: skip
    else:
        what = phrase(number, colour, thing, digits)
        amount, noun = what.split(f" {colour} ")
        asks = [
            f"I would like {what}, please.", f"Can I have {what}?", f"Please send me {what}.",
            f"We need {amount} {noun} in {colour}.", f"Get me {what}, thanks.",
        ]  # fmt: skip
    return rng.choice(asks)


def order(rng: Random, pools: Pools, zh: bool) -> Exchange:
    """A wish and its call."""
    combination = rng.choice(pools.orders)
    return order_ask(rng, combination, zh), order_call(*combination)


def booking_ask(rng: Random, combination: tuple[str, int, int], zh: bool) -> str:
    """One of the ways to book a table."""
    day, hour, people = combination
    digits = rng.random() < 0.5
    if zh:
        day_zh, count = DAYS_ZH[DAYS.index(day)], amount_zh(people, digits)
        asks = [
            f"我想订{day_zh}{hour}点的桌子，一共{count}位。", f"{day_zh}{hour}点，{count}个人，订一张桌子。",
            f"我们{count}个人，{day_zh}{hour}点来。",
        ]  # fmt: skip
    else:
        count = str(people) if digits else NUMBERS[people]
        asks = [
            f"Book a table for {count} on {day} at {hour}.",
            f"We are {count} people and come on {day} at {hour}.",
            f"Please keep a table on {day} at {hour} for {count}.",
        ]  # fmt: skip
    return rng.choice(asks)


def booking(rng: Random, pools: Pools, zh: bool) -> Exchange:
    """A booking and its call."""
    combination = rng.choice(pools.bookings)
    return booking_ask(rng, combination, zh), book_call(*combination)


def stock(rng: Random, pools: Pools, zh: bool) -> Exchange:
    """What came or went, and what is left. The sum is written out: asked for its end alone, few were right."""
    word, before, change = rng.choice(pools.stock)
    thing = BY_WORD[word]
    noun = thing.one if before == 1 else thing.many
    count = abs(change)
    if zh:
        happened = f"卖了{count}" if change < 0 else f"又来了{count}"
        asks = [
            f"我们有{before}{thing.measure}{thing.zh}，{happened}{thing.measure}。",
            f"{thing.zh}原来有{before}{thing.measure}，{happened}{thing.measure}。",
        ]
    else:
        happened = f"sold {count}" if change < 0 else f"got {count} more"
        asks = [f"We had {before} {noun} and {happened}.", f"There were {before} {noun}, then we {happened}."]
    return rng.choice(
        asks
    ), f"stock(item: {word}, left: {before} {'+' if change > 0 else '-'} {count} = {before + change})"


def ticket(rng: Random, pools: Pools, zh: bool) -> Exchange:
    team, word = rng.choice(pools.tickets)
    ask = rng.choice(TEAMS[team][zh])
    return ask.format(BY_WORD[word].zh if zh else word), f"ticket(team: {team}, item: {word})"


def changed_order(rng: Random, pools: Pools, zh: bool) -> list[Exchange]:
    """An order, then a second wish about it: another number, another colour, or none at all."""
    first = rng.choice(pools.orders)
    word, number, colour = first
    exchange = (order_ask(rng, first, zh), order_call(*first))
    near = [
        other for other in pools.orders if other[0] == word and (other[1] == number) != (other[2] == colour)
    ]
    if not near or rng.random() < 0.33:
        wishes = ["算了，不要了。", "请取消。"] if zh else ["Cancel that.", "No, I do not want it any more."]
        return [exchange, (rng.choice(wishes), f"cancel(item: {word})")]
    second = rng.choice(near)
    if second[2] == colour:
        digits = rng.random() < 0.5
        more = amount_zh(second[1], digits) if zh else (str(second[1]) if digits else NUMBERS[second[1]])
        measure = BY_WORD[word].measure
        wishes = (
            [f"改成{more}{measure}。", f"还是要{more}{measure}吧。"]
            if zh
            else [f"Make it {more}.", f"Sorry, {more} please."]
        )
    else:
        other = second[2]
        wishes = (
            [f"改成{COLOURS[other]}色的。", f"我要{COLOURS[other]}色的。"]
            if zh
            else [f"Make them {other}.", f"In {other}, please."]
        )
    return [exchange, (rng.choice(wishes), order_call(*second))]


def changed_booking(rng: Random, pools: Pools, zh: bool) -> list[Exchange]:
    """A booking, then another day or another hour."""
    first = rng.choice(pools.bookings)
    day, hour, people = first
    near = [b for b in pools.bookings if b[2] == people and (b[0] == day) != (b[1] == hour)]
    if not near:  # a small pool: draw again
        return changed_booking(rng, pools, zh)
    second = rng.choice(near)
    if second[1] == hour:
        wish = f"改到{DAYS_ZH[DAYS.index(second[0])]}。" if zh else f"Move it to {second[0]}."
    else:
        wish = f"改到{second[1]}点。" if zh else f"At {second[1]} o'clock, please."
    return [(booking_ask(rng, first, zh), book_call(*first)), (wish, book_call(*second))]


def greeted(rng: Random, pools: Pools, zh: bool) -> list[Exchange]:
    """Small talk first, then a request: the old manners stay."""
    questions, answer = rng.choice(GREETINGS[zh])
    return [(rng.choice(questions), answer), rng.choice(SINGLE)(rng, pools, zh)]


SINGLE = (order, booking, stock, ticket)
DIALOGUES = (changed_order, changed_order, changed_booking, greeted)


def split_pools(rng: Random) -> dict[str, Pools]:
    """Deal every combination to one part."""
    changes = [(b, c) for b in range(1, 10) for c in range(-9, 10) if c and 0 <= b + c <= 12 and abs(c) < 10]
    everything: list[list[Any]] = [
        list(product(BY_WORD, range(1, 10), COLOURS)),
        list(product(DAYS, range(5, 10), range(2, 10))),
        [(word, *change) for word in BY_WORD for change in changes],
        list(product(TEAMS, BY_WORD)),
    ]
    dealt: dict[str, list[Any]] = {part: [] for part in PARTS}
    for combinations in everything:
        rng.shuffle(combinations)
        start = 0
        for part, share in zip(PARTS, SHARES):
            end = len(combinations) if part == PARTS[-1] else start + round(share * len(combinations))
            dealt[part].append(tuple(combinations[start:end]))
            start = end
    return {part: Pools(*pools) for part, pools in dealt.items()}


def rows(rng: Random, pools: Pools, maker: Any, count: int, seen: set[str]) -> Iterator[list[Exchange]]:
    """`count` dialogues in both languages, none twice."""
    made = 0
    while made < count:
        row = maker(rng, pools, made % 2 == 1)
        row = row if isinstance(row, list) else [row]
        if str(row) not in seen:
            seen.add(str(row))
            made += 1
            yield row
