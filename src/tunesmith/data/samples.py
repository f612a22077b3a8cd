"""Samples ready to learn from: what a row becomes, and many of them behind one index.

ids    [p p p a a s n]     p prompt, a answer, s stop token, n newline after it
learnt [0 0 0 1 1 1 0]     speaks of the token itself (Rendering)
inputs [p p p a a]         what the model reads (Sample): nothing after the last target's input
labels [- - a a s]         labels[t] is the target AFTER inputs[t]; -100 where nothing is learnt
weights [0 0 2 2 2]        how much each target counts; kept only where a sample has another weight than 1
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Protocol, final

import numpy as np
from numpy import ndarray

IGNORED = -100


@dataclass(frozen=True, slots=True)
class Cut:
    """Tokens of a turn that over-length handling took away; turn counts from 0 in the original row."""

    turn: int
    ids: tuple[int, ...]
    behind: bool = False
    """It stood behind all that is kept; else before."""


@dataclass(frozen=True, slots=True)
class Rendering:
    """A row as exact tokens. `learnt[i]` speaks of token i itself."""

    ids: ndarray  # Int32[ndarray, "T"]
    learnt: ndarray  # Bool[ndarray, "T"]
    address: str
    cut: tuple[Cut, ...] = ()
    # Float32[ndarray, "T"], 0 where not learnt; None: each learnt token weighs 1
    weights: ndarray | None = None

    def until(self, end: int) -> Rendering:
        """The tokens before `end`."""
        weights = None if self.weights is None else self.weights[:end]
        return replace(self, ids=self.ids[:end], learnt=self.learnt[:end], weights=weights)


@dataclass(frozen=True, slots=True)
class Sample:
    """What the model reads and learns: `labels[t]` is the target after `input_ids[t]`, -100 where none."""

    input_ids: ndarray  # Int32[ndarray, "T"]
    labels: ndarray  # Int32[ndarray, "T"]
    address: str
    weights: ndarray | None = None  # Float32[ndarray, "T"] of the labels; None: each target weighs 1
    states: ndarray | None = None  # [T, d], what the frozen layers make of it (states.py), where that is kept


def to_sample(rendering: Rendering) -> Sample:
    """Shift by one and drop what stands after the last target: computing it would teach nothing."""
    assert not rendering.learnt[0], "the first token has nothing before it to be predicted from"
    end = int(np.flatnonzero(rendering.learnt)[-1])
    labels = np.where(rendering.learnt[1 : end + 1], rendering.ids[1 : end + 1], IGNORED)
    weights = None if rendering.weights is None else rendering.weights[1 : end + 1]
    return Sample(rendering.ids[:end].astype(np.int32), labels.astype(np.int32), rendering.address, weights)


def weights_of(sample: Sample) -> ndarray:
    """The weight of each label, spelt out: Float32[ndarray, "T"], 0 where nothing is learnt."""
    return (sample.labels != IGNORED).astype(np.float32) if sample.weights is None else sample.weights


class Store(Protocol):
    """Where samples lie: a shard on disk, or a list in memory."""

    def sample(self, number: int) -> Sample:
        """One sample, counted from 0 in this store."""

    def address(self, number: int) -> str:
        """Where it came from, without reading it."""

    def ids(self, learnt: bool) -> ndarray:
        """The distinct ids that stand in the store, or that are learnt there."""


@final
class Listed:
    """A few samples in memory."""

    def __init__(self, samples: Sequence[Sample]) -> None:
        self._samples = samples

    def sample(self, number: int) -> Sample:
        """One of them."""
        return self._samples[number]

    def address(self, number: int) -> str:
        """Where it came from."""
        return self._samples[number].address

    def ids(self, learnt: bool) -> ndarray:
        """Distinct ids."""
        columns = [s.labels[s.labels != IGNORED] if learnt else s.input_ids for s in self._samples]
        return np.unique(np.concatenate([np.zeros(0, np.int32), *columns]))


@final
class SampleSet(Sequence[Sample]):
    """Many samples in a fixed order, block by block; a block is (part of) a store, read when it is asked for.

    Only the index is held: `places[i]` is the number of sample i in its store. All its arrays may be memory-mapped.
    """

    def __init__(
        self,
        stores: Sequence[Store],
        sizes: Sequence[int] | ndarray,
        places: ndarray,  # UInt32[ndarray, "N"]
        lengths: ndarray,  # UInt[ndarray, "N"]
        targets: ndarray,  # UInt[ndarray, "N"]
        weight_sums: ndarray | None = None,  # Float64[ndarray, "N"]; None: each target weighs 1
        joined: ndarray
        | None = None,  # Bool[ndarray, "N"], of one dialogue with the sample before; None: none is
    ) -> None:
        self.stores = tuple(stores)
        self.block_sizes = np.asarray(sizes, np.int64)
        self._ends = np.cumsum(self.block_sizes)
        self._places, self._lengths, self._targets, self._weight_sums = places, lengths, targets, weight_sums
        self.joined = joined
        assert len(self.stores) == len(self.block_sizes)
        assert len(places) == len(lengths) == len(targets) == int(self.block_sizes.sum())

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]
        return self._store(index).sample(int(self._places[index]))

    def _store(self, index: int) -> Store:
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.stores[int(np.searchsorted(self._ends, index, side="right"))]

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> ndarray:
        """Int64[ndarray, "N"], real tokens of each sample. A copy: for millions ask `lengths_at`."""
        return self._lengths.astype(np.int64)

    @property
    def targets(self) -> ndarray:
        """Int64[ndarray, "N"], learnt tokens of each sample. A copy."""
        return self._targets.astype(np.int64)

    @property
    def weight_sums(self) -> ndarray:
        """Float64[ndarray, "N"], what the learnt tokens weigh together: their number, where each weighs 1."""
        return self.weight_sums_at(slice(None))

    def lengths_at(self, rows: ndarray | slice) -> ndarray:
        """Int64[ndarray, "n"], real tokens of some samples."""
        return self._lengths[rows].astype(np.int64)

    def targets_at(self, rows: ndarray | slice) -> ndarray:
        """Int64[ndarray, "n"], learnt tokens of some samples."""
        return self._targets[rows].astype(np.int64)

    def weight_sums_at(self, rows: ndarray | slice) -> ndarray:
        """Float64[ndarray, "n"] of some samples."""
        found = self._targets if self._weight_sums is None else self._weight_sums
        return found[rows].astype(np.float64)

    @property
    def is_weighted(self) -> bool:
        """Whether any sample weighs its targets otherwise than 1."""
        return self._weight_sums is not None

    @property
    def addresses(self) -> Sequence[str]:
        """Where each sample came from, made when asked for; equal to a list or tuple of the same."""
        return Addresses(self)

    def address(self, index: int) -> str:
        """Where one sample came from."""
        return self._store(index).address(int(self._places[index]))

    @cached_property
    def token_count(self) -> int:
        """Real tokens of all samples."""
        return int(self._lengths.sum(dtype=np.int64))

    @cached_property
    def target_count(self) -> int:
        """Learnt tokens of all samples."""
        return int(self._targets.sum(dtype=np.int64))

    @cached_property
    def length_counts(self) -> ndarray:
        """Int64[ndarray, "longest+1"], how many samples have each length."""
        counts = np.zeros(1, np.int64)
        for start in range(0, len(self), _CHUNK):
            found = np.bincount(self._lengths[start : start + _CHUNK], minlength=len(counts))
            found[: len(counts)] += counts
            counts = found
        return counts

    @property
    def longest(self) -> int:
        """Real tokens of the longest sample; 0 where there is none."""
        return len(self.length_counts) - 1

    def ids(self, learnt: bool = False) -> ndarray:
        """Int[ndarray, "distinct"], ids that stand in the stores of these samples, or are learnt there."""
        return np.unique(np.concatenate([np.zeros(0, np.int32), *(s.ids(learnt) for s in self.stores)]))

    # For a handful of samples: whole columns, end to end.

    @property
    def tokens(self) -> ndarray:
        """Int32[ndarray, "tokens"], the input ids of all samples. Reads every one."""
        return np.concatenate([np.zeros(0, np.int32), *(sample.input_ids for sample in self)])

    @property
    def labels(self) -> ndarray:
        """Int32[ndarray, "tokens"], likewise."""
        return np.concatenate([np.zeros(0, np.int32), *(sample.labels for sample in self)])

    @property
    def weights(self) -> ndarray | None:
        """Float32[ndarray, "tokens"], likewise; None where every target weighs 1."""
        if not self.is_weighted:
            return None
        return np.concatenate([np.zeros(0, np.float32), *(weights_of(sample) for sample in self)])


_CHUNK = 1 << 16


@final
class Addresses(Sequence[str]):
    """The addresses of a set, made when they are asked for: three million of them are 300 MB of text."""

    def __init__(self, samples: SampleSet) -> None:
        self._samples = samples

    def __len__(self) -> int:
        return len(self._samples)

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        if index < 0:
            index += len(self)
        return self._samples.address(index)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(map(str.__eq__, self, other))

    def __hash__(self) -> int:
        return hash(tuple(self))


def collect(samples: Iterable[Sample]) -> SampleSet:
    """A set of samples that are at hand, as one block."""
    held = list(samples)
    weighted = any(sample.weights is not None for sample in held)
    return SampleSet(
        [Listed(held)] if held else [],
        [len(held)] if held else [],
        np.arange(len(held), dtype=np.uint32),
        np.array([len(sample.input_ids) for sample in held], np.uint32),
        np.array([int((sample.labels != IGNORED).sum()) for sample in held], np.uint32),
        np.array([weights_of(s).sum(dtype=np.float64) for s in held], np.float64) if weighted else None,
    )


def join(sets: Sequence[SampleSet]) -> SampleSet | None:
    """Several sets as one, in order; None when there is none."""
    if len(sets) <= 1:
        return next(iter(sets), None)
    weighted = any(each.is_weighted for each in sets)
    return SampleSet(
        [store for each in sets for store in each.stores],
        np.concatenate([each.block_sizes for each in sets]),
        np.concatenate([each._places for each in sets]),
        np.concatenate([each._lengths for each in sets]),
        np.concatenate([each._targets for each in sets]),
        np.concatenate([each.weight_sums for each in sets]) if weighted else None,
    )
