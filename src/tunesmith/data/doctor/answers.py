"""Answers that stop too early: next to nothing, or in the middle of a sentence.

"The capital is Paris, and the"  ->  ends in ',' or 'the'          "```python\\nx = 1"  ->  a fence is left open
"""

from __future__ import annotations

import re
from dataclasses import dataclass

LONG, SHORT = 100, 12  # characters; Chinese ones count twice
_ENDS_WELL = re.compile(
    r"[.!?。！？…;；:：\"'”’」』）)\]】》>}*_`~～|%°=/\\\d\U0001f000-\U0001faff\u2600-\u27bf]$"
)
_OPEN_END = re.compile(
    r"[,，、(（\[{“‘《]$|\b(?:the|an|of|and|or|to|with|for|by|from|because|which|such as|is|are|their|his|its)$"
    r"|(?:因为|但是|所以|以及|和|或者|而且|例如|比如|包括)$",
    re.IGNORECASE,
)
_HAN = re.compile("[\u3400-\u9fff]")
# A last line that need not end in a full stop: an item, a heading, code, an address, a signature.
_FREE = re.compile(
    r"^\s*(?:[-*•#>|+]|\d+[.)、:]|[A-Za-z][.)]|https?://|[\w\"']+\s*[:=(]|@)|[{};=<>|\\]|://|[#@]\S+$"
    r"|[-—–]\s?[A-Z][\w. ]+$"
)


@dataclass(slots=True)
class Ends:
    """How the long answers of a set end; whether a missing full stop says anything depends on the others."""

    long: int = 0
    well: int = 0

    def count(self, text: str) -> None:
        """One more answer."""
        if size(text) >= LONG:
            self.long += 1
            self.well += bool(_ENDS_WELL.search(text.rstrip()))

    @property
    def are_telling(self) -> bool:
        """Whether nearly all end as sentences do."""
        return self.long >= 10 and self.well >= 0.9 * self.long


def size(text: str) -> int:
    """Length in letters of the Latin kind."""
    return len(text) + len(_HAN.findall(text))


def cut_off(text: str) -> tuple[bool, str] | None:
    """(certain, why) where an answer seems to be cut off; uncertain ones count only among answers that end well."""
    text = text.rstrip()
    if not text:
        return None
    if text.count("```") % 2:
        return True, "a code fence is left open"
    last = text.rsplit("\n", 1)[-1]
    if _FREE.search(last):
        return None
    if size(text) >= SHORT and (found := _OPEN_END.search(text)):
        return True, f"ends in {found.group()!r}"
    if size(text) >= LONG and len(last) > 40 and not _ENDS_WELL.search(text):
        return False, "ends without a full stop"
    return None
