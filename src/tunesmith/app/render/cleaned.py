"""What `data clean` did as a page: each file with its copy and report, each step with how many rows it touched."""

from __future__ import annotations

from typing import Any

from rich.console import RenderableType
from rich.text import Text

from tunesmith.app.render import base
from tunesmith.app.render.data import short_names


def page(document: dict[str, Any], note: str = "") -> RenderableType:
    """Files, steps, and where to go from here."""
    files = document["files"]
    dropped = sum(document["dropped"].values())
    touched = sum(document["changed"].values())
    words = f"{base.many(document['rows'], 'row')} in, {base.many(dropped, 'row')} left out"
    undo = f"tunesmith data clean --undo {files[0]['report']} --out ORIGINAL" if files else ""
    return base.page(
        base.heading("data clean", note),
        _files(files),
        _steps(document),
        base.mark("good", words if touched or dropped else f"{words}; there was nothing to clean"),
        base.facts(
            [
                ("copy", base.visible(", ".join(file["out"] for file in files))),
                ("undo", base.visible(undo)),
                ("train on it", base.visible(f"data.train={_listed(document['train'])}")),
            ]
        ),
    )


def _listed(paths: str) -> str:
    return f"[{paths}]" if "," in paths else paths


def _files(files: list[dict[str, Any]]) -> RenderableType:
    rows = [
        (
            Text(base.visible(name), "strong"),
            base.count(file["rows"]),
            base.count(sum(file["changed"].values())),
            base.count(sum(file["dropped"].values())),
        )
        for name, file in zip(short_names([file["path"] for file in files]), files)
    ]
    return base.table(["file", "rows", "changes", "left out"], rows, right=[1, 2, 3])


def _steps(document: dict[str, Any]) -> RenderableType | None:
    names = dict.fromkeys([*document["steps"], *document["changed"], *document["dropped"]])
    rows = [
        (
            Text(base.visible(name).replace("_", " "), "strong"),
            base.count(document["changed"].get(name, 0)),
            base.count(document["dropped"].get(name, 0)),
        )
        for name in names
    ]
    return base.table(["step", "rows changed", "rows left out"], rows, right=[1, 2])


def restored(document: dict[str, Any]) -> RenderableType:
    """The original is back."""
    again = {
        "unpacked": f"is again what is packed in {document['source']}",
        "lines": f"has the rows of {document['source']} again, one a line",
    }.get(document["form"], "is the original again")
    words = f"{document['out']} {again}: {base.many(document['rows'], 'row')} put back"
    return base.mark("good", base.visible(words))
