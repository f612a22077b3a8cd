"""Words that do not belong: fillers, boilerplate refusals, unfit content, suspected typos; all from `rules.yaml`.

"嗯嗯，好的。"  ->  Mark "嗯嗯，" instead ""          "我以经到了"  ->  Mark "以经" instead "已经"
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from tunesmith.data.doctor.pieces import Mark, Piece
from tunesmith.data.doctor.rules import Banned, Place, Rules

_CODE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]+`", re.DOTALL)
_PAUSE = re.compile(r"[，,、…~～.—-]*[ \t]*")
_STOP = re.compile(r"[。！？.!?;；\n]")
_BEGIN = 160
_ROLES = {"answers": ("assistant",), "questions": ("user", "system"), "texts": ("text",)}


def fillers(rules: Rules, piece: Piece) -> Iterator[Mark]:
    """A sound without meaning together with the pause behind it; one that is all there is stays."""
    if rules.fillers is None or piece.role == "tool":
        return
    for found in rules.fillers.finditer(piece.text):
        start, end = found.span()
        if found.group().isascii() and found.group().isupper():  # an acronym
            continue
        end = _PAUSE.match(piece.text, end).end()  # type: ignore[union-attr]
        rest = piece.text[:start] + piece.text[end:]
        if not any(c.isalnum() for c in rest):
            return
        word = found.group()
        instead: str | None = ""
        if end == len(piece.text) or _STOP.match(piece.text, end):  # a sentence that was nothing else
            instead = None if start and not _STOP.match(piece.text[start - 1]) else ""
            if instead == "" and end < len(piece.text):
                end += 1
        yield Mark(start, end, f"holds the filler {word!r:.20}", instead)


def refusals(rules: Rules, piece: Piece) -> Iterator[Mark]:
    """An answer that begins with a boilerplate refusal."""
    if rules.refusals is None or piece.role != "assistant":
        return
    if found := rules.refusals.search(piece.text[:_BEGIN].lstrip()):
        if found.start() > 60:
            return
        yield Mark(found.start(), found.end(), "refuses")


def unfit(rules: Rules, piece: Piece) -> Iterator[tuple[Banned, Mark]]:
    """Content that a rule list names, with the rule."""
    for rule in rules.unfit:
        if _speaks_to(rule.where, piece) and (found := rule.pattern.search(piece.text)):
            yield rule, Mark(found.start(), found.end(), rule.why)


def _speaks_to(where: Place, piece: Piece) -> bool:
    return where == "all" or piece.role in _ROLES[where]


def typos(rules: Rules, piece: Piece) -> Iterator[Mark]:
    """Suspected slips outside of code, with what was probably meant."""
    code = [found.span() for found in _CODE.finditer(piece.text)] if "`" in piece.text else []
    for typo in rules.typos:
        if typo.needs not in piece.text:
            continue
        for found in typo.pattern.finditer(piece.text):
            if any(a <= found.start() < b for a, b in code):
                continue
            instead = found.expand(typo.meant)
            yield Mark(*found.span(), f"{found.group()!r:.30}, probably {instead!r:.30}", instead)
