"""The label X-ray: each token of a sample coloured by what becomes of it.

learnt  green      the model is taught to say it; where it counts other than once, ×2 stands before it
given   plain      it is there to be answered to
cut     red        over-length handling took it away
Without colour, learnt text stands in ⟦ ⟧ and cut text in ⟪ ⟫.
"""

from __future__ import annotations

from typing import Any

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.text import Text

from tunesmith.app.render import base

BRACKETS = {"learnt": ("⟦", "⟧"), "cut": ("⟪", "⟫"), "given": ("", ""), "weight": ("", "")}


class Xray:
    """One sample; drawn in colour where there is colour, in brackets elsewhere."""

    def __init__(self, sample: dict[str, Any]) -> None:
        self.sample = sample

    def __rich_console__(self, screen: Console, options: ConsoleOptions) -> RenderResult:
        coloured = screen.color_system is not None and not screen.no_color
        yield title(self.sample)
        before, behind = (
            [cut for cut in self.sample["cut"] if cut["behind"] is side] for side in (False, True)
        )
        for cut in before:
            yield base.indent(body([_gone(cut)], coloured), 2)
        yield base.indent(body([*stretches(self.sample), *map(_gone, behind)], coloured), 2)


def _gone(cut: dict[str, Any]) -> tuple[str, str]:
    return "cut", "".join(cut["pieces"])


def page(document: dict[str, Any], note: str = "") -> RenderableType:
    """The contracted document of `data show`."""
    legend = Text.assemble(
        ("learnt ", "learnt"), ("⟦ ⟧", "quiet"), "   given   ", ("cut", "cut"), (" ⟪ ⟫", "quiet"),
        (f"   template: {base.visible(document['template']['name'])}", "quiet"),
    )  # fmt: skip
    parts: list[RenderableType | None] = [Xray(sample) for sample in document["samples"]]
    if dropped := document.get("dropped"):
        words = [base.mark("bad", _left_out(row)) for row in dropped]
        parts.append(Group(*words))
    if not parts:
        parts = [base.mark("warn", "no rows to show")]
    return base.page(Group(base.heading("label X-ray", note), base.indent(legend)), *parts)


def _left_out(row: dict[str, Any]) -> Text:
    """A row that would not be learnt, and why."""
    reason = base.visible(row["reason"]).replace("_", " ")
    detail = f": {base.visible(row['detail'])}" if row.get("detail") else ""
    return Text.assemble((base.address(row["address"], 40), "strong"), f"  not learnt, {reason}{detail}")


def title(sample: dict[str, Any]) -> Text:
    """Where the sample comes from, and how many tokens are learnt, given, cut."""
    learnt = sum(sample["learnt"])
    cut = sum(len(turn["ids"]) for turn in sample["cut"])
    numbers = f"  {len(sample['ids'])} tokens: {learnt} learnt, {len(sample['ids']) - learnt} given"
    where = base.address(sample["address"], 40)
    line = Text.assemble((where, "strong"), (numbers, "quiet"))
    return line.append(f", {cut} cut", "bad") if cut else line


def stretches(sample: dict[str, Any]) -> list[tuple[str, str]]:
    """Neighbouring tokens of one kind put together: [("given", "2+2="), ("learnt", "4<stop>")].

    What weighs other than 1 begins with its weight: ("weight", "×0.5"), ("learnt", "4<stop>").
    """
    weights = sample.get("weights") or map(float, sample["learnt"])
    found: list[tuple[str, str]] = []
    before = None
    for piece, learnt, weight in zip(sample["pieces"], sample["learnt"], weights):
        kind = "learnt" if learnt else "given"
        if (kind, weight) == before:
            found[-1] = (kind, found[-1][1] + piece)
            continue
        if learnt and weight != 1:
            found.append(("weight", f"×{weight:.6g}"))
        found.append((kind, piece))
        before = (kind, weight)
    return found


def body(parts: list[tuple[str, str]], coloured: bool) -> Text:
    """The text itself, line breaks shown and kept."""
    made = Text(overflow="fold")
    for kind, words in parts:
        shown = base.visible(words.replace("\n", "⏎\n"), keep_newlines=True)
        left, right = ("", "") if coloured else BRACKETS[kind]
        made.append(left + shown + right, kind)
    made.rstrip()
    return made
