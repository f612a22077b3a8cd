"""What the data is like, in a dozen numbers, for rules of advice: from the prepared data and the steps."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from tunesmith.data.samples import IGNORED
from tunesmith.plan.distance import distance
from tunesmith.plan.words_advice import WordFacts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.loader import RunSteps
    from tunesmith.data.prepare import Prepared
    from tunesmith.data.template import ChatTemplate

USUAL = 0.995
MEASURED_TOKENS, LEAST_CHARACTERS = 20_000, 1000


@dataclass(frozen=True, slots=True)
class DataSummary:
    """Training data. Shares are of rows; epochs and repeats are passes over tokens.

    attended: length of the document that a token stands in, on average. usual_longest: half a row in a hundred is
    longer. source_tokens: of each source, as often as the run reads it. leaks: (task, items in training, items).
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
    usual_longest: int = 0
    source_tokens: tuple[int, ...] = ()
    leaks: tuple[tuple[str, int, int], ...] = ()
    words: WordFacts | None = None

    @property
    def dialogue(self) -> bool:
        """Whether rows may hold several turns."""
        return bool(self.formats & {"history", "messages"})


def summarise(
    data: Prepared,
    steps: RunSteps,
    template: ChatTemplate,
    tokenizer: PreTrainedTokenizerFast | None = None,
    leaks: tuple[tuple[str, int, int], ...] = (),
) -> DataSummary:
    """The summary of a run's data."""
    ledger = data.ledger
    read = [source for source in ledger.sources if source.use == "train"]
    lengths, counts = lengths_of(data)
    rows = ledger.splits["train"].rows if data.streams is None else steps.row_count
    cut = sum(s.shortened + s.reasons.get("turn_too_long", 0) for s in read)
    return DataSummary(
        rows=rows,
        targets=ledger.splits["train"].targets if data.streams is None else steps.total_targets,
        epochs=steps.total_tokens / max(1, steps.epoch_tokens),
        longest=data.longest,
        attended=float((counts * lengths**2).sum() / max(1, (counts * lengths).sum())),
        cut_share=cut / max(1, sum(s.rows_in - s.not_read for s in read)),
        sources=len(read),
        most_repeats=max(steps.passes, default=0.0),
        formats=frozenset(source.format for source in read if source.format),
        validation_rows=len(data.validation) if data.validation is not None else 0,
        template=template.name,
        usual_longest=_quantile(counts, USUAL),
        source_tokens=tuple(round(share * steps.total_tokens) for share in steps.realised),
        leaks=leaks,
        words=_words(data, template, tokenizer) if tokenizer is not None else None,
    )


def _words(data: Prepared, template: ChatTemplate, tokenizer: PreTrainedTokenizerFast) -> WordFacts:
    """The tokenizer, and how many tokens it needs for a character of this data's learnt text."""
    learnt: list[int] = []
    for sample in data.train[0]:
        learnt += sample.labels[sample.labels != IGNORED].tolist()
        if len(learnt) > MEASURED_TOKENS:
            break
    special = set(tokenizer.all_special_ids)
    plain = [token for token in learnt if token not in special]
    text = str(tokenizer.backend_tokenizer.decode(plain))
    pad = tokenizer.pad_token_id
    return WordFacts(
        tokens=len(tokenizer),
        pad_is_stop=pad is not None and pad in template.stop_ids,
        tokens_a_character=len(plain) / len(text) if len(text) >= LEAST_CHARACTERS else None,
        distance=distance(text, tokenizer.backend_tokenizer),
    )


def _quantile(counts: np.ndarray, share: float) -> int:
    """The length up to which a share of the samples goes; `counts[n]` have length n."""
    place = math.ceil(share * max(0.0, counts.sum() - 1))
    return int(np.searchsorted(np.cumsum(counts), place, side="right")) if counts.any() else 0


def lengths_of(data: Prepared) -> tuple[np.ndarray, np.ndarray]:
    """(every length that a training sample may have, as Float64, how many samples have it)."""
    counts = np.zeros(1 + max((source.longest for source in data.train), default=0))
    for source in data.train:
        counts[: len(source.length_counts)] += source.length_counts
    return np.arange(len(counts), dtype=np.float64), counts
