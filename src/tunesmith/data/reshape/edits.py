"""Say a text a little differently: synonyms, insertion, deletion and swap of words, sentences reordered.

Easy data augmentation (Wei and Zou 2019, arXiv:1901.11196), on words that may be changed; None where nothing can.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from random import Random

from tunesmith.data.reshape.synonyms import Synonyms
from tunesmith.data.reshape.words import Piece

Edit = Callable[[Sequence[Piece], Random, int, Synonyms], str | None]
_HAN = re.compile(r"[\u3400-\u9fff]")


def _joined(parts: Sequence[str]) -> str:
    return "".join(parts)


def _free(pieces: Sequence[Piece]) -> list[int]:
    return [i for i, piece in enumerate(pieces) if piece.free]


def replace(pieces: Sequence[Piece], draw: Random, count: int, table: Synonyms) -> str | None:
    """`count` words by a synonym each."""
    known = _known(pieces, table)
    parts = [piece.text for piece in pieces]
    for i in draw.sample(sorted(known), min(count, len(known))):
        parts[i] = _like(draw.choice(known[i]), parts[i])
    return _joined(parts) if known else None


def _known(pieces: Sequence[Piece], table: Synonyms) -> dict[int, list[str]]:
    """Words of the table, with what may stand for each and does not stand in the text already."""
    there = {piece.text.casefold() for piece in pieces}
    found = {
        i: [word for word in table.of(pieces[i].text) if word.casefold() not in there] for i in _free(pieces)
    }
    return {i: words for i, words in found.items() if words}


def _like(word: str, model: str) -> str:
    """With a capital where the word it stands for has one."""
    return word[:1].upper() + word[1:] if model[:1].isupper() else word


def insert(pieces: Sequence[Piece], draw: Random, count: int, table: Synonyms) -> str | None:
    """`count` words more: each a synonym of a word of the text, before some other word of its script."""
    known = _known(pieces, table)
    if not known:
        return None
    parts = [piece.text for piece in pieces]
    for i in draw.sample(sorted(known), min(count, len(known))):
        word = draw.choice(known[i])
        places = [j for j in _free(pieces) if _is_han(pieces[j].text) == _is_han(word)]
        j = draw.choice(places)
        parts[j] = word + parts[j] if _is_han(word) else f"{word} {parts[j]}"
    return _joined(parts)


def _is_han(word: str) -> bool:
    return _HAN.match(word) is not None


def delete(pieces: Sequence[Piece], draw: Random, count: int, table: Synonyms) -> str | None:
    """`count` words fewer; at least two thirds of those that may be changed stay."""
    free = [i for i in _free(pieces) if not _alone(pieces, i)]
    gone = set(draw.sample(free, min(count, len(free) // 3)))
    if not gone:
        return None
    parts = ["" if i in gone else piece.text for i, piece in enumerate(pieces)]
    for i in gone:  # of the two spaces around a word one goes with it
        if (
            i + 1 < len(parts)
            and parts[i + 1][:1] == " "
            and (i == 0 or parts[i - 1][-1:] in ("", " ", "\n"))
        ):
            parts[i + 1] = parts[i + 1][1:]
        elif i + 1 == len(parts) and parts[i - 1][-1:] == " ":
            parts[i - 1] = parts[i - 1][:-1]
    return _joined(parts)


def _alone(pieces: Sequence[Piece], i: int) -> bool:
    """Whether a word stands by itself between two marks, which would then stand side by side."""
    before = pieces[i - 1].text.rstrip(" ")[-1:] if i else "."
    after = pieces[i + 1].text.lstrip(" ")[:1] if i + 1 < len(pieces) else "."
    return all(mark and not mark.isalnum() for mark in (before, after))  # a lone space is no mark


def swap(pieces: Sequence[Piece], draw: Random, count: int, table: Synonyms) -> str | None:
    """`count` times two words of one sentence change places."""
    groups = [group for group in _sentences_of(pieces) if len(group) > 1]
    if not groups:
        return None
    parts = [piece.text for piece in pieces]
    for _ in range(count):
        i, j = draw.sample(draw.choice(groups), 2)
        parts[i], parts[j] = parts[j], parts[i]
    return _joined(parts)


def _sentences_of(pieces: Sequence[Piece]) -> list[list[int]]:
    """Places of free words, by sentence and script."""
    groups: list[list[int]] = []
    open_groups: dict[bool, list[int]] = {}
    for i, piece in enumerate(pieces):
        if piece.free:
            script = _is_han(piece.text)
            if script not in open_groups:
                groups.append(open_groups.setdefault(script, []))
            open_groups[script].append(i)
        elif re.search(r"[.!?。！？；\n]", piece.text):
            open_groups = {}
    return groups


def reorder(pieces: Sequence[Piece], draw: Random, count: int, table: Synonyms) -> str | None:
    """The sentences of one line in another order; a text with a block of code keeps its order."""
    if any(piece.guarded and "\n" in piece.text for piece in pieces):
        return None
    lines = [_sentences(line) for line in _lines(pieces)]
    several = [i for i, sentences in enumerate(lines) if len(sentences) > 1]
    if not several:
        return None
    i = draw.choice(several)
    before = list(lines[i])
    while lines[i] == before:
        draw.shuffle(lines[i])
        if len(set(before)) == 1:
            return None
    return "\n".join(
        _put_together(sentences) if k == i else _joined(sentences) for k, sentences in enumerate(lines)
    )


def _lines(pieces: Sequence[Piece]) -> list[list[Piece]]:
    lines: list[list[Piece]] = [[]]
    for piece in pieces:
        first, *others = [piece.text] if piece.guarded else piece.text.split("\n")
        lines[-1].append(Piece(first, piece.free, piece.guarded))
        lines += [[Piece(text, False)] for text in others]
    return lines


_END = re.compile(r"[。！？；]+|[.!?]+(?=\s)|[.!?]+$")


def _sentences(line: Sequence[Piece]) -> list[str]:
    """The sentences of a line; marks inside what is guarded end none."""
    found = [""]
    for k, piece in enumerate(line):
        at = 0
        for end in () if piece.guarded or piece.free else _END.finditer(piece.text):
            if end[0][0] in ".!?" and end.end() == len(piece.text) and k + 1 < len(line):
                continue  # e.g. the point inside 3.x or x.y
            found[-1] += piece.text[at : end.end()]
            found.append("")
            at = end.end()
        found[-1] += piece.text[at:]
    if len(found) > 1 and not found[-1].strip():
        rest = found.pop()
        found[-1] += rest
    return found


def _put_together(sentences: Sequence[str]) -> str:
    """Sentences in a row: a space where letters would touch, none between Chinese ones."""
    text = ""
    for part in (sentence.strip() for sentence in sentences):
        glue = " " if text and not re.search(r"[\u3000-\u9fff\uff00-\uffef]$", text) else ""
        text += glue + part
    return text


EDITS: Mapping[str, Edit] = {
    "synonyms": replace,
    "insert": insert,
    "delete": delete,
    "swap": swap,
    "sentences": reorder,
}
