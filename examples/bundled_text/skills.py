"""General skills: each function makes one question with its one right answer, in English or Chinese."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

from bundled_text.words import (
    ANIMALS,
    CAPITALS,
    COLOURED,
    COLOURS,
    DAYS,
    DAYS_ZH,
    LIKES,
    MONTHS,
    MONTHS_ZH,
    NAMES,
    NAMES_ZH,
    NUMBERS,
    NUMBERS_ZH,
    OPPOSITES,
    SMALL_TALK,
    SMALL_TALK_ZH,
    THINGS,
    amount_zh,
    phrase,
    phrase_zh,
)  # fmt: skip

Exchange = tuple[str, str]
Skill = Callable[[Random, bool], list[Exchange]]


def small_talk(rng: Random, zh: bool) -> list[Exchange]:
    questions, answer = rng.choice(SMALL_TALK_ZH if zh else SMALL_TALK)
    return [(rng.choice(questions), answer)]


def capital(rng: Random, zh: bool) -> list[Exchange]:
    country, city, country_zh, city_zh = rng.choice(CAPITALS)
    if zh:
        return [
            (
                rng.choice([f"{country_zh}的首都是哪里？", f"请告诉我{country_zh}的首都。"]),
                f"{country_zh}的首都是{city_zh}。",
            )
        ]
    questions = [f"What is the capital of {country}?", f"Tell me the capital of {country}."]
    return [(rng.choice(questions), f"The capital of {country} is {city}.")]


def arithmetic(rng: Random, zh: bool) -> list[Exchange]:
    a, b = rng.randrange(10), rng.randrange(10)
    minus = rng.random() < 0.5
    if minus:
        a, b = max(a, b), min(a, b)
    sign, result = ("-", a - b) if minus else ("+", a + b)
    if zh:
        questions = [f"{a} {sign} {b} = ?", f"{a}{'减' if minus else '加'}{b}等于几？"]
        return [(rng.choice(questions), f"{a} {sign} {b} = {result}。")]
    questions = [
        f"{a} {sign} {b} = ?",
        f"What is {a} {sign} {b}?",
        f"What is {a} {'minus' if minus else 'plus'} {b}?",
    ]
    return [(rng.choice(questions), f"{a} {sign} {b} = {result}.")]


def sum_story(rng: Random, zh: bool) -> list[Exchange]:
    a, b = rng.randint(1, 9), rng.randint(1, 9)
    minus = rng.random() < 0.5
    if minus:
        a, b = max(a, b), min(a, b)
    result = a - b if minus else a + b
    thing = rng.choice(THINGS)
    if zh:
        name = rng.choice(NAMES_ZH)
        happened = f"送走了{b}{thing.measure}" if minus else f"又买了{b}{thing.measure}"
        question = f"{name}有{a}{thing.measure}{thing.zh}，{happened}。现在有几{thing.measure}？"
        return [(question, f"{a} {'-' if minus else '+'} {b} = {result}。")]
    name = rng.choice(NAMES)
    happened = f"gives away {b}" if minus else f"gets {b} more"
    question = f"{name} has {a} {thing.one if a == 1 else thing.many} and {happened}. How many now?"
    return [(question, f"{a} {'-' if minus else '+'} {b} = {result}.")]


def counting(rng: Random, zh: bool) -> list[Exchange]:
    low = rng.randint(0, 7)
    high = rng.randint(low + 2, min(low + 7, 12))
    up = rng.random() < 0.7
    numbers = ", ".join(str(n) for n in (range(low, high + 1) if up else range(high, low - 1, -1)))
    first, last = (low, high) if up else (high, low)
    return [
        (
            f"从{first}数到{last}。" if zh else f"Count from {first} to {last}.",
            numbers + ("。" if zh else "."),
        )
    ]


def bigger(rng: Random, zh: bool) -> list[Exchange]:
    a, b = rng.sample(range(10), 2)
    if zh:
        return [(f"{a}和{b}哪个大？", f"{max(a, b)}大。")]
    return [(f"Which is bigger, {a} or {b}?", f"{max(a, b)} is bigger.")]


def digit(rng: Random, zh: bool) -> list[Exchange]:
    number = rng.randint(0, 12)
    if zh:
        return [(f"把“{NUMBERS_ZH[number]}”写成数字。", f"{number}")]
    return [(f"Write {NUMBERS[number]} as a digit.", f"{number}")]


def calendar(rng: Random, zh: bool) -> list[Exchange]:
    week = rng.random() < 0.7
    names = (DAYS_ZH if week else MONTHS_ZH) if zh else (DAYS if week else MONTHS)
    here, after = rng.randrange(len(names)), rng.random() < 0.5
    other = names[(here + (1 if after else -1)) % len(names)]
    if zh:
        return [(f"{names[here]}的{'后' if after else '前'}面是什么？", f"是{other}。")]
    word, kind = ("after" if after else "before"), ("day" if week else "month")
    return [(f"What {kind} comes {word} {names[here]}?", f"{other} comes {word} {names[here]}.")]


def opposite(rng: Random, zh: bool) -> list[Exchange]:
    a, b, a_zh, b_zh = rng.choice(OPPOSITES)
    swap = rng.random() < 0.5
    if zh:
        a, b = (b_zh, a_zh) if swap else (a_zh, b_zh)
        return [(f"“{a}”的反义词是什么？", f"“{a}”的反义词是“{b}”。")]
    a, b = (b, a) if swap else (a, b)
    return [(f"What is the opposite of {a}?", f"The opposite of {a} is {b}.")]


def colour_of(rng: Random, zh: bool) -> list[Exchange]:
    name, name_zh, colour = rng.choice(COLOURED)
    if zh:
        return [(f"{name_zh}是什么颜色？", f"{name_zh}是{COLOURS[colour]}色的。")]
    return [
        (
            rng.choice([f"What colour is {name}?", f"Tell me the colour of {name}."]),
            f"The colour of {name} is {colour}.",
        )
    ]


def animal(rng: Random, zh: bool) -> list[Exchange]:
    beast = rng.choice(ANIMALS)
    if zh:
        return [
            rng.choice(
                [
                    (f"{beast.zh}有几条腿？", f"{beast.zh}有{beast.legs}条腿。"),
                    (f"{beast.zh}住在哪里？", f"{beast.zh}住在{beast.home_zh}。"),
                    (f"{beast.zh}吃什么？", f"{beast.zh}吃{beast.food_zh}。"),
                ]
            )
        ]
    return [
        rng.choice(
            [
                (f"How many legs does the {beast.en} have?", f"The {beast.en} has {beast.legs} legs."),
                (f"Where does the {beast.en} live?", f"The {beast.en} lives in the {beast.home}."),
                (f"What does the {beast.en} eat?", f"The {beast.en} eats {beast.food}."),
            ]
        )
    ]


def kind_of(rng: Random, zh: bool) -> list[Exchange]:
    beast, thing = rng.choice(ANIMALS), rng.choice(THINGS)
    yes = rng.random() < 0.5
    if zh:
        name = beast.zh if yes else thing.zh
        return [(f"{name}是动物吗？", f"是的，{name}是动物。" if yes else f"不是，{name}不是动物。")]
    name = f"the {beast.en if yes else thing.one}"
    return [
        (f"Is {name} an animal?", f"Yes, {name} is an animal." if yes else f"No, {name} is not an animal.")
    ]


def translate_word(rng: Random, zh: bool) -> list[Exchange]:
    pairs = [(t.one, t.zh) for t in THINGS] + [(a.en, a.zh) for a in ANIMALS] + [*LIKES.items()]
    pairs += [(colour, f"{z}色") for colour, z in COLOURS.items()] + [*zip(DAYS, DAYS_ZH)]
    en, other = rng.choice(pairs)
    if zh:
        return [(f"“{other}”用英语怎么说？", en)]
    return [(f"How do you say {en} in Chinese?", other)]


def translate_phrase(rng: Random, zh: bool) -> list[Exchange]:
    number, colour, thing = rng.randint(1, 9), rng.choice([*COLOURS]), rng.choice(THINGS)
    en, other = phrase(number, colour, thing), phrase_zh(number, colour, thing)
    return [(f"翻译成英语：{other}", en)] if zh else [(f"Translate to Chinese: {en}", other)]


def repeat(rng: Random, zh: bool) -> list[Exchange]:
    if zh:
        pool = [t.zh for t in THINGS] + [a.zh for a in ANIMALS] + NAMES_ZH
        words = " ".join(rng.choice(pool) for _ in range(rng.randint(1, 5)))
        return [(f"请跟我说：{words}", words)]
    pool = [t.one for t in THINGS] + [a.en for a in ANIMALS] + NAMES
    words = " ".join(rng.choice(pool) for _ in range(rng.randint(1, 5)))
    return [(rng.choice([f"Repeat after me: {words}", f"Say this: {words}"]), words)]


def reading(rng: Random, zh: bool) -> list[Exchange]:
    """Who has what: several owners, one question."""
    owners = rng.sample(NAMES_ZH if zh else NAMES, rng.randint(1, 3))
    held = [(rng.randint(2, 9), rng.choice([*COLOURS]), thing) for thing in rng.sample(THINGS, len(owners))]
    digits = rng.random() < 0.5
    at = rng.randrange(len(owners))
    (number, colour, thing), name = held[at], owners[at]
    if zh:
        text = "".join(f"{who}有{phrase_zh(*what, digits)}。" for who, what in zip(owners, held))
        return [
            rng.choice(
                [
                    (f"{text}{name}有什么？", f"{name}有{phrase_zh(*held[at], digits)}。"),
                    (
                        f"{text}{name}有几{thing.measure}{thing.zh}？",
                        f"{amount_zh(number, digits)}{thing.measure}。",
                    ),
                    (f"{text}{name}的{thing.zh}是什么颜色？", f"{COLOURS[colour]}色。"),
                    (f"{text}谁有{thing.zh}？", f"{name}有{thing.zh}。"),
                ]
            )
        ]
    text = " ".join(f"{who} has {phrase(*what, digits)}." for who, what in zip(owners, held))
    return [
        rng.choice(
            [
                (f"{text} What does {name} have?", f"{name} has {phrase(*held[at], digits)}."),
                (
                    f"{text} How many {thing.many} does {name} have?",
                    f"{number if digits else NUMBERS[number]} {thing.many}.",
                ),
                (f"{text} What colour are the {thing.many}?", f"The {thing.many} are {colour}."),
                (f"{text} Who has {thing.many}?", f"{name} has {thing.many}."),
            ]
        )
    ]


def card(rng: Random, zh: bool) -> list[Exchange]:
    """A sentence about a person or a thing as keys and values; values are always in English but for names."""
    digits = rng.random() < 0.5
    if rng.random() < 0.6:
        number, colour, thing = rng.randint(1, 9), rng.choice([*COLOURS]), rng.choice(THINGS)
        text = phrase_zh(number, colour, thing, digits) if zh else phrase(number, colour, thing, digits)
        answer = f"thing: {thing.one}; number: {number}; colour: {colour}"
        return [(f"写成卡片：{text}" if zh else f"Make a card: {text}", answer)]
    name, age, day = rng.choice(NAMES_ZH if zh else NAMES), rng.randint(3, 12), rng.randrange(7)
    like, like_zh = rng.choice([*LIKES.items()])
    years = age if digits else (NUMBERS_ZH if zh else NUMBERS)[age]
    answer = f"name: {name}; age: {age}; likes: {like}; day: {DAYS[day]}"
    if zh:
        return [(f"写成卡片：{name}{years}岁，喜欢{like_zh}，{DAYS_ZH[day]}来。", answer)]
    return [(f"Make a card: {name} is {years}, likes {like} and comes on {DAYS[day]}.", answer)]


def changed_card(rng: Random, zh: bool) -> list[Exchange]:
    """A card of things, then one value of it changed."""
    number, colour, thing = rng.randint(1, 9), rng.choice([*COLOURS]), rng.choice(THINGS)
    text = phrase_zh(number, colour, thing) if zh else phrase(number, colour, thing)
    first = (
        f"写成卡片：{text}" if zh else f"Make a card: {text}",
        f"thing: {thing.one}; number: {number}; colour: {colour}",
    )
    if rng.random() < 0.5:
        number, digits = rng.randint(1, 9), rng.random() < 0.5
        new = str(number) if digits else (NUMBERS_ZH if zh else NUMBERS)[number]
        wish = f"把数字改成{new}。" if zh else f"Change the number to {new}."
    else:
        colour = rng.choice([*COLOURS])
        wish = f"把颜色改成{COLOURS[colour]}色。" if zh else f"Change the colour to {colour}."
    return [first, (wish, f"thing: {thing.one}; number: {number}; colour: {colour}")]


def table(rng: Random, zh: bool) -> list[Exchange]:
    owners = rng.sample(NAMES_ZH if zh else NAMES, rng.randint(2, 4))
    rows = {name: (rng.randint(3, 9), rng.choice([*LIKES])) for name in owners}
    name = rng.choice(owners)
    age, like = rows[name]
    if zh:
        lines = "\n".join(f"{who} | {years} | {LIKES[what]}" for who, (years, what) in rows.items())
        question, answer = rng.choice(
            [(f"{name}几岁？", f"{name}{age}岁。"), (f"{name}喜欢什么？", f"{name}喜欢{LIKES[like]}。")]
        )
        return [(f"名字 | 年龄 | 喜欢\n{lines}\n{question}", answer)]
    lines = "\n".join(f"{who} | {years} | {what}" for who, (years, what) in rows.items())
    question, answer = rng.choice(
        [(f"How old is {name}?", f"{name} is {age}."), (f"What does {name} like?", f"{name} likes {like}.")]
    )
    return [(f"name | age | likes\n{lines}\n{question}", answer)]


def memory(rng: Random, zh: bool) -> list[Exchange]:
    """Something said early is asked for later; other talk may stand between."""
    name = rng.choice(NAMES_ZH if zh else NAMES)
    like, like_zh = rng.choice([*LIKES.items()])
    named = (
        (f"我叫{name}。", f"你好，{name}！") if zh else (f"My name is {name}.", f"Nice to meet you, {name}!")
    )
    liked = (
        (f"我喜欢{like_zh}。", f"{like_zh}很好！") if zh else (f"I like {like}.", f"I see, you like {like}.")
    )
    ask_name = ("我叫什么名字？", f"你叫{name}。") if zh else ("What is my name?", f"Your name is {name}.")
    ask_like = ("我喜欢什么？", f"你喜欢{like_zh}。") if zh else ("What do I like?", f"You like {like}.")
    told, asked = rng.choice(
        [([named], ask_name), ([liked], ask_like), ([named, liked], ask_name), ([named, liked], ask_like)]
    )
    between = [rng.choice(SHORT)(rng, zh)[0] for _ in range(rng.choice([0, 0, 1, 2]))]
    return [*told, *between, asked]


SHORT: tuple[Skill, ...] = (
    small_talk,
    capital,
    arithmetic,
    bigger,
    digit,
    calendar,
    opposite,
    colour_of,
    animal,
)
ALL: dict[Skill, int] = {
    small_talk: 8, capital: 5, arithmetic: 9, sum_story: 9, counting: 5, bigger: 2, digit: 2, calendar: 5,
    opposite: 4, colour_of: 3, animal: 6, kind_of: 3, translate_word: 9, translate_phrase: 7, repeat: 8,
    reading: 14, card: 8, changed_card: 5, table: 5, memory: 8,
}  # fmt: skip
SKILLS, WEIGHTS = tuple(ALL), tuple(ALL.values())


def any_skill(rng: Random, zh: bool) -> list[Exchange]:
    """One skill, drawn by weight."""
    return rng.choices(SKILLS, WEIGHTS)[0](rng, zh)
