"""Errors as a person reads them: what, where, and the way out; or as one JSON object.

✗ 2 problems                                                            recipe
  optim.lrr  is not a known key
             → did you mean lr? ...
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base
from tunesmith.errors import Problem, UserError

FEW = 60
"""More problems than this are counted, not spelt: the first ones tell the story."""


def problems(found: Sequence[Problem], code: str, kind: str = "bad") -> RenderableType:
    """All problems of an error, each with its place; a fix once behind those that it mends."""
    title = "1 problem" if len(found) == 1 else f"{len(found)} problems"
    of = "" if code == UserError.code else f"  {code}"
    head = base.mark(kind, Text.assemble((title, "strong"), (of, "quiet")))
    lines: list[RenderableType] = [head]
    for fix, alike in itertools.groupby(found[:FEW], key=lambda problem: problem.fix):
        lines += [_what(problem) for problem in alike]
        if fix:
            lines.append(base.indent(Text(f"→ {base.visible(fix)}", "accent", overflow="fold"), 4))
    if len(found) > FEW:
        lines.append(Text(f"  … and {len(found) - FEW} more", style="quiet"))
    return Group(*lines)


def _what(problem: Problem) -> RenderableType:
    where, what = base.visible(problem.where), base.visible(problem.what, keep_newlines=True)
    return base.indent(Text.assemble((where, "strong"), "  " if where else "", what, overflow="fold"), 2)


def interrupted(found: Sequence[Problem]) -> RenderableType:
    """A run that was stopped on request: not a failure, and how to go on."""
    lines: list[RenderableType] = []
    for problem in found:
        where = f"{base.visible(problem.where)}  " if problem.where else ""
        lines.append(base.mark("warn", Text.assemble((where, "strong"), base.visible(problem.what))))
        if problem.fix:
            lines.append(base.indent(Text(f"→ {base.visible(problem.fix)}", "accent"), 4))
    return Group(*lines)
