"""Who trains, who validates, who tests: decided by a row's content, so equal rows never part.

chats   rows in an order drawn from seed and content, the first n held out; a dialogue and the
        rows that continue it (note 001, point 16) count as equal
text    [ train ............ | validation | test ]   blocks at the end: neighbours tell of each other
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tunesmith.data.marks import AUGMENTED
from tunesmith.data.records import Chat, Message, Record, Text, as_chats, identity_of
from tunesmith.errors import DataError

Split = Literal["train", "validation", "test"]
Key = bytes


def row_keys(record: Record) -> tuple[Key, ...]:
    """A digest for each beginning of the row that ends with an answer; the last is the whole row's."""
    if isinstance(record, Text):
        return (_digest(record.text.encode("utf-8", "surrogatepass")),)
    if not isinstance(record, Chat):
        chats = as_chats(record)
        name = f"{type(record).__name__} {getattr(record, 'desirable', '')}"
        return (_digest(b"".join([name.encode(), *(_spell_all(chat, chat.messages) for chat in chats)])),)
    running = hashlib.blake2b(b"chat", digest_size=16)
    running.update(_spell_all(record, ()))
    keys = []
    for message in record.messages:
        running.update(_spell(message))
        if message.role == "assistant":
            keys.append(running.digest())
    return tuple(keys)


def split_keys(record: Record) -> tuple[Key, ...]:
    """Like `row_keys`, but those of an augmented row are (AUGMENTED, its original's): they never part.

    A row with tags has the keys it has without them.
    """
    return identity_of(record) or row_keys(record)


def is_augmented(keys: Sequence[Key]) -> bool:
    """Whether these are the keys of an augmented row: the last of them is its original's."""
    return keys[0] == AUGMENTED


def prompt_key(chat: Chat) -> Key:
    """A digest of all that stands before the last answer."""
    return _digest(_spell_all(chat, chat.messages[:-1]))


def _spell_all(chat: Chat, messages: Sequence[Message]) -> bytes:
    tools = _json(list(chat.tools)) if chat.tools else b""
    return b"".join([tools, *map(_spell, messages)])


def _json(value: object) -> bytes:
    return json.dumps(value, sort_keys=True).encode()


def _spell(message: Message) -> bytes:
    """Sizes before texts: no two different messages, nor rows of them, are spelt alike."""
    thought = "" if message.reasoning is None else f"{len(message.reasoning)} {message.reasoning}"
    text = f"{message.role} {len(message.content)} {len(thought)} {message.content}{thought}"
    calls = _json([(call.name, dict(call.arguments)) for call in message.calls]) if message.calls else b""
    return text.encode("utf-8", "surrogatepass") + calls


def _digest(data: bytes) -> Key:
    return hashlib.blake2b(data, digest_size=16).digest()


class HeldOut:
    """The rows of held-out files: what equals one, begins one or continues one must not be learnt."""

    def __init__(self) -> None:
        self._whole: dict[Key, Split] = {}
        self._beginnings: dict[Key, Split] = {}

    def add(self, split: Split, keys: Sequence[Key]) -> None:
        """One more row of a held-out file, by its `row_keys`."""
        self._whole.setdefault(keys[-1], split)
        for key in keys:
            self._beginnings.setdefault(key, split)

    def find(self, split: Split, keys: Sequence[Key]) -> Split | None:
        """The held-out split, other than its own, that a row of `split` would give away."""
        found = [self._beginnings.get(keys[-1]), *(self._whole.get(key) for key in keys)]
        return next((other for other in found if other not in (None, split)), None)


@dataclass(frozen=True, slots=True)
class Rows:
    """The rows of one source that may be split, in file order."""

    keys: Sequence[tuple[Key, ...]]
    is_text: bool


def assign(
    sources: Sequence[Rows], validation: int | float | None, test: int | float | None, seed: int
) -> list[list[Split]]:
    """The side of each row of each source. A float is a share of all rows, an integer a number of rows.

    Raises DataError when so much is asked that nothing is left to train on.
    """
    whole = {keys[-1] for rows in sources for keys in rows.keys}
    roots = [[next(k for k in keys if k in whole) for keys in rows.keys] for rows in sources]
    total = sum(map(len, roots))
    distinct = len({root for source in roots for root in source})
    asked = {"validation": _rows(validation, total), "test": _rows(test, total)}
    _require_rows(asked, total, distinct, any(rows.is_text for rows in sources))
    sides: dict[Key, Split] = {}
    is_text = [rows.is_text for rows in sources]
    # test first: with a fixed seed it stays the same whatever validation asks
    _hold_out("test", asked["test"], roots, is_text, sides, seed, keep=2 if asked["validation"] else 1)
    _hold_out("validation", asked["validation"], roots, is_text, sides, seed, keep=1)
    return [[sides.get(root, "train") for root in source] for source in roots]


def place(
    keys: Sequence[Sequence[tuple[Key, ...]]],
    are_texts: Sequence[bool],
    validation: int | float | None,
    test: int | float | None,
    seed: int,
) -> list[list[Split]]:
    """Like `assign`, for sources that hold augmented rows too: each is where its original is, or else trains.

    They are not counted among the rows that a share or a number is taken from.
    """
    real = [[k for k in source if not is_augmented(k)] for source in keys]
    sides = assign([Rows(*pair) for pair in zip(real, are_texts)], validation, test, seed)
    known = {k[-1]: side for source, there in zip(real, sides) for k, side in zip(source, there)}
    found = []
    for source, there in zip(keys, sides):
        own = iter(there)
        found.append([known.get(k[-1], "train") if is_augmented(k) else next(own) for k in source])
    return found


def _rows(part: int | float | None, total: int) -> int:
    """A share as a number of rows, at least one."""
    if part is None:
        return 0
    return part if isinstance(part, int) else max(1, round(part * total))


def _require_rows(asked: Mapping[str, int], total: int, distinct: int, is_text: bool) -> None:
    parts = [name for name, n in asked.items() if n]
    if not parts:
        return
    fix = "ask for less, add rows, or set it to null"
    if is_text:
        fix += "; a .txt is cut at blank lines, split: line cuts it at every line"
    where = " and ".join(f"data.{name}" for name in parts)
    if sum(asked.values()) >= total:
        wanted = " and ".join(f"{asked[name]} for {name}" for name in parts)
        raise DataError.at(where, f"{wanted} of {total} rows leaves nothing to train on", fix)
    if distinct <= len(parts):
        what = f"{total} rows, but only {distinct} different: equal rows fall on the same side"
        raise DataError.at(where, what, fix)


def _hold_out(
    split: Split,
    count: int,
    roots: Sequence[Sequence[Key]],
    is_text: Sequence[bool],
    sides: dict[Key, Split],
    seed: int,
    keep: int,
) -> None:
    """Send about `count` rows to `split`, from each source by its size; `keep` different rows must stay."""
    if not count:
        return
    free = [[root for root in source if root not in sides] for source in roots]
    sizes = Counter(root for source in free for root in source)
    spare = len(sizes) - keep
    for source, text, share in zip(free, is_text, _shares(count, [len(source) for source in free])):
        wanted = share - sum(sides.get(root) == split for root in source)
        here = Counter(source)
        for root in _from_the_end(source) if text else sorted(here, key=lambda root: _rank(root, seed)):
            if wanted <= 0 or not spare:
                break
            # a group of equal chats larger than what is asked is passed over; a block has no holes
            if root not in sides and (text or here[root] <= wanted):
                sides[root] = split
                wanted -= here[root]
                spare -= 1
    if spare == len(sizes) - keep:  # every group is larger than what is asked: the smallest must do
        sides[min(sizes, key=lambda root: (sizes[root], _rank(root, seed)))] = split


def _shares(count: int, sizes: Sequence[int]) -> list[int]:
    """`count` dealt out in proportion to sizes, largest remainders first; sums to count."""
    total = sum(sizes)
    exact = [count * size / total for size in sizes] if total else [0.0 for _ in sizes]
    dealt = [int(value) for value in exact]
    by_remainder = sorted(range(len(sizes)), key=lambda i: (dealt[i] - exact[i], i))
    for i in by_remainder[: count - sum(dealt)]:
        dealt[i] += 1
    return dealt


def _rank(root: Key, seed: int) -> bytes:
    return hashlib.blake2b(root, key=seed.to_bytes(8, "little"), digest_size=16).digest()


def _from_the_end(source: Sequence[Key]) -> list[Key]:
    """Rows from the last backwards, each where it stands first: what occurs earlier too stays in training."""
    first = {root: i for i, root in reversed(list(enumerate(source)))}
    return sorted(first, key=lambda root: -first[root])
