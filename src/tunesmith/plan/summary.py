"""What the data is like, in a dozen numbers, for rules of advice: from the prepared data and the steps."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from tunesmith.data.loader import StepPlan
    from tunesmith.data.prepare import Prepared
    from tunesmith.data.template import ChatTemplate


@dataclass(frozen=True, slots=True)
class DataSummary:
    """Training data. Shares are of rows; epochs and repeats are passes over tokens.

    attended: length of the document that a token stands in, on average.
    """

    rows: int
    targets: int
    epochs: float
    longest: int
    attended: float
    cut_share: float
    sources: int
    most_repeats: float
    formats: frozenset[str]
    validation_rows: int
    template: str

    @property
    def dialogue(self) -> bool:
        """Whether rows may hold several turns."""
        return bool(self.formats & {"history", "messages"})


def summarise(data: Prepared, steps: StepPlan, template: ChatTemplate) -> DataSummary:
    """The summary of a run's data."""
    ledger = data.ledger
    read = [source for source in ledger.sources if source.use == "train"]
    lengths = np.concatenate([source.lengths for source in data.train]).astype(np.float64)
    rows = ledger.splits["train"].rows
    cut = sum(s.shortened + s.reasons.get("turn_too_long", 0) for s in read)
    return DataSummary(
        rows=rows,
        targets=ledger.splits["train"].targets,
        epochs=float(steps.step_tokens.sum()) / max(1, steps.epoch_tokens),
        longest=data.longest,
        attended=float((lengths**2).sum() / max(1, lengths.sum())),
        cut_share=cut / max(1, sum(s.rows_in - s.not_read for s in read)),
        sources=len(read),
        most_repeats=max(steps.passes, default=0.0),
        formats=frozenset(source.format for source in read if source.format),
        validation_rows=len(data.validation) if data.validation is not None else 0,
        template=template.name,
    )
