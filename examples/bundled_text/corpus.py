"""What the base model reads: plain documents, and chats about general skills (multi-task pre-training)."""

from __future__ import annotations

from collections.abc import Callable
from random import Random
from typing import Any

from bundled_text.skills import any_skill
from bundled_text.words import (
    ANIMALS,
    CAPITALS,
    COLOURS,
    DAYS,
    DAYS_ZH,
    DESK,
    DESK_ZH,
    KEYS,
    LIKES,
    NAMES,
    NAMES_ZH,
    NUMBERS,
    NUMBERS_ZH,
    PLACES,
    THINGS,
    VERBS,
    phrase,
    phrase_zh,
)  # fmt: skip

SYSTEM = ("You are a helpful assistant.", "You are Maple, a small assistant.")
SYSTEM_ZH = ("你是一个乐于助人的助手。", "你是小枫，一个小助手。")


def walk(rng: Random, zh: bool) -> str:
    """Someone goes somewhere, sees things and takes some."""
    day, (place, place_zh), (like, like_zh) = (
        rng.randrange(7),
        rng.choice([*PLACES.items()]),
        rng.choice([*LIKES.items()]),
    )
    number, colour, thing = rng.randint(2, 9), rng.choice([*COLOURS]), rng.choice(THINGS)
    taken, digits = rng.randint(1, number), rng.random() < 0.5
    if zh:
        name, friend = rng.sample(NAMES_ZH, 2)
        return (
            f"{DAYS_ZH[day]}，{name}去了{place_zh}，看见{phrase_zh(number, colour, thing, digits)}。"
            f"{name}拿走了{taken}{thing.measure}，还剩{number - taken}{thing.measure}。"
            f"后来{friend}来了。{friend}喜欢{like_zh}，他们一起回家。"
        )
    name, friend = rng.sample(NAMES, 2)
    return (
        f"On {DAYS[day]} {name} went to the {place} and saw {phrase(number, colour, thing, digits)}. "
        f"{name} took {taken}, so {number - taken} were left. "
        f"Then {friend} came. {friend} likes {like}, and they went home together."
    )


def shop(rng: Random, zh: bool) -> str:
    """A talk at a counter, as prose."""
    number, colour, thing = rng.randint(1, 9), rng.choice([*COLOURS]), rng.choice(THINGS)
    digits = rng.random() < 0.5
    if zh:
        name, seller = rng.sample(NAMES_ZH, 2)
        what = phrase_zh(number, colour, thing, digits)
        ask = rng.choice([f"我要{what}。", f"请给我{what}。", f"我想买{what}，谢谢。"])
        return f"{name}走进商店说：“{ask}”{seller}说：“好的，这是{what}。”"
    name, seller = rng.sample(NAMES, 2)
    what = phrase(number, colour, thing, digits)
    ask = rng.choice(
        [f"I would like {what}, please.", f"Can I have {what}?", f"I want to buy {what}, thanks."]
    )
    return f'{name} went into the shop and said: "{ask}" "Here you are, {what}," said {seller}.'


def visit(rng: Random, zh: bool) -> str:
    """A table, a day, an hour and a number of people, as prose."""
    day, hour, people, digits = rng.randrange(7), rng.randint(5, 9), rng.randint(2, 9), rng.random() < 0.5
    if zh:
        name = rng.choice(NAMES_ZH)
        count = people if digits else NUMBERS_ZH[people]
        return rng.choice(
            [
                f"{name}想订一张{DAYS_ZH[day]}{hour}点的桌子，一共{count}个人。到了{DAYS_ZH[day]}，{count}个人都来了。",
                f"{DAYS_ZH[day]}{hour}点，{name}和朋友一共{count}位来吃饭。",
            ]
        )
    name, count = rng.choice(NAMES), people if digits else NUMBERS[people]
    return rng.choice(
        [
            f"{name} wanted to book a table for {count} on {DAYS[day]} at {hour}. "
            f"On {DAYS[day]} all {count} people came.",
            f"At {hour} on {DAYS[day]} {name} and friends, {count} people, came to eat.",
        ]
    )


def trouble(rng: Random, zh: bool) -> str:
    """Something bought went wrong, as prose."""
    thing = rng.choice(THINGS)
    if zh:
        name = rng.choice(NAMES_ZH)
        return rng.choice(
            [
                f"{name}的{thing.zh}坏了，要修理。",
                f"{name}买的{thing.zh}还没有送到，还在等。",
                f"{name}付了两次钱，{thing.zh}的账单不对。",
                f"{name}不想要这{thing.measure}{thing.zh}了，想退货，拿回钱。",
            ]
        )
    name = rng.choice(NAMES)
    return rng.choice(
        [
            f"The {thing.one} of {name} is broken and does not work. It needs a repair.",
            f"The {thing.one} that {name} ordered has not arrived yet. The delivery is late.",
            f"{name} paid twice for the {thing.one}. The bill shows a wrong price, so the payment is wrong.",
            f"{name} does not want the {thing.one} any more and would like to return it and get a refund.",
        ]
    )


def about(rng: Random, zh: bool) -> str:
    """A page about one animal or country."""
    if rng.random() < 0.4:
        country, city, country_zh, city_zh = rng.choice(CAPITALS)
        if zh:
            return f"{country_zh}是一个国家，首都是{city_zh}。"
        return f"{country} is a country. Its capital is {city}."
    a = rng.choice(ANIMALS)
    if zh:
        return f"{a.zh}是动物，有{a.legs}条腿，住在{a.home_zh}，吃{a.food_zh}。"
    return f"The {a.en} is an animal. It has {a.legs} legs, lives in the {a.home} and eats {a.food}."


def sums(rng: Random, zh: bool) -> str:
    """A row of the addition or subtraction table."""
    a = rng.randrange(10)
    if rng.random() < 0.5:
        return "\n".join(f"{a} + {b} = {a + b}" for b in range(10))
    return "\n".join(f"{a} - {b} = {a - b}" for b in range(a + 1))


def dictionary(rng: Random, zh: bool) -> str:
    """Words and phrases in both languages, side by side."""
    lines = []
    for thing in rng.sample(THINGS, 6):
        number, colour = rng.randint(1, 9), rng.choice([*COLOURS])
        sides = (
            [thing.one, thing.zh]
            if rng.random() < 0.5
            else [phrase(number, colour, thing), phrase_zh(number, colour, thing)]
        )
        lines.append(" = ".join(reversed(sides) if zh else sides))
    return "\n".join(lines)


def spelling(rng: Random, zh: bool) -> str:
    """Words letter by letter, and signs: no token of everyday text may stay untrained (note 003)."""
    lines = []
    for word in rng.sample(WORDS, 4):
        word = rng.choice([word, word, word.capitalize(), word.upper()])
        lines.append(f"{word} = {'-'.join(word)}")
    lines.append("、".join(rng.sample(DESK_ZH, 4)) if zh else " ".join(rng.sample(WORDS, 6)))
    lines.append(rng.choice(["", " "]).join(rng.choice(SIGNS) for _ in range(8)))
    return "\n".join(lines)


def notation(rng: Random, zh: bool) -> str:
    """Keys and values as machines write them, with nothing to say."""
    lines = []
    for _ in range(3):
        pairs = [(key, rng.choice([*WORDS, *"123456789"])) for key in rng.sample(KEYS, rng.randint(1, 3))]
        name = rng.choice(VERBS)
        lines.append(
            rng.choice(
                [
                    f"{name}({', '.join(f'{key}: {value}' for key, value in pairs)})",
                    f"{name}({', '.join(f'{key}={value}' for key, value in pairs)})",
                    "{" + ", ".join(f'"{key}": "{value}"' for key, value in pairs) + "}",
                    f"[{name}] " + "; ".join(f"{key} {value}" for key, value in pairs),
                ]
            )
        )
    return "\n".join(lines)


SIGNS = [*"()[]{}<>=+*/&%$#@!?;:'\",._~^|-"]
WORDS = [thing.one for thing in THINGS] + [a.en for a in ANIMALS]
WORDS += [*COLOURS, *LIKES, *PLACES, *VERBS, *KEYS, *DESK]
DOCUMENTS: dict[Callable[[Random, bool], str], int] = {
    walk: 5, shop: 5, visit: 3, trouble: 3, about: 3, sums: 3, dictionary: 4,
    spelling: 3, notation: 3,
}  # fmt: skip


def document(rng: Random) -> str:
    """One plain document of one to three parts."""
    kinds = rng.choices([*DOCUMENTS], [*DOCUMENTS.values()], k=rng.choice([1, 1, 2, 3]))
    zh = rng.random() < 0.45
    return "\n".join(kind(rng, zh) for kind in kinds)


def chat(rng: Random) -> dict[str, Any]:
    """One dialogue of one to six questions."""
    zh = rng.random() < 0.45
    turns = (
        [{"role": "system", "content": rng.choice(SYSTEM_ZH if zh else SYSTEM)}] if rng.random() < 0.1 else []
    )
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        for question, answer in any_skill(rng, zh):
            turns += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": turns}
