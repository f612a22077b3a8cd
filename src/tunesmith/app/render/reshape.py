"""New data files as pages: what was written, from what, and what could not be carried."""

from __future__ import annotations

from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from tunesmith.app.render import base

Document = dict[str, Any]


def losses(found: list[Document]) -> RenderableType | None:
    """Reasons with their count and rows for example."""
    if not found:
        return None
    blocks: list[RenderableType] = []
    for item in found:
        name = base.visible(item["reason"]).replace("_", " ")
        blocks.append(
            base.mark("warn", Text.assemble((name, "strong"), (f"  {base.count(item['count'])} ×", "quiet")))
        )
        for example in item["examples"]:
            where = Text(base.address(example["where"], 36), "accent")
            blocks.append(base.indent(Text.assemble(where, "  ", base.visible(example["what"])), 4))
    return base.indent(Group(*blocks))


def converted(document: Document) -> RenderableType:
    """The document of `data convert`."""
    old, new = document["from"], document["to"]
    rows = [
        (Text(base.visible(side["path"]), "strong"), side["format"], base.count(number))
        for side, number in ((old, document["rows_in"]), (new, document["rows_out"]))
    ]
    carried = ", ".join(base.visible(name) for name in document["columns_carried"])
    words = f"{base.many(document['whole'], 'row')} whole"
    if document["reduced"]:
        words += f", {base.count(document['reduced'])} with less than they had"
    if document["left_out"]:
        words += f", {base.count(document['left_out'])} left out"
    return base.page(
        base.heading("data convert"),
        base.table(["file", "format", "rows"], rows, right=[2]),
        base.facts([("columns carried", Text(carried))]) if carried else None,
        losses(document["losses"]),
        base.mark("warn" if document["losses"] else "good", f"{words}; read back and compared"),
    )


def divided(document: Document) -> RenderableType:
    """The document of `data split`: parts, and what each kind of row gave to them."""
    parts = document["parts"]
    total = sum(part["rows"] for part in parts)
    rows = [
        (
            Text(part["name"], "strong"),
            base.visible(part["path"]),
            base.count(part["rows"]),
            base.share(part["rows"], total),
            "–" if part["asked"] is None else f"{part['asked']:g}",
        )
        for part in parts
    ]
    names = list(parts[0]["strata"])
    kinds = None
    if document["stratify"]:
        cells = [
            (Text(base.visible(name), "strong"), *(base.count(part["strata"][name]) for part in parts))
            for name in names
        ]
        columns = [document["stratify"], *(part["name"] for part in parts)]
        kinds = base.table([base.visible(name) for name in columns], cells, right=range(1, len(columns)))
    groups, made = document["groups"], document["augmented"]
    words = f"{base.many(document['rows_in'], 'row')} in, {base.count(total)} written"
    words += f", {base.count(document['left_out'])} left out" if document["left_out"] else ""
    words += f"; {base.many(groups['count'], 'group')} that never part, "
    words += f"the largest of {base.many(groups['largest'], 'row')}"
    near = document["near"]
    if near["rows"]:
        words += f"; {base.many(near['rows'], 'row')} nearly equal to another, kept together"
    if not near["looked"]:
        words += "; rows that are nearly equal may part (--near 0.8)"
    if any(made.values()):
        words += f"; augmented rows: {base.count(made['train'])} train, "
        words += f"{base.count(made['left_out'])} left out as their originals are held out"
    return base.page(
        base.heading("data split", ", ".join(document["sources"])),
        base.table(["part", "file", "rows", "share", "asked"], rows, right=[2, 3, 4]),
        kinds,
        losses(document["losses"]),
        base.mark("good", words),
    )


def _begun(text: str, width: int = 74) -> str:
    return text if len(text) <= width else text[: width - 1] + "…"


_NEXT = {
    "rows": "a first run on it shows in minutes what a long one would not do better",
    "probes": "in a recipe: evaluation: {{probes: {path}}}",
    "choice": "in a recipe: evaluation: {{tasks: [{{name: field, kind: choice, path: {path}}}]}}",
    "open": "print it or fill it in; a .csv is also a task of kind generate",
}


def sampled(document: Document) -> RenderableType:
    """The document of `data sample`."""
    kind, path = document["kind"], base.visible(document["path"])
    facts: list[tuple[str, RenderableType]] = [
        ("written", Text(path, "strong")),
        ("rows", Text(base.count(document["rows"]))),
    ]
    facts.append(("read", Text(base.count(document["rows_read"]))))
    if document.get("rest"):
        rest = document["rest"]
        words = f"{base.visible(rest['path'])}: {base.many(rest['rows'], 'row')}"
        words += f", {base.count(rest['kept_out'])} more kept out" if rest["kept_out"] else ""
        facts.append(("rest", Text(words)))
    if document.get("answers"):
        facts.append(
            ("answers", Text(", ".join(f"{letter} {n}" for letter, n in document["answers"].items())))
        )
    asked = [
        base.indent(Text("· " + _begun(base.visible(item["question"]))))
        for item in document.get("questions", ())
    ]
    review = document.get("to_review")
    return base.page(
        base.heading("data sample", kind),
        base.facts(facts),
        Group(*asked) if asked else None,
        losses(document["losses"]),
        base.mark(
            "warn", f"{base.many(review, 'item')} to be reviewed by a person: options come from other answers"
        )
        if review
        else None,
        base.mark("good", _NEXT[kind].format(path=path)),
    )


def augmented(document: Document) -> RenderableType:
    """The document of `data augment`: how many rows each operation gave, a few of them side by side."""
    rows = [(name, base.count(number)) for name, number in document["operations"].items()]
    shown = [
        base.indent(
            Group(
                Text.assemble((item["by"], "accent"), "  ", (base.address(item["of"], 40), "quiet")),
                base.indent(Text("- " + _begun(base.visible(item["before"])), "quiet")),
                base.indent(Text("+ " + _begun(base.visible(item["after"])))),
            )
        )
        for item in document["examples"]
    ]
    words = f"{base.many(document['rows_out'], 'new row')} from {base.count(document['rows_in'])}, in "
    return base.page(
        base.heading("data augment"),
        base.table(["operation", "rows"], rows, right=[1]),
        Group(*shown),
        losses(document["missed"]),
        base.mark("good", words + base.visible(document["path"])),
        base.indent(Text("read some of them, then name the file beside its original in data.train", "quiet")),
    )
