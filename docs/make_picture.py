"""Draw what a terminal shows: tmux capture-pane -e -p -S - | python docs/make_picture.py "5 training" > docs/demo.svg

Everything above the first line that holds the given words is left out, and what follows the demo's last command.
"""

from __future__ import annotations

import io
import re
import sys

from rich.ansi import AnsiDecoder
from rich.console import Console

WIDTH = 80


def main(first: str) -> None:
    """Read a captured terminal from standard input, write an SVG to standard output."""
    # One decoder for all: a terminal's colours go on over the end of a line.
    lines = list(AnsiDecoder().decode(sys.stdin.read()))
    start = max((i for i, line in enumerate(lines) if first in line.plain), default=0)
    commands = [i for i, line in enumerate(lines) if line.plain.strip().startswith("tunesmith ")]
    end = commands[-1] if commands else len(lines) - 1
    screen = Console(
        record=True, width=WIDTH, file=io.StringIO(), force_terminal=True, color_system="standard"
    )
    for line in lines[start : end + 1]:
        line.rstrip()
        screen.print(line, no_wrap=True, overflow="crop")
    svg = screen.export_svg(title="tunesmith demo")
    # The picture needs no font of another host: the reader's own monospace will do.
    svg = re.sub(r"@font-face \{.*?\}\s*", "", svg, flags=re.DOTALL)
    # Rich gives a text as many columns as it has letters; a Chinese one takes two each.
    svg = re.sub(r' textLength="[\d.]+"(?=[^<>]*>[^<]*[\u2e80-\uffef])', "", svg)
    sys.stdout.write(svg.replace("Fira Code", "ui-monospace, Menlo, Consolas, 'DejaVu Sans Mono'"))


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "")
