"""A source whose rows come one after another, perhaps without end: how it is read, and what cannot be asked of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol

from tunesmith.recipe.section import Count, Section


class Stream(Section):
    """Rows as they come, learnt in the order they come in, shuffled within a window."""

    at_end: Literal["stop", "wait"] = "stop"
    """At the last row: stop, and the run ends there; or wait for the file to grow, or for the next one."""
    window: Count = 4096
    """So many rows are shuffled together. A step waits until its window is full, or the stream has ended."""


class Streamed(Protocol):
    """What of a source decides whether it may be a stream."""

    @property
    def stream(self) -> Stream | None:
        """How it is streamed; None where it is read whole."""

    @property
    def quality(self) -> object:
        """Its worth a token."""


def stream_fault(
    train: Sequence[Streamed], held: Sequence[tuple[str, object]], limit: object, temperature: object
) -> str | None:
    """What a recipe's data asks of its streams that no stream can give; None where all is well.

    held: `validation` and `test` with what is asked of them.
    """
    streams = [source for source in train if source.stream is not None]
    if not streams:
        return None
    if limit is not None:
        return "has both limit and a stream; leave limit out: budget.steps says how much of a stream is read"
    if temperature is not None:
        return "has both mix.temperature and a stream, whose size nobody knows; give each source a weight"
    if any(source.quality is not None for source in train):
        return "has both quality, which goes by size, and a stream, whose size nobody knows; give each source a weight"
    if len(streams) == len(train):
        for name, asked in held:
            if isinstance(asked, int | float):
                return (
                    f"has {name}: {asked}, but every source is a stream, of which no share can be drawn; "
                    f"name a file of rows to hold out ({name}: held.jsonl), or {name}: null"
                )
    return None
