"""The books of a stream: what became of its rows so far, whatever of them has been let go.

shard after shard --> Account, kept with every window --> beside the ledger of the sources that are known whole
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import chain
from typing import Any, final

from tunesmith.data.ledger import Ledger, SourceAccount, SourceLedger, SplitLedger, TokenLedger, TouchedRow


@dataclass(slots=True)
class Account:
    """What became of the rows of a stream so far; grows with the run, whatever has been let go."""

    rows_in: int = 0
    rows: int = 0
    samples: int = 0
    tokens: int = 0
    targets: int = 0
    augmented: int = 0
    fates: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    all_tokens: Counter[str] = field(default_factory=Counter)  # kept, cut, repeated

    def to_json(self) -> dict[str, Any]:
        """As it is kept with a window."""
        return {
            name: dict(value) if isinstance(value, Counter) else value
            for name, value in ((each.name, getattr(self, each.name)) for each in fields(self))
        }

    @classmethod
    def of_json(cls, value: Mapping[str, Any]) -> Account:
        """As it was kept."""
        found: dict[str, Any] = {n: Counter(v) if isinstance(v, dict) else v for n, v in value.items()}
        return cls(**found)

    def copy(self) -> Account:
        """Not changed any more by what comes."""
        return self.of_json(self.to_json())

    def source(self, path: str, format: str | None) -> SourceAccount:
        """As the ledger has it."""
        found = SourceAccount(path, format, "train")
        found.arrive(self.rows_in)
        found.fates.update(self.fates)
        found.reasons.update(+self.reasons)
        found.augmented = self.augmented
        return found


def with_streams(
    finite: Ledger, train: Sequence[SourceLedger], streams: Sequence[Account], touched: Sequence[TouchedRow]
) -> Ledger:
    """The ledger of all: `train` has every train source in order, `streams` what to add to the sums."""

    def of_streams(name: str) -> int:
        return sum(getattr(each, name) for each in streams)

    def of_tokens(name: str) -> int:
        return sum(each.all_tokens[name] for each in streams)

    known, words = finite.splits.get("train", SplitLedger()), finite.tokens
    split = SplitLedger(
        known.rows + of_streams("rows"), known.samples + of_streams("samples"),
        known.tokens + of_streams("tokens"), known.targets + of_streams("targets"),
    )  # fmt: skip
    tokens = TokenLedger(
        words.kept + of_tokens("kept"), words.cut + of_tokens("cut"),
        words.targets + of_streams("targets"), words.repeated + of_tokens("repeated"),
    )  # fmt: skip
    held = [source for source in finite.sources if source.use != "train"]
    rows = _Chained((finite.rows, touched))
    return Ledger((*train, *held), tokens, {**finite.splits, "train": split}, rows)


@final
@dataclass(frozen=True, slots=True)
class _Chained:
    """Rows one after another, as often as they are asked for."""

    parts: tuple[Iterable[TouchedRow], ...]

    def __iter__(self) -> Iterator[TouchedRow]:
        return chain.from_iterable(self.parts)
