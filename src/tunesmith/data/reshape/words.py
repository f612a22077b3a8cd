"""Cut a text into words that may be changed and pieces that must not be; joined again they are the text.

"Mail a@b.c 3 lamps, please"  ->  [Mail] a@b.c 3 [lamps], [please]        [..] may be changed

Never touched: code, formulas, addresses, paths, placeholders, special tokens, quoted text, numbers (spelt ones too),
negations, names, and words that the answer repeats.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import re
import tempfile
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

_GUARDED = re.compile(
    r"""
      ```.*?(?:```|\Z) | ~~~.*?(?:~~~|\Z)                           # fenced code
    | `[^`\n]+`                                                     # code in a line
    | \$\$.+?\$\$ | \$[^$\n]+\$ | \\\(.+?\\\) | \\\[.+?\\\]         # formulas
    | ^(?:\ {4}|\t)[^\n]*$                                          # indented code
    | ^[^\n]*[{};][\ \t]*$                                          # lines of code
    | ^[\ \t]*[\w.\\\[\]]+[\ \t]*[-+*/|&]?=[^=\n][^\n]*$
    | ^[^\n]*(?:=>|->|::|\(\)|\\_|==|!=|<=|>=|&&|\|\||\blambda\b)[^\n]*$
    | ^[\ \t]*(?:def|class|import|from|return|\#include|SELECT)\b[^\n]*$
    | \w+(?:\.\w+)*\([^()\n]*\)                                     # calls
    | \w+://\S+ | www\.\S+ | [\w.+-]+@[\w-]+(?:\.[\w-]+)+           # addresses
    | [~.]{0,2}/[\w./-]+ | \w[\w.-]*/[\w./-]+ | \w:\\\S+            # paths
    | <\|[^|\n]{1,60}\|> | </?[^<>\n]{1,80}> | \[/?[A-Z_]{2,20}\]   # special tokens, tags
    | \{\{.*?\}\} | \{[^{}\n]*\} | %\(\w+\)s | %[sd] | \$\w+ | __\w+__   # placeholders
    | "[^"\n]*" | “[^”\n]*” | ‘[^’\n]*’ | 「[^」\n]*」 | 『[^』\n]*』 | 《[^》\n]*》  # quoted
    | [@\#]\w+                                                      # mentions, tags
    | [A-Za-z]*[\d０-９][A-Za-z\d０-９.,:/%°-]*                       # numbers
    | [A-Za-z]+_\w+ | \b[a-z]+[A-Z]\w* | \b[A-Z]{2,}\w*             # identifiers, abbreviations
    """,
    re.VERBOSE | re.DOTALL | re.MULTILINE,
)
_WORD = re.compile(r"[\u3400-\u9fff]+|[^\W\d_]+(?:['’-][^\W\d_]+)*")
_HAN = re.compile(r"[\u3400-\u9fff]")
_NAMED = (
    "nr",
    "ns",
    "nt",
    "nz",
    "m",
    "q",
    "t",
)  # people, places, bodies, other names; numbers, measures, times
_NUMERALS = set("零〇一二两三四五六七八九十百千万亿几半第壹贰叁肆伍陆柒捌玖拾")
_NEGATIONS = set("不没无非未勿莫别否")
# Numbers, days and months as words; negations and bounds: without them a question is another question.
_KEPT = frozenset(re.findall(r"\S+", """
    zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen
    sixteen seventeen eighteen nineteen twenty thirty forty fifty sixty seventy eighty ninety
    hundred thousand million billion half third quarter first second double twice once dozen monday
    tuesday wednesday thursday friday saturday sunday january february march april may june july
    august september october november december no not never none nobody nothing neither nor without
    cannot can't don't doesn't didn't won't isn't aren't wasn't weren't shouldn't wouldn't couldn't
    unless except only all any every each more less before after
"""))  # fmt: skip


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a text; `free` if it is a word that may be changed."""

    text: str
    free: bool
    guarded: bool = False
    """Something that must stay whole, marks inside it included."""


@functools.lru_cache(maxsize=64)
def cut(text: str, repeated: str = "") -> tuple[Piece, ...]:
    """The pieces of a text in order. Words that stand in `repeated`, its answer, are not free."""
    taken = frozenset(word.casefold() for word in words_in(repeated)) if repeated else frozenset[str]()
    pieces: list[Piece] = []
    at = 0
    for guarded in _GUARDED.finditer(text):
        pieces += _plain(text[at : guarded.start()], taken)
        if guarded[0]:
            pieces.append(Piece(guarded[0], False, guarded=True))
        at = guarded.end()
    return _without_names([*pieces, *_plain(text[at:], taken)])


def words_in(text: str) -> Iterator[str]:
    """The words of a text, guarded ones too."""
    for found in _WORD.finditer(text):
        yield from segment(found[0]) if _HAN.match(found[0]) else (found[0],)


def _plain(text: str, taken: frozenset[str]) -> Iterator[Piece]:
    at = 0
    for found in _WORD.finditer(text):
        if found.start() > at:
            yield Piece(text[at : found.start()], False)
        if _HAN.match(found[0]):
            for word, kind in _jieba().lcut(found[0]):
                yield Piece(word, not kind.startswith(_NAMED) and _is_free(word, taken))
        else:
            yield Piece(found[0], _is_free(found[0], taken))
        at = found.end()
    if at < len(text):
        yield Piece(text[at:], False)


def _is_free(word: str, taken: frozenset[str]) -> bool:
    if _HAN.match(word):
        return not (_NUMERALS | _NEGATIONS).intersection(word) and (len(word) == 1 or word not in taken)
    lower = word.casefold().replace("’", "'")
    return lower not in _KEPT and (len(word) < 4 or lower not in taken)


def _without_names(pieces: list[Piece]) -> tuple[Piece, ...]:
    """A capital inside a sentence is a name (at its beginning it may be anything); a word after a number its unit."""
    begins = True
    kept: list[Piece] = []
    for piece in pieces:
        name = piece.free and piece.text[0].isupper() and not begins
        unit = piece.free and bool(kept) and _ends_in_number(kept)
        kept.append(Piece(piece.text, False) if name or unit else piece)
        if piece.text.strip():
            begins = piece.text.rstrip(" \t\"'”’)")[-1:] in ".!?:。！？：\n"
        begins = begins or "\n" in piece.text
    return tuple(kept)


def _ends_in_number(pieces: list[Piece]) -> bool:
    before = next((piece.text for piece in reversed(pieces) if piece.text.strip(" ")), "")
    return before[-1:].isdigit() or (before != "" and _NUMERALS.issuperset(before))


def segment(text: str) -> list[str]:
    """Chinese words, by jieba."""
    return [word for word, _ in _jieba().lcut(text)]


@functools.cache
def _jieba() -> Any:
    """A segmenter of our own, which tells parts of speech: quiet, with a cache that nobody else can have written.

    jieba keeps what it has read in a file of a known name in the shared temporary folder, and loads what it
    finds there with marshal.
    """
    with warnings.catch_warnings(), contextlib.redirect_stderr(io.StringIO()):
        warnings.simplefilter("ignore")
        import jieba
        import jieba.posseg

        jieba.setLogLevel(logging.ERROR)
        segmenter = jieba.Tokenizer()
        with tempfile.TemporaryDirectory(prefix="tunesmith-words-") as folder:
            segmenter.tmp_dir = folder
            segmenter.initialize()
    return jieba.posseg.POSTokenizer(segmenter)
