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
# What GB2312 looks like when read as Latin-1: two bytes a character. A text is taken for it where half of its Chinese
# is of the most usual characters, a fifth of what two random ones are: "ÄÖÜß" and "ÀÁÂÃ" are letters.
_GBK_AS_LATIN = re.compile("[\u00a1-\u00fe]{4,}")
_USUAL = frozenset(
    "的一是不了人我在有他这中大来上国个到说们为子和你地出道也时年得就那要下以生会自着去之过家学对可她里后小么心多天而能好"
    "都然没日于起还发成事只作当想看文无开手十用主行方又如前所本见经头面公同三已老从动两长知民样现分将外但身些与高意进把法此"
    "实回二理美点月明其种声全工己话儿者向情部正名定女问力机给等几很业最间新什打便位因重被走电四第门相次东政海口使教西再平真"
    "听世气信北少关并内加化由却代军产入先山五太水万市眼体别处总才场师书比住员九笑性通目华报立马命张活难神数件安表原车白应路"
    "期叫死常提感金何更反合放做系计或司利受光王果亲界及今京务制解各任至清物台象记边共风战干接它许八特觉望直服毛林题建南度统"
    "色字请爱让认算论百吃义科怎元社术结六功指思非流每青管夫连远资队跟带花快条院变联言权往展该领传近留红治决周保达办运武半候"
    "七必城父强步完革深区即求品士转量空甚众技轻程告江语英基派满式李息写呢识极令黄德收脸钱党倒未持取设始版双历越史商千片容研"
    "像找友孩站广改议形委早房音火际则首单据导影失拿网香似斯专石若病药血压查验诊治疗医院服健康眠"
)
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
    if marks := _gbk_as_latin(text):
        yield from marks
    elif _READ_AS_LATIN.search(text):
        yield from _latin(text)
    for run in _HAN.finditer(text):
        if mended := _from_gbk(run.group()):
            yield Mark(run.start(), run.end(), "is UTF-8 that was read as GBK", mended)
        elif _begins_as_gbk(run.group()):
            yield Mark(run.start(), run.end(), "is UTF-8 that was read as GBK, and has lost a part")
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


def _begins_as_gbk(run: str) -> bool:
    """Whether the GBK bytes of a run are UTF-8 that breaks off in its last character: an odd byte found no pair."""
    try:
        data = run.encode("gb18030")
        data.decode("utf-8")
    except UnicodeEncodeError:
        return False
    except UnicodeDecodeError as error:
        mended = data[: error.start].decode("utf-8")
        breaks_off = error.end == len(data) and error.reason == "unexpected end of data"
        return breaks_off and len(mended) >= 2 and _CHINESE.fullmatch(mended) is not None
    return False


def _gbk_as_latin(text: str) -> list[Mark]:
    """Chinese in GBK that was read as Latin-1, with what it is; [] where the text is not that."""
    marks, chinese = [], ""
    for run in _GBK_AS_LATIN.finditer(text):
        try:
            mended = run.group().encode("latin-1").decode("gb2312")
        except UnicodeError:
            continue
        if _CHINESE.fullmatch(mended):
            chinese += mended
            marks.append(Mark(run.start(), run.end(), "is GBK that was read as Latin-1", mended))
    han = [character for character in chinese if character >= "\u4e00" and character <= "\u9fff"]
    return marks if han and sum(map(_USUAL.__contains__, han)) >= len(han) / 2 else []


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
