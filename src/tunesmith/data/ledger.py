"""What became of each row: the books of a run, and they balance.

rows_in = whole + shortened + split + expanded + dropped + not_read      for each source
tokens.in = tokens.kept + tokens.cut                                     for all rows that were rendered
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import zip_longest
from typing import Any, Literal, get_args

from tunesmith.data.splits import Split

Kept = Literal["whole", "shortened", "split", "expanded"]
Fate = Literal["whole", "shortened", "split", "expanded", "dropped", "not_read"]
FATES: tuple[str, ...] = get_args(Kept)


@dataclass(frozen=True, slots=True)
class SourceLedger:
    """One file. `use` says what it was named for; `repeats` how often its tokens are seen in the run.

    Shares are of the tokens of the run: what was asked for, and what it came to.
    """

    path: str
    format: str | None
    use: Split
    rows_in: int
    whole: int
    shortened: int
    split: int
    expanded: int
    dropped: int
    not_read: int
    reasons: dict[str, int]
    repeats: float = 1.0
    augmented: int = 0
    """Rows among those kept that were augmented from others."""
    learnt_samples: int | None = None
    """Of a stream: samples that steps of the run have learnt from so far. What it holds is not known."""
    requested_share: float | None = None
    realised_share: float | None = None

    def balance(self) -> int:
        """Rows that are not accounted for: zero, or the books are wrong."""
        kept = self.whole + self.shortened + self.split + self.expanded
        return self.rows_in - (kept + self.dropped + self.not_read)


@dataclass(frozen=True, slots=True)
class TokenLedger:
    """Tokens of all rendered rows. `repeated` are given again as context where a document is split."""

    kept: int = 0
    cut: int = 0
    targets: int = 0
    repeated: int = 0

    def to_json(self) -> dict[str, int]:
        """`in` is what stood in the rows: what was kept and what was cut."""
        return {"in": self.kept + self.cut, **asdict(self)}


@dataclass(frozen=True, slots=True)
class SplitLedger:
    """One side of the split. `tokens` are those the model reads, `targets` those it is to predict."""

    rows: int = 0
    samples: int = 0
    tokens: int = 0
    targets: int = 0


@dataclass(frozen=True, slots=True)
class TouchedRow:
    """A row that did not go whole: one line of ledger.rows.jsonl."""

    address: str
    fate: str
    reason: str
    detail: str = ""
    cut_tokens: int = 0
    samples: int = 0


@dataclass(frozen=True, slots=True)
class Ledger:
    """The whole account. `rows` gives the touched rows, in file order, as often as it is asked."""

    sources: tuple[SourceLedger, ...]
    tokens: TokenLedger
    splits: dict[str, SplitLedger]
    rows: Iterable[TouchedRow] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        for source in self.sources:
            assert source.balance() == 0, f"{source.path}: {source.balance()} rows unaccounted for"
            assert sum(source.reasons.values()) >= source.dropped, (
                f"{source.path}: a dropped row has no reason"
            )
        targets = sum(split.targets for split in self.splits.values())
        assert targets == self.tokens.targets, f"{self.tokens.targets} targets, {targets} in the splits"
        kept = sum(getattr(source, fate) for source in self.sources for fate in get_args(Kept))
        rows = sum(split.rows for split in self.splits.values())
        assert kept == rows, f"{kept} rows kept, {rows} in the splits"

    def to_json(self) -> dict[str, Any]:
        """The contracted ledger.json."""
        return {
            "sources": [asdict(source) for source in self.sources],
            "tokens": self.tokens.to_json(),
            "splits": {name: asdict(split) for name, split in self.splits.items()},
        }

    def row_lines(self) -> Iterator[str]:
        """The lines of ledger.rows.jsonl: one a touched row."""
        return (json.dumps(asdict(row), ensure_ascii=False) for row in self.rows)

    def mix(self) -> list[dict[str, Any]]:
        """What each train source was asked to give of the run's tokens, and what it gives."""
        names = ("path", "requested_share", "realised_share", "repeats")
        return [{name: getattr(s, name) for name in names} for s in self.sources if s.use == "train"]

    def heads(self) -> list[dict[str, Any]]:
        """Of each stream, how many rows have been looked at: what a forecast rests on."""
        return [{"path": s.path, "rows": s.rows_in} for s in self.sources if s.learnt_samples is not None]

    def with_repeats(
        self, repeats: Sequence[float], requested: Sequence[float] = (), realised: Sequence[float] = ()
    ) -> Ledger:
        """The same with how often each train source is seen and its shares, once the run's steps are known."""
        known = zip_longest(repeats, requested, realised)
        sources = []
        for source in self.sources:
            if source.use == "train" and (found := next(known, None)) is not None:
                passes, asked, given = found
                source = replace(source, repeats=passes, requested_share=asked, realised_share=given)
            sources.append(source)
        return replace(self, sources=tuple(sources))


class SourceAccount:
    """Counts one source while it is read; `close` gives the frozen result."""

    def __init__(self, path: str, format: str | None, use: Split) -> None:
        self.path, self.format, self.use = path, format, use
        self.rows_in = 0
        self.fates: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()
        self.augmented = 0

    def arrive(self, rows: int = 1) -> None:
        """Rows seen in the file, before anything is known of them."""
        self.rows_in += rows

    def settle(self, fate: Fate, reason: str | None = None, rows: int = 1) -> None:
        """What became of rows, and why, where they were touched."""
        self.fates[fate] += rows
        if reason:
            self.reasons[reason] += rows

    def take_back(self, fate: str, reason: str | None, rows: int = 1) -> None:
        """What was settled of rows before it was known that they cannot stay."""
        self.fates[fate] -= rows
        if reason:
            self.reasons[reason] -= rows
            self.reasons = +self.reasons

    def close(self) -> SourceLedger:
        """The frozen account."""
        fates = {fate: self.fates[fate] for fate in get_args(Fate)}
        reasons = dict(sorted(self.reasons.items()))
        return SourceLedger(
            self.path, self.format, self.use, self.rows_in, **fates, reasons=reasons, augmented=self.augmented
        )


def merge_reasons(sources: Iterable[SourceLedger]) -> dict[str, int]:
    """Reasons of all sources together, most frequent first."""
    total: Counter[str] = Counter()
    for source in sources:
        total.update(source.reasons)
    return dict(total.most_common())
