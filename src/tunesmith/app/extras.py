"""What can be installed beside: which parts are there, and what the others cost in megabytes and time.

extras() -> [{"name": "zstd", "for": "reading .zst files", "missing": ["zstandard"], "megabytes": 6, ...}]
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from typing import Any

# Of a download: a usual line, and unpacking.
MEGABYTES_A_SECOND = 5.0


@dataclass(frozen=True, slots=True)
class Extra:
    """An optional part, as pyproject.toml names it.

    megabytes: to fetch, on CPython 3.11 for Linux. zstd is measured; of track the five themselves are 41, what comes
    along with them is estimated.
    """

    name: str
    what: str
    modules: tuple[str, ...]
    megabytes: int

    @property
    def missing(self) -> list[str]:
        """Modules that are not there."""
        return [name for name in self.modules if importlib.util.find_spec(name) is None]

    @property
    def install(self) -> str:
        """The words to type."""
        return f"pip install 'tunesmith[{self.name}]'"

    @property
    def seconds(self) -> int:
        """About how long fetching takes, at MEGABYTES_A_SECOND."""
        return max(1, round(self.megabytes / MEGABYTES_A_SECOND))


EXTRAS = (
    Extra("zstd", "reading .zst data files", ("zstandard",), 6),
    Extra(
        "track", "telling trackers of a run; any one of the five will do by itself",
        ("tensorboard", "wandb", "trackio", "swanlab", "mlflow"), 260,
    ),
)  # fmt: skip


def extras() -> list[dict[str, Any]]:
    """All of them, as a document."""
    return [
        {
            "name": extra.name,
            "for": extra.what,
            "missing": extra.missing,
            "megabytes": extra.megabytes,
            "seconds": extra.seconds,
            "install": extra.install,
        }
        for extra in EXTRAS
    ]
