"""Text that was made or converted wrongly: wrong encodings, invisible characters, HTML, placeholders.

"cafÃ©"  ->  Mark "cafÃ©" instead "café"          "a\\u200bb"  ->  Mark U+200B instead ""
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from tunesmith.data.doctor.pieces import Mark, Piece

# Control tokens of the usual templates, for when no tokenizer is given.
KNOWN_CONTROL = re.compile(
    r"<\|[a-zA-Z_]{2,24}\|>|<(?:start|end)_of_turn>|\[/?INST\]|<</?SYS>>|<｜[^｜]{2,24}｜>|</s>"
)
_PLACEHOLDER = re.compile(r"\{\{\s*[A-Za-z_]\w*\s*\}\}")
_ODD = re.compile("[\x01-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ufffd]")
# Zero-width space, bidi marks and overrides, word joiner, BOM inside a text, soft hyphen. A zero-width (non-)joiner
# is left alone where it belongs: in emoji and in the scripts that write with it.
_INVISIBLE = re.compile(
    "[\u200b\u2060-\u2064\ufeff\u00ad\u202a-\u202e\u2066-\u2069]"
    "|(?<![\u0600-\u0dff\u1800-\u18af\ufe0f\u2600-\u27bf\U0001f000-\U0001faff])[\u200c\u200d]"
)
# What UTF-8 looks like when read as Windows-1252 or Latin-1: a lead byte and what follows it.
_READ_AS_LATIN = re.compile(
    "[\u00c2-\u00f4][\u0080-\u00bf\u0152\u0153\u0160\u0161\u0178\u017d\u017e\u0192\u02c6\u02dc\u2013\u2014\u2018-"
    "\u201e\u2020-\u2022\u2026\u2030\u2039\u203a\u20ac\u2122]"
)
_HAN = re.compile("[\u3040-\u30ff\u3400-\u9fff\ue000-\uf8ff€]{3,}")
_CHINESE = re.compile("[\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]+")
_BROKEN_GBK = re.compile("锟斤拷|烫烫烫|屯屯屯")
_ENTITY = re.compile(
    r"&(?:nbsp|amp|lt|gt|quot|apos|ldquo|rdquo|lsquo|rsquo|hellip|mdash|ndash|#\d{2,5}|#x[0-9a-fA-F]{2,4});"
)
_TAG = re.compile(
    r"</?(?:p|br|div|span|font|strong|em|b|i|u|a|ul|ol|li|table|tr|td|th|h[1-6]|img|hr|center)"
    r"(?:\s+[a-zA-Z-]+\s*=\s*(?:\"[^\"<>]*\"|'[^'<>]*'|[^\s\"'<>]+))*\s*/?>",
    re.IGNORECASE,
)
_BLOCK = re.compile(r"</?(?:p|br|div|li|tr|h[1-6]|hr|ul|ol|table)\b", re.IGNORECASE)
# Text that speaks of markup or holds code may have tags in it.
_MARKUP_TOPIC = re.compile(
    r"html|xml|css|javascript|\bjs\b|\bdom\b|markup|<!doctype|```|\btags?\b|web ?page|web ?site|browser|hyperlink|"
    r"标签|网页|代码|前端|超链接|</?(?:script|style|head|body|form|input|button)\b|"
    r"\bfunction\s*\(|\bdef |\bclass |=>|<\?|\becho\b|\);",
    re.IGNORECASE,
)


def placeholders(piece: Piece) -> Iterator[Mark]:
    """{{name}} that was never filled in."""
    for found in _PLACEHOLDER.finditer(piece.text):
        yield Mark(found.start(), found.end(), f"holds {found.group()!r}")


def odd_characters(piece: Piece) -> Iterator[Mark]:
    """Control characters, which can go, and U+FFFD, for which nothing can be put."""
    for found in _ODD.finditer(piece.text):
        mend = None if found.group() == "\ufffd" else ""
        yield Mark(found.start(), found.end(), f"holds U+{ord(found.group()):04X}", mend)


def invisible(piece: Piece) -> Iterator[Mark]:
    """Characters that nobody sees, and that part words for a tokenizer."""
    for found in () if piece.text.isascii() else _INVISIBLE.finditer(piece.text):
        yield Mark(found.start(), found.end(), f"holds U+{ord(found.group()):04X}", "")


def mojibake(piece: Piece) -> Iterator[Mark]:
    """Text decoded with the wrong encoding; `instead` is the right text where it can be had back."""
    text = piece.text
    if text.isascii():
        return
    if _READ_AS_LATIN.search(text):
        yield from _latin(text)
    for run in _HAN.finditer(text):
        if mended := _from_gbk(run.group()):
            yield Mark(run.start(), run.end(), "is UTF-8 that was read as GBK", mended)
    for found in _BROKEN_GBK.finditer(text):
        yield Mark(found.start(), found.end(), "is what is left of a wrong conversion")


def _latin(text: str) -> Iterator[Mark]:
    """UTF-8 read as Latin-1 or Windows-1252, by ftfy, which leaves text alone that may be meant."""
    import ftfy

    at = 0
    for line in text.splitlines(keepends=True):
        if _READ_AS_LATIN.search(line) and (mended := ftfy.fix_encoding(line)) != line:
            first, last = _difference(line, mended)
            end = at + len(line) - last
            yield Mark(
                at + first, end, "is UTF-8 that was read as Latin-1", mended[first : len(mended) - last]
            )
        at += len(line)


def _difference(one: str, other: str) -> tuple[int, int]:
    """How many characters two texts share at their beginning, and at their end."""
    most = min(len(one), len(other))
    first = next((i for i in range(most) if one[i] != other[i]), most)
    last = next((i for i in range(most - first) if one[-1 - i] != other[-1 - i]), most - first)
    return first, last


def _from_gbk(run: str) -> str | None:
    """What a run of rare Chinese characters is, if its GBK bytes are UTF-8; chance makes that ever less likely."""
    try:
        mended = run.encode("gb18030").decode("utf-8")
    except UnicodeError:
        return None
    return mended if len(mended) >= 2 and _CHINESE.fullmatch(mended) else None


def stray_html(piece: Piece) -> Iterator[Mark]:
    """Entities and tags in text that is not about markup and holds no code."""
    text = piece.text
    has_tags = "<" in text and ">" in text and _TAG.search(text) is not None
    if not has_tags and not ("&" in text and _ENTITY.search(text)):
        return
    if _MARKUP_TOPIC.search(text):
        return
    for found in _ENTITY.finditer(text):
        instead = html.unescape(found.group()).replace("\xa0", " ")
        yield Mark(found.start(), found.end(), f"holds {found.group()!r}", instead)
    for found in _TAG.finditer(text):
        instead = "\n" if _BLOCK.match(found.group()) else ""
        yield Mark(found.start(), found.end(), f"holds {found.group()!r:.40}", instead)


def is_about_markup(text: str) -> bool:
    """Whether a text speaks of HTML or code, so that tags in its neighbours are meant."""
    return _MARKUP_TOPIC.search(text) is not None


def control_tokens(pattern: re.Pattern[str], piece: Piece) -> Iterator[Mark]:
    """What a tokenizer or a usual template would take for a token of its own."""
    for found in pattern.finditer(piece.text):
        yield Mark(found.start(), found.end(), f"holds {found.group()!r}")
