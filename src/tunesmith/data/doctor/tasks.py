"""How many items of each evaluation task stand in what is trained on, by the n-grams of leakage.py.

[(law, items)] + train sources -> (("law", 3, 200),)        quick: the first LOOKED_AT rows of each source
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from typing import Protocol

from tunesmith.data.doctor.leakage import HeldText, Leakage, question_of, texts_of
from tunesmith.data.doctor.near import Units
from tunesmith.data.faults import Fault
from tunesmith.data.gather import open_source
from tunesmith.data.records import Record
from tunesmith.recipe import Source, Task

LOOKED_AT = 20_000


class Asked(Protocol):
    """An item of a task, as evaluation reads it."""

    @property
    def address(self) -> str:
        """file:row."""

    @property
    def record(self) -> Record:
        """What is asked."""


def leaked_items(
    tasks: Iterable[tuple[Task, Sequence[Asked]]], sources: Sequence[Source]
) -> tuple[tuple[str, int, int], ...]:
    """(task, items found in training, items) of each task with any; `data check` names the rows, and reads all."""
    leakage = Leakage(Units())
    sizes = {}
    for task, items in tasks:
        sizes[task.name] = len(items)
        for item in items:
            leakage.add(HeldText(task.name, item.address, question_of(item.record)))
    found: set[tuple[str, str]] = set()
    whole = [source for source in sources if source.stream is None]  # a stream is learnt from as it comes
    for source in whole if leakage.items else ():
        opened = open_source(source)
        for raw in itertools.islice(opened.rows, LOOKED_AT):
            read = opened.record(raw)
            if not isinstance(read, Fault) and (leak := leakage.find(texts_of(read))) is not None:
                found.add((leak.held.use, leak.held.address))
    counts = {name: sum(use == name for use, _ in found) for name in sizes}
    return tuple((name, count, sizes[name]) for name, count in counts.items() if count)
