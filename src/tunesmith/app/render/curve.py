"""Courses of numbers in the terminal: dots of a braille grid, each cell 2 x 4, axes with numbers.

3.00 ┤⠑⢄
1.50 ┤  ⠉⠒⠤⣀⣀
     └────────────
      1        60
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.text import Text

from tunesmith.app.render import base

Points = Sequence[tuple[float, float]]
# The bit of each dot in a braille cell, by row and column.
_DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))


@dataclass(frozen=True, slots=True)
class Line:
    """A course: joined dots, or single marks where `mark` is given."""

    name: str
    points: Points
    style: str
    mark: str = ""


def chart(lines: Sequence[Line], width: int = 62, height: int = 10) -> Text:
    """All lines over one pair of axes, their names below."""
    lines = [line for line in lines if line.points]
    everything = [point for line in lines for point in line.points]
    if not everything:
        return Text("")
    left, right = min(x for x, _ in everything), max(x for x, _ in everything)
    low, high = min(y for _, y in everything), max(y for _, y in everything)
    right, high = (right if right > left else left + 1), (high if high > low else low + 1)
    cells = _Cells(width, height)
    for line in lines:
        scaled = [((x - left) / (right - left), (y - low) / (high - low)) for x, y in line.points]
        cells.draw(scaled, line)
    return _framed(cells, lines, (low, high), (left, right))


class _Cells:
    """The grid: braille bits, marks and styles by cell."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        self.bits = [[0] * width for _ in range(height)]
        self.marks: dict[tuple[int, int], str] = {}
        self.styles: dict[tuple[int, int], str] = {}

    def draw(self, points: Points, line: Line) -> None:
        """Points of the unit square."""
        before: tuple[int, int] | None = None
        for x, y in points:
            dot = (round(x * (2 * self.width - 1)), round((1 - y) * (4 * self.height - 1)))
            if line.mark:
                self._mark(dot, line)
            else:
                for between in _joined(before or dot, dot):
                    self._dot(between, line.style)
            before = dot

    def _dot(self, dot: tuple[int, int], style: str) -> None:
        cell = (dot[1] // 4, dot[0] // 2)
        self.bits[cell[0]][cell[1]] |= _DOTS[dot[1] % 4][dot[0] % 2]
        self.styles[cell] = style

    def _mark(self, dot: tuple[int, int], line: Line) -> None:
        cell = (dot[1] // 4, dot[0] // 2)
        self.marks[cell], self.styles[cell] = line.mark, line.style

    def row(self, index: int) -> Text:
        """One line of the picture."""
        text = Text()
        for column in range(self.width):
            cell, bits = (index, column), self.bits[index][column]
            text.append(
                self.marks.get(cell) or (chr(0x2800 + bits) if bits else " "), self.styles.get(cell, "")
            )
        return text


def _joined(first: tuple[int, int], last: tuple[int, int]) -> list[tuple[int, int]]:
    """Dots of a straight line."""
    steps = max(abs(last[0] - first[0]), abs(last[1] - first[1]), 1)
    return [
        (
            round(first[0] + (last[0] - first[0]) * i / steps),
            round(first[1] + (last[1] - first[1]) * i / steps),
        )
        for i in range(steps + 1)
    ]


def _framed(cells: _Cells, lines: Sequence[Line], ys: tuple[float, float], xs: tuple[float, float]) -> Text:
    """Axes, numbers and names around the picture."""
    labels = {
        0: base.number(ys[1]),
        cells.height // 2: base.number(sum(ys) / 2),
        cells.height - 1: base.number(ys[0]),
    }
    margin = max(map(len, labels.values()))
    text = Text()
    for index in range(cells.height):
        label = labels.get(index, "")
        text.append(f"{label:>{margin}} {'┤' if label else '│'}", "quiet").append_text(
            cells.row(index)
        ).append("\n")
    first, last = base.count(xs[0]), base.count(xs[1])
    text.append(f"{'':>{margin}} └{'─' * cells.width}\n", "quiet")
    text.append(f"{'':>{margin}}  {first}{last:>{cells.width - len(first)}}\n", "quiet")
    text.append(f"{'':>{margin}}  ")
    for line in lines:
        text.append(f"{line.mark or '━'} {base.visible(line.name)}   ", line.style)
    return text
