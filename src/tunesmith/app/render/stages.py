"""Stages as tables: what each will cost, and what each came to.

stage        trains               steps  tokens  memory   time
1 pretrain   lora, 4,128 of 32 k      4     512  120 MB   2 s
"""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from tunesmith.app.render import base

Document = dict[str, Any]


def planned(stages: list[Document]) -> RenderableType:
    """The forecast of each stage."""
    columns = ["stage", "", "steps", "tokens", "trains", "peak", "time"]
    return base.table(columns, [_planned(n, stage) for n, stage in enumerate(stages)], right=[2, 3, 4, 5, 6])


def _planned(number: int, stage: Document) -> list[RenderableType]:
    plan = stage.get("plan")
    if plan is None:
        words = f"{base.count(stage['new_tokens'])} new tokens"
        return [_name(number, stage), Text(words), *(Text("–", "quiet") for _ in range(5))]
    run = plan["run"]
    return [
        _name(number, stage),
        Text(stage["kind"], "quiet"),
        Text(base.count(run["steps"])),
        Text(base.short_count(run["tokens"])),
        Text(base.short_count(plan["parameters"]["trainable"])),
        Text(base.size(plan["memory"]["peak_bytes"]), "default" if plan["fits"] else "bad"),
        Text(base.duration(run["seconds"])),
    ]


def came_to(stages: list[Document]) -> RenderableType:
    """What each stage did, its held-out loss before and after, on its own rows."""
    columns = ["stage", "", "steps", "tokens", "held out", "time"]
    return base.table(columns, [_came_to(n, stage) for n, stage in enumerate(stages)], right=[2, 3, 5])


def _came_to(number: int, stage: Document) -> list[RenderableType]:
    if stage["kind"] == "vocabulary":
        found = stage["vocabulary"]
        pieces = (
            f"tokens a character {base.number(found['before'])} → {base.number(found['after'])}",
            base.count(found["new_tokens"]) + " new tokens",
        )
        return [
            _name(number, stage), Text(pieces[1], "quiet"), Text("–", "quiet"), Text("–", "quiet"),
            Text(pieces[0]), Text("–", "quiet"),
        ]  # fmt: skip
    if stage["kind"] is None:
        return [_name(number, stage), Text(stage["status"], "quiet"), *(Text("–", "quiet") for _ in range(4))]
    training = stage["training"]
    losses = [
        (stage[when] or {}).get("heldout", None) if stage[when] else None for when in ("before", "after")
    ]
    held = " → ".join(base.number(loss["loss_nats"]) if loss else "–" for loss in losses)
    return [
        _name(number, stage),
        Text(stage["status"], "good" if stage["status"] != "interrupted" else "warn"),
        Text(base.count(training["steps"])),
        Text(base.short_count(training["tokens"])),
        Text(held),
        Text(base.duration(training["seconds"])),
    ]


def _name(number: int, stage: Document) -> Text:
    return Text.assemble((f"{number + 1} ", "quiet"), (base.visible(stage["name"]), "strong"))
