"""An extended vocabulary as a page: what was added, what it saves, how more would go on.

new tokens   tokens a character
         0   0.744 ████████████████████████
       256   0.692 ██████████████████████
"""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from tunesmith.app.render import base, scores

BAR = 32
WORDS = 40


def page(document: dict[str, Any]) -> RenderableType:
    """The report of `tunesmith vocab`."""
    found, output = document["summary"], base.visible(document["output"])
    said = f"{base.count(found['new_tokens'])} new tokens: {100 * found['saved']:.1f}% fewer tokens on held-out text"
    return base.page(
        base.heading("vocab", document["output"]),
        base.mark("good", said),
        facts(document),
        curve(document),
        base.indent(base.bullet(Text("new", "key"), Text(words(document["new"])))),
        scores.next_steps(
            [
                f"# train its rows: model: {output}, objective: pretrain,",
                "# tuning: {method: lora, also_train: [embed_tokens, lm_head]}   (docs/vocabulary.md)",
            ]
        ),
    )


def facts(document: dict[str, Any]) -> RenderableType:
    """Before and after."""
    found, tokens, speed = document["summary"], document["tokens"], document["summary"]["characters_a_second"]
    held = document["held_out"]
    pairs: list[tuple[str, RenderableType]] = [
        (
            "tokens a char",
            f"{found['before']:.4f} → {found['after']:.4f} ({base.count(held['characters'])} held out)",
        ),
        (
            "decoding",
            f"{base.number(speed['before'], 1)} → {base.number(speed['after'], 1)} characters a second, "
            f"{_measured(document['decoding'])}",
        ),
        ("vocabulary", f"{base.count(tokens['before'])} → {base.count(tokens['after'])} tokens"),
        ("table rows", f"{base.count(tokens['rows_before'])} → {base.count(tokens['rows'])}"),
        ("stopped", base.visible(document["why"])),
        ("new rows", document["init"]),
    ]
    return base.facts(pairs)


def _measured(decoding: dict[str, Any]) -> str:
    """How sure the speeds are."""
    ends = decoding["after"]["characters_a_second_spread"]
    how = "in turns" if decoding["in_turns"] else "one after the other"
    return f"median of {decoding['repeats']} {how} (after: {base.count(ends[0])} to {base.count(ends[1])})"


def curve(document: dict[str, Any]) -> RenderableType:
    """Tokens a character for growing numbers of new tokens; the chosen one is marked."""
    points = document["curve"]
    most = points[0]["tokens_per_character"]
    chosen = document["summary"]["new_tokens"]
    rows = [
        (
            Text(base.count(point["tokens"]), "strong" if point["tokens"] == chosen else "default"),
            Text(f"{point['tokens_per_character']:.4f}"),
            Text(base.bar(point["tokens_per_character"], most, BAR), "accent"),
            Text("chosen" if point["tokens"] == chosen else "", "good"),
        )
        for point in points
    ]
    return base.table(["new tokens", "tokens a character", "", ""], rows, right=[0, 1])


def words(new: list[dict[str, Any]]) -> str:
    """The first of them, as people read them."""
    shown = [base.visible(token["text"]) for token in new if "\ufffd" not in token["text"]]
    return " · ".join(shown[:WORDS])
