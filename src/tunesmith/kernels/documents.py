"""Who attends to whom in a packed batch: documents in groups of similar length, made once a batch.

    row       [a a a b b c c c]          segments [0 0 0 1 1 2 2 2]
    groups    length 3: (a, c)  length 2..3: (b _)   padded at the right, so causality hides the padding
Documents that begin alike stand in the row once, as branches of a tree; each branch attends along its path:

    row       [s s s a a b b]            segments [0 0 0 1 1 2 2], parents [-1 0 0]:  s-a and s-b
    keys      [s s s a a], [s s s b b]   queries of the branch's own tokens, each at its place in the path
Where only some tokens ask (the last layer: only what is learnt needs an output), they alone are queries.

Shapes: B batch, T tokens of a row, N documents of a group, K longest path, Q most queries of one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor

from tunesmith.kernels.card import sent

# Documents at least this share of the group's longest are attended together: padding costs less than a call.
SHORTEST_IN_GROUP = 0.8
# Documents of at least so many tokens on the mean are attended where they stand, one after the other: on a processor
# laying them side by side walks eight times through queries, keys and values (a call costs what 30 tokens of it do).
APART_FROM = 32
# Where more than this share of a path asks, all of it does (the rest in vain): a square needs no mask, and half
# of it is skipped.
SQUARE_FROM = 0.5
# Where more than this share of all tokens is learnt, the last layer computes all of them.
PRUNE_BELOW = 0.9


@dataclass(frozen=True, slots=True)
class Group:
    """Documents attended in one call, by slots. `at` is None where each token of a path asks: a square."""

    documents: int
    length: int
    asked: int
    at: Tensor | None  # Int64[Tensor, "N Q"]: a query's place among its document's keys


@dataclass(frozen=True, slots=True)
class Documents:
    """How the tokens of a batch fall into documents; used by every layer.

    `queries` and `keys` tell, group after group, which token stands in each slot; `query_place` and `key_place`
    in which slot each token stands. A key of several branches has no place (None for all).
    """

    groups: tuple[Group, ...]
    queries: Tensor  # Int64[Tensor, "slots"]
    query_real: Tensor | None  # Bool[Tensor, "slots"]; None where no slot is padding
    query_place: Tensor  # Int64[Tensor, "asking"]
    asking_real: Tensor | None  # Bool[Tensor, "asking"]; None where none of those who ask is padding
    keys: Tensor  # Int64[Tensor, "slots"]
    key_place: Tensor | None  # Int64[Tensor, "B*T"]
    key_real: Tensor | None  # Bool[Tensor, "B*T"]; None where each token is some document's key
    width: int  # keys of a row, T
    in_place: bool = False  # slots are the tokens of the row, as they stand: nothing is gathered
    # Int32[Tensor, "runs+1"]: where each run of the flat batch begins, and the end
    cumulative: Tensor | None = None
    longest: int = 0  # tokens of the longest run

    @property
    def real(self) -> Tensor | None:
        """Which tokens are no padding; None where none is."""
        return self.asking_real

    def to(self, device: torch.device) -> Documents:
        """The same on another device."""
        groups = tuple(replace(g, at=_to(g.at, device)) for g in self.groups)
        names = ("queries", "query_real", "query_place", "asking_real", "keys", "key_place", "key_real",
                 "cumulative")  # fmt: skip
        moved: dict[str, Any] = {name: _to(getattr(self, name), device) for name in names}
        return replace(self, groups=groups, **moved)


@dataclass(frozen=True, slots=True)
class LastLayer:
    """The last layer's tokens, those that ask before those that only answer: x[order] = [asking; resting]."""

    order: Tensor  # Int64[Tensor, "tokens"], flat places of real tokens
    back: Tensor  # Int64[Tensor, "B*T"]: where in `order` each token stands
    back_real: Tensor | None  # Bool[Tensor, "B*T"]; None where no token is padding
    asking: int
    documents: Documents

    def to(self, device: torch.device) -> LastLayer:
        """The same on another device."""
        names = ("order", "back", "back_real")
        moved: dict[str, Any] = {name: _to(getattr(self, name), device) for name in names}
        return replace(self, documents=self.documents.to(device), **moved)


def _to(x: Tensor | None, device: torch.device) -> Tensor | None:
    return None if x is None else sent(x, device)


def group_documents(
    segments: Tensor,
    parents: Tensor | None = None,
    shortest: float = SHORTEST_IN_GROUP,
    calls_are_cheap: bool = False,
) -> Documents:
    """Find the documents of a batch. segments: Int64[Tensor, "B T"] on the CPU, -1 is padding.

    A document is a run of equal segment numbers within a row. Those of at least the share `shortest` of a
    group's longest stand together; at 1 only equals do, and nothing is padded. `calls_are_cheap`: each by itself
    where it stands, unless they are very short. `parents` (of a single row): the run that each run goes on from,
    before it in the row, or -1.
    """
    flat = segments.numpy()
    starts, lengths = _runs(flat)
    every = np.arange(flat.size)
    rows = _rows(starts, lengths, parents, every)
    real = flat.reshape(-1) >= 0
    apart = bool(calls_are_cheap and parents is None and real.all() and lengths.mean() >= APART_FROM)
    groups: Iterable[tuple[bool, list[_Row]]] = (
        [(True, [row]) for row in rows] if apart else _similar(rows, shortest)
    )
    found = _documents(groups, flat.size, real, parents is not None, flat.shape[1])
    if parents is not None:
        return found
    found = replace(found, in_place=apart)
    ends = np.append(_beginnings(flat), flat.size).astype(np.int32)  # padding, too, is a run
    return replace(found, cumulative=torch.from_numpy(ends), longest=int(np.diff(ends).max(initial=0)))


def documents_on(device: torch.device, segments: Tensor, parents: Tensor | None = None) -> Documents:
    """The documents of a batch laid out as suits the device, and there."""
    found = group_documents(segments, parents, calls_are_cheap=device.type == "cpu")
    return found if device.type == "cpu" else found.to(device)


def ask_only(segments: Tensor, places: Tensor, parents: Tensor | None = None) -> LastLayer | None:
    """The last layer, where only the tokens at `places` (flat, rising, each once) need an output.

    None where so many are learnt that nothing would be saved.
    """
    flat = segments.numpy()
    real = flat.reshape(-1) >= 0
    asking = places.numpy()
    if not 0 < len(asking) <= PRUNE_BELOW * real.sum():
        return None
    rests = real.copy()
    rests[asking] = False
    order = np.concatenate([asking, np.flatnonzero(rests)])
    back = np.zeros(flat.size, np.int64)
    back[order] = np.arange(len(order))
    rows = _rows(*_runs(flat), parents, back, asking)
    documents = _documents(
        _similar(rows, SHORTEST_IN_GROUP),
        len(order),
        np.ones(len(asking), bool),
        parents is not None,
        len(order),
    )
    return LastLayer(
        torch.from_numpy(order), torch.from_numpy(back), _none_if_all(real), len(asking), documents
    )


def _runs(flat: ndarray) -> tuple[ndarray, ndarray]:
    """Flat start and length of each document of segments[B, T]."""
    starts = _beginnings(flat)
    lengths = np.diff(np.append(starts, flat.size))
    kept = flat.reshape(-1)[starts] >= 0
    return starts[kept], lengths[kept]


def _beginnings(flat: ndarray) -> ndarray:
    """Where a run of equal numbers begins in segments[B, T], padding included."""
    new = np.ones(flat.shape, bool)
    new[:, 1:] = flat[:, 1:] != flat[:, :-1]
    starts: ndarray = np.flatnonzero(new.reshape(-1))
    return starts


@dataclass(frozen=True, slots=True)
class _Row:
    """One document: its keys in order, who asks, and at which of the keys."""

    keys: ndarray
    queries: ndarray
    at: ndarray

    @property
    def square(self) -> bool:
        return len(self.queries) > SQUARE_FROM * len(self.keys)


def _rows(
    starts: ndarray, lengths: ndarray, parents: Tensor | None, key_of: ndarray, asking: ndarray | None = None
) -> list[_Row]:
    """Each document with somebody who asks. `key_of`: number of each token as a key."""
    above = [-1] * len(starts) if parents is None else parents.tolist()
    paths: list[ndarray] = []
    rows = []
    for start, length, parent in zip(starts.tolist(), lengths.tolist(), above):
        own = key_of[start : start + length]
        before = paths[parent] if parent >= 0 else own[:0]
        path = np.concatenate([before, own]) if len(before) else own
        paths.append(path)
        if asking is None:
            rows.append(_Row(path, np.arange(start, start + length), len(before) + np.arange(length)))
            continue
        first, last = np.searchsorted(asking, (start, start + length)).tolist()
        if last > first:
            rows.append(_Row(path, np.arange(first, last), len(before) + asking[first:last] - start))
    return rows


def _documents(
    grouped: Iterable[tuple[bool, list[_Row]]], tokens: int, asking_real: ndarray, shared: bool, width: int
) -> Documents:
    """Lay groups of rows, square or not, into slots."""
    groups, queries, reals, keys = [], [], [], []
    query_place = np.zeros(len(asking_real), np.int64)
    key_place, key_real = np.zeros(tokens, np.int64), np.zeros(tokens, bool)
    query_slots = key_slots = 0
    for square, members in grouped:
        longest = len(members[0].keys)
        most = longest if square else max(len(row.queries) for row in members)
        shape = (len(members), most)
        key, query = np.zeros((len(members), longest), np.int64), np.zeros(shape, np.int64)
        real, at = np.zeros(shape, bool), np.zeros(shape, np.int64)
        for number, row in enumerate(members):
            key[number] = row.keys[0]
            key[number, : len(row.keys)] = row.keys
            slots = row.at if square else np.arange(len(row.queries))
            query[number], query[number, slots] = row.queries[0], row.queries
            real[number, slots], at[number, slots] = True, row.at
            query_place[row.queries] = query_slots + number * most + slots
            key_place[row.keys] = key_slots + number * longest + np.arange(len(row.keys))
            key_real[row.keys] = True
        groups.append(Group(len(members), longest, most, None if square else torch.from_numpy(at)))
        queries.append(query.reshape(-1))
        reals.append(real.reshape(-1))
        keys.append(key.reshape(-1))
        query_slots, key_slots = query_slots + query.size, key_slots + key.size
    none = [np.zeros(0, np.int64)]
    asks, answers = (torch.from_numpy(np.concatenate(one or none)) for one in (queries, keys))
    asking, answering = torch.from_numpy(query_place), torch.from_numpy(key_place)
    if torch.equal(asks, answers) and torch.equal(asking, answering):  # kept once for the backward pass
        answers, answering = asks, asking
    return Documents(
        tuple(groups),
        asks,
        _none_if_all(np.concatenate(reals or [none[0].astype(bool)])),
        asking,
        _none_if_all(asking_real),
        answers,
        None if shared else answering,
        None if shared else _none_if_all(key_real),
        width,
    )


def _none_if_all(real: ndarray) -> Tensor | None:
    return None if real.all() else torch.from_numpy(real)


def _similar(rows: Sequence[_Row], shortest: float) -> Iterator[tuple[bool, list[_Row]]]:
    """Cut rows, longest first, into groups of similar length; where a mask is needed, of similar queries too."""
    for square in (True, False):
        some = [row for row in rows if row.square == square]
        some.sort(key=lambda row: -len(row.keys))
        members: list[_Row] = []
        for row in some:
            first = members[0] if members else row
            alike = len(row.keys) >= shortest * len(first.keys)
            ratio = len(row.queries) / len(first.queries)
            if members and not (alike and (square or 0.5 <= ratio <= 2)):
                yield square, members
                members = []
            members.append(row)
        if members:
            yield square, members
