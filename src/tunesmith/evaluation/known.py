"""What was measured of the same weights before, so that it is not measured twice.

after of one stage  --same tasks, probes, held-out rows, template-->  before of the next
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.evaluation.scores import Evaluated, HeldOut

if TYPE_CHECKING:
    from tunesmith.data.samples import SampleSet
    from tunesmith.recipe import Task


@dataclass(frozen=True, slots=True)
class Known:
    """An evaluation and what was asked; `answers` is its file of raw outputs, `template` the template's source."""

    found: Evaluated
    tasks: Sequence[Task]
    probes: Sequence[str]
    template: str
    max_length: int
    answers: Path

    def part(
        self,
        tasks: Sequence[Task],
        probes: Sequence[str],
        held_out: SampleSet | None,
        template: str,
        max_length: int,
    ) -> Evaluated:
        """What of this evaluation answers what is asked now; the rest has to be measured."""
        if template != self.template:
            return Evaluated()
        same = [
            task
            for task in tasks
            if task in self.tasks and (task.kind != "loss" or max_length == self.max_length)
        ]
        return Evaluated(
            heldout=self.found.heldout if _same_rows(self.found.heldout, held_out) else None,
            items={task.name: self.found.items[task.name] for task in same if task.name in self.found.items},
            probes=self.found.probes if tuple(probes) == tuple(self.probes) else (),
        )

    def lines(self, part: Evaluated) -> list[dict[str, Any]]:
        """The raw outputs of the tasks that need not be done again."""
        if not self.answers.is_file():
            return []
        lines = [json.loads(line) for line in self.answers.read_text(encoding="utf-8").splitlines()]
        return [line for line in lines if line.get("task") in part.items]


def _same_rows(known: HeldOut | None, asked: SampleSet | None) -> bool:
    """Whether the held-out loss was of these very rows and targets."""
    if known is None or known.weights is not None or asked is None or asked.weights is not None:
        return False
    targets: Counter[str] = Counter()
    for address, count in zip(asked.addresses, asked.targets.tolist()):
        targets[address] += count  # a document that was split is one row
    return dict(zip(known.addresses, known.targets)) == dict(targets)
