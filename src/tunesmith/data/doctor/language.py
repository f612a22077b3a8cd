"""In which language a text is, by its script; English and other Latin ones by their commonest words.

"失眠怎么办"  zh        "How are you?"  en        "Как дела"  ru        "x = 1"  None: too little to tell
"""

from __future__ import annotations

import re
from collections import Counter

_SCRIPTS = (
    ("ja", re.compile("[\u3040-\u30ff]")),
    ("ko", re.compile("[\uac00-\ud7af]")),
    ("zh", re.compile("[\u3400-\u9fff]")),
    ("ru", re.compile("[\u0400-\u04ff]")),
    ("ar", re.compile("[\u0600-\u06ff]")),
    ("hi", re.compile("[\u0900-\u097f]")),
    ("th", re.compile("[\u0e00-\u0e7f]")),
    ("el", re.compile("[\u0370-\u03ff]")),
    ("he", re.compile("[\u0590-\u05ff]")),
)
_OTHER = re.compile("[\u0370-\uffff]")
_LATIN = re.compile("[a-zA-Z\u00c0-\u024f]")
_WORDS = re.compile(r"[a-z\u00e0-\u024f']+")
# The commonest short words; a language is named where its own outnumber those of the others.
_SHORT_WORDS = {
    "en": "the of and to is in that it was for you with are this be have on i what how",
    "fr": "le la les des et est une du dans que pour qui pas sur vous je nous avec ce au",
    "de": "der die und das ist nicht ein eine zu den von mit sich auf ich sie dem wie",
    "es": "el los las y que una es en del por con para su se como más pero muy lo",
    "pt": "os e que um uma do da em não com para é dos das se mais como por ao",
    "it": "il di che è e un una per non in con sono si le gli della nel come ma",
}
_COMMON = {name: frozenset(words.split()) for name, words in _SHORT_WORDS.items()}
_OWNERS = {
    word: tuple(name for name, common in _COMMON.items() if word in common)
    for word in frozenset().union(*_COMMON.values())
}
HEAD = 800
_TRADITIONAL = re.compile(
    "[們這個國說時來對會學過開關發經還無為與點從問間話實體應當變讓樣買賣見車門長東書馬魚鳥頭龍電飛]"
)
_SIMPLIFIED = re.compile(
    "[们这个国说时来对会学过开关发经还无为与点从问间话实体应当变让样买卖见车门长东书马鱼鸟头龙电飞]"
)
# A task that crosses languages says so.
_CROSSES = re.compile(
    r"translat|in (?:english|chinese|french|spanish|german|japanese|korean|italian|russian)|翻译|译[成为文]|英文|"
    r"英语|中文|汉语|法语|日语|德语|西班牙|韩语|双语|单词|bilingual|chinese|mandarin",
    re.IGNORECASE,
)


def language_of(text: str) -> str | None:
    """zh-Hant, zh, en, ..; "latin" for Latin letters in no language known here; None where there is too little."""
    head = text[:HEAD]
    other = len(_OTHER.findall(head)) if not head.isascii() else 0
    latin = len(_LATIN.findall(head))
    if other:
        found = {name: len(pattern.findall(head)) for name, pattern in _SCRIPTS}
        if found["ja"] > 0.1 * (found["ja"] + found["zh"]):
            found["ja"] += found["zh"]
        name = max(found, key=lambda key: found[key])
        if found[name] >= 4 and 3 * found[name] >= latin:
            return "zh-Hant" if name == "zh" and _is_traditional(head) else name
    return _latin(head.lower()) if latin >= 20 else None


def _is_traditional(text: str) -> bool:
    old = len(_TRADITIONAL.findall(text))
    return old >= 3 and old > 3 * len(_SIMPLIFIED.findall(text))


def _latin(text: str) -> str | None:
    words = _WORDS.findall(text)
    if len(words) < 10:
        return None
    found: Counter[str] = Counter(owner for word in words if word in _OWNERS for owner in _OWNERS[word])
    if not found:
        return None
    name, count = found.most_common(1)[0]
    different = len(_COMMON[name].intersection(words))
    return name if count >= 0.1 * len(words) and different >= 3 else None


def crosses(question: str) -> bool:
    """Whether a question asks for another language than its own."""
    return _CROSSES.search(question) is not None


def differs(question: str | None, answer: str | None) -> bool:
    """Whether question and answer are surely in different languages; the two ways of writing Chinese are one."""
    plain = {"zh-Hant": "zh"}
    one, other = (plain.get(name or "", name) for name in (question, answer))
    return one is not None and other is not None and one != other


def rare(counts: Counter[str]) -> dict[str, int]:
    """Languages of a set with so few rows that they look like a slip: under 1%, at most 20 rows."""
    total = sum(counts.values())
    return {name: n for name, n in counts.items() if n <= min(20, 0.01 * total)}
