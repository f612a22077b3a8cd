"""The look: one palette, one table, numbers with units, text from outside made harmless.

12345678 -> "11.8 MiB"     3725.0 -> "1 h 02 min"     [2.9, 1.4, 1.1] -> "█▂▁"
"""

from __future__ import annotations

import math
import shlex
import sys
import unicodedata
from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import IO, Any

from rich import box
from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.segment import Segment
from rich.table import Table
from rich.text import Text
from rich.theme import Theme

WIDEST = 100
"""Lines longer than this are tiring to read, however wide the terminal is."""

THEME = Theme(
    {
        "title": "bold cyan",
        "key": "bright_black",
        "quiet": "bright_black",
        "strong": "bold",
        "good": "green",
        "warn": "yellow",
        "bad": "bold red",
        "accent": "cyan",
        "learnt": "bold green",
        "weight": "bold cyan",
        "given": "default",
        "cut": "red strike",
    }
)

# They turn the reading direction of what follows, even beyond the text they stand in.
DIRECTIONS = frozenset("\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")

MARKS = {"good": "✓", "warn": "!", "bad": "✗", "quiet": "·"}


def console(file: IO[str] | None = None) -> Console:
    """A console on `file` (standard output if none) that interprets nothing in what it prints."""
    made = Console(file=file or sys.stdout, theme=THEME, markup=False, highlight=False, emoji=False)
    if made.width > WIDEST:
        made.width = WIDEST
    return made


def visible(text: Any, keep_newlines: bool = False) -> str:
    """Text from a file, safe for a terminal: control and direction characters become visible escapes."""

    def shown(char: str) -> str:
        if (char == "\n" and keep_newlines) or char.isprintable():
            return char
        if unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") or char in DIRECTIONS:
            named = {"\n": "⏎", "\r": "␍", "\t": "    "}
            return named.get(char, char.encode("unicode_escape", "surrogatepass").decode("ascii"))
        return char

    return "".join(map(shown, str(text)))


def typed(path: str) -> str:
    """A path within a command that somebody will copy into a shell."""
    return shlex.quote(visible(path))


def short(text: str, width: int) -> str:
    """`text` in at most `width` characters; what is left out is left out of the middle."""
    if len(text) <= width:
        return text
    head = min(text.find(" ") + 1, width // 3)
    return text[:head] + "…" + text[len(text) - (width - head - 1) :]


def address(text: str, width: int) -> str:
    """file:row in at most about `width` characters: leading folders are left out, the file never is."""
    shown = visible(text)
    if len(shown) <= width:
        return shown
    parts = shown.split("/")
    kept = parts.pop()
    while parts and len(kept) + len(parts[-1]) + 3 <= width:
        kept = f"{parts.pop()}/{kept}"
    return f"…/{kept}" if parts else kept


def count(value: float | None) -> str:
    """A whole number with separators, or a dash."""
    return "–" if value is None else f"{int(value):,}"


def many(value: float | None, noun: str) -> str:
    """1 -> "1 row", 1204 -> "1,204 rows"."""
    return f"{count(value)} {noun}{'' if value == 1 else 's'}"


def short_count(value: float | None) -> str:
    """3145728 -> "3.15 M"; exact below ten thousand."""
    if value is None:
        return "–"
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if value >= size:
            return f"{value / (1e3 if unit == 'k' else size):.3g} {unit}"
    return f"{int(value):,}"


def size(value: float | None) -> str:
    """Bytes as MiB, GiB, ..."""
    if value is None:
        return "–"
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" or value >= 100 else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} TiB"


def duration(seconds: float | None) -> str:
    """Seconds as a person says them: 0.4 s, 42 s, 3 min 05 s, 2 h 10 min, 3 d 4 h."""
    if seconds is None or not math.isfinite(seconds):
        return "–"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def number(value: float | None, digits: int = 3) -> str:
    """A measured value, or a dash."""
    if value is None or not math.isfinite(value):
        return "–"
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.{digits}g}" if value and abs(value) < 10**-digits else f"{value:.{digits}f}"


def signed(value: float | None, digits: int = 3) -> str:
    """A change, always with its sign."""
    return "–" if value is None or not math.isfinite(value) else f"{value:+.{digits}f}"


def share(part: float, whole: float) -> str:
    """Part of whole as a percentage, or a dash."""
    return f"{100 * part / whole:.3g}%" if whole else "–"


def sparkline(values: Sequence[float], width: int) -> str:
    """The course of `values` in `width` characters; each is the mean of its stretch."""
    finite = [value for value in values if math.isfinite(value)]
    if not finite or width < 1:
        return ""
    columns = min(width, len(finite))
    bounds = [round(i * len(finite) / columns) for i in range(columns + 1)]
    means = [sum(value / (b - a) for value in finite[a:b]) for a, b in pairwise(bounds)]
    low, span = min(means), max(means) - min(means)
    if not 0 < span < math.inf:
        return "▁" * columns
    return "".join("▁▂▃▄▅▆▇█"[round((mean - low) / span * 7)] for mean in means)


def bar(part: float, whole: float, width: int) -> str:
    """A horizontal bar; anything above nothing shows at least a sliver."""
    if whole <= 0 or part <= 0:
        return ""
    eighths = max(1, round(min(1.0, part / whole) * width * 8))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def heading(title: str, note: str = "") -> Text:
    """The first line of an answer: what it is, and of what."""
    return Text.assemble((title, "title"), ("  " + visible(note) if note else "", "quiet"))


def mark(kind: str, text: str | Text = "") -> Text:
    """A sign and a sentence: good, warn, bad or quiet."""
    body = text if isinstance(text, Text) else Text(text)
    return Text.assemble((MARKS[kind] + " ", kind), body)


def bullet(sign: Text, body: RenderableType) -> RenderableType:
    """A sign, and text beside it that keeps its own left edge."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(sign, body)
    return grid


def facts(pairs: Iterable[tuple[str, RenderableType]]) -> RenderableType:
    """Names on the left, values on the right, without lines."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="key", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, value in pairs:
        grid.add_row(name, value)
    return indent(grid)


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]], right: Sequence[int] = ()) -> RenderableType:
    """A table with one thin line under its header; `right` names right-aligned columns by index."""
    made = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="key", show_edge=False, padding=(0, 1))
    for index, name in enumerate(columns):
        made.add_column(name, justify="right" if index in right else "left", overflow="fold")
    for row in rows:
        made.add_row(*(cell if isinstance(cell, Text) else Text(str(cell)) for cell in row))
    return indent(made)


class Indented:
    """A renderable moved to the right, without trailing blanks (rich's Padding leaves them)."""

    def __init__(self, what: RenderableType, by: int) -> None:
        self.what, self.by = what, by

    def __rich_console__(self, screen: Console, options: ConsoleOptions) -> RenderResult:
        inner = options.update(width=max(1, options.max_width - self.by))
        for line in screen.render_lines(self.what, inner, pad=False):
            while line and not line[-1].text.strip():
                line.pop()
            if line:
                yield Segment(" " * self.by)
                yield from line[:-1]
                yield Segment(line[-1].text.rstrip(), line[-1].style)
            yield Segment.line()


def indent(what: RenderableType, by: int = 2) -> RenderableType:
    """The same, moved to the right."""
    return Indented(what, by)


def page(*parts: RenderableType | None) -> RenderableType:
    """Parts under each other with an empty line between; None leaves one out."""
    kept: list[RenderableType] = []
    for part in parts:
        if part is not None:
            kept += [Text(""), part] if kept else [part]
    return Group(*kept)
