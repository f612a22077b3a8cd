"""What advice changed in a recipe, and why: under the plan that the changed recipe has."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base
from tunesmith.app.render import plan as plans
from tunesmith.search.grid import spell


def applied(document: dict[str, Any], recipe: str) -> RenderableType:
    """The plan of the changed recipe, then each change."""
    taken = document["applied"]
    lines = [change(each) for each in taken["changes"]]
    if not lines:
        verdict = base.mark("good", f"nothing advised had a change; copied to {base.visible(taken['out'])}")
    else:
        verdict = base.mark(
            "good", f"written with {base.many(len(lines), 'change')}: {base.visible(taken['out'])}"
        )
    lost = None if taken["comments_kept"] else base.mark("warn", "comments and order could not be kept")
    changed = Group(Text("  taken", "key"), *lines) if lines else None
    return base.page(plans.page(document, recipe), changed, lost, verdict)


def begun(document: dict[str, Any]) -> RenderableType:
    """The recipe that `init` wrote, as it stands in the file, and what comes next."""
    out = base.visible(document["out"])
    left = [advice for advice in document["plan"]["advice"] if not advice["change"]]
    verdict = base.mark("good", f"written: {out}")
    if left:
        verdict.append(f", with {base.many(len(left), 'thing')} left to you at its head", "warn")
    steps = Group(
        *(
            Text(f"  tunesmith {words}", "accent")
            for words in (f"data show {out}", f"plan {out}", f"train {out}")
        )
    )
    text = Text(base.visible(document["text"], keep_newlines=True).rstrip())
    return base.page(base.heading("init"), base.indent(text), plans.verdict(document["plan"]), verdict, steps)


def change(each: dict[str, Any]) -> RenderableType:
    """One key: before, after, why."""
    old = "unset" if each["old"] is None else spell(each["old"])
    body = Text.assemble((each["key"], "accent"), f": {old} -> ", (spell(each["value"]), "accent"))
    body.append(f"\n{base.visible(each['reason'])}").append(f"  ({base.visible(each['source'])})", "quiet")
    return base.indent(base.bullet(Text("›", "warn"), body))
