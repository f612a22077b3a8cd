"""How many items of each evaluation task stand in what is trained on, by the n-grams of leakage.py.

{"law": [items]} + train sources -> (("law", 3, 200),)        quick: the first LOOKED_AT rows of each source
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from tunesmith.data.doctor.leakage import HeldText, Leakage, question_of, texts_of
from tunesmith.data.doctor.near import Units
from tunesmith.data.faults import Fault
from tunesmith.data.gather import open_source
from tunesmith.data.records import Record
from tunesmith.recipe import Source

LOOKED_AT = 20_000


def leaked_items(
    tasks: Mapping[str, Sequence[tuple[str, Record]]], sources: Sequence[Source]
) -> tuple[tuple[str, int, int], ...]:
    """(task, items found in training, items) of each task with any; `data check` names the rows, and reads all."""
    leakage = Leakage(Units())
    for name, items in tasks.items():
        for address, record in items:
            leakage.add(HeldText(name, address, question_of(record)))
    found: set[tuple[str, str]] = set()
    for source in sources if leakage.items else ():
        opened = open_source(source)
        for raw in itertools.islice(opened.rows, LOOKED_AT):
            read = opened.record(raw)
            if not isinstance(read, Fault) and (leak := leakage.find(texts_of(read))) is not None:
                found.add((leak.held.use, leak.held.address))
    counts = {name: sum(use == name for use, _ in found) for name in tasks}
    return tuple((name, count, len(tasks[name])) for name, count in counts.items() if count)
