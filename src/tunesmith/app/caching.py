"""The verbs of the cache of prepared data: list and clear. No logic lives here."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from cyclopts import Parameter

from tunesmith.app.answer import Answer
from tunesmith.app.verbs import Json
from tunesmith.errors import UserError
from tunesmith.folder import cache_root


def cache_list(*, json: Json = False) -> Answer:
    """What is kept of prepared data, last used first, and where."""
    from tunesmith.app.render import cache as pages
    from tunesmith.data import cache

    found = [asdict(entry) for entry in cache.entries()]
    document = {"folder": str(cache_root()), "bytes": sum(each["bytes"] for each in found), "entries": found}
    return Answer(document, pages.list_page, json)


def cache_clear(
    *,
    days: Annotated[
        float | None, Parameter(name="--days", help="Only what has not been used for so many days.")
    ] = None,
    json: Json = False,
) -> Answer:
    """Delete what is kept of prepared data. What a run is using stays; the next run makes anew what it needs."""
    from tunesmith.app.render import cache as pages
    from tunesmith.data import cache

    if days is not None and days < 0:
        raise UserError.at("--days", f"must not be negative, got {days}", "try --days 30")
    gone, kept = cache.clear(days)
    document = {
        "folder": str(cache_root()),
        "cleared": [asdict(entry) for entry in gone],
        "in_use": [asdict(entry) for entry in kept],
        "freed_bytes": sum(entry.bytes for entry in gone),
    }
    return Answer(document, pages.cleared_page, json)
