"""Text to ids with exact borders: where an answer begins, the ids split as inference sees them.

"...assistant\\n|Hello<|im_end|>\\n"  ->  ids, and the index of the first token after the border |
"""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np
from numpy import ndarray

if TYPE_CHECKING:
    from tokenizers import AddedToken, Encoding, Tokenizer

# What text is put before a piece, so that a tokenizer which writes a space before its first word does not.
_ANCHORS = ("\n", "a", "。", "0")
_CACHED_LEFTS = 4096
# An added token without any of these is a word or white space (an extended vocabulary): ordinary text.
_MARKUP = re.compile(r"[<>\[\]{}|｜]")


@final
class Tokens:
    """Ids, and the characters [start, end) of the text that each stands for, worked out when asked for."""

    __slots__ = ("_encoding", "_ends", "_starts", "controls", "ids")

    def __init__(
        self,
        ids: ndarray,
        controls: list[int],
        encoding: Encoding | None = None,
        places: tuple[ndarray, ndarray] | None = None,
    ) -> None:
        """`controls` are the indices of control tokens; give an encoding or the places themselves."""
        self.ids, self.controls = ids, controls
        self._encoding = encoding
        self._starts: ndarray | None = places[0] if places else None
        self._ends: ndarray | None = places[1] if places else None

    def __len__(self) -> int:
        return len(self.ids)

    def span(self, index: int) -> tuple[int, int]:
        """Characters [start, end) of one token; cheap, where `starts` and `ends` are not."""
        if self._encoding is not None:
            start, end = self._encoding.token_to_chars(index) or (0, 0)
            return start, end
        return int(self.starts[index]), int(self.ends[index])

    @property
    def starts(self) -> ndarray:
        """Int64[ndarray, "T"], first character of each token."""
        return self._places()[0]

    @property
    def ends(self) -> ndarray:
        """Int64[ndarray, "T"], one past the last character of each token; never falls."""
        return self._places()[1]

    def _places(self) -> tuple[ndarray, ndarray]:
        if self._starts is None or self._ends is None:
            assert self._encoding is not None
            offsets = np.array(self._encoding.offsets, np.int64).reshape(-1, 2)
            self._starts, self._ends = offsets[:, 0], np.maximum.accumulate(offsets[:, 1])
        return self._starts, self._ends

    def first_starting_at(self, place: int) -> int:
        """Index of the first token at or after character `place`; len(self) if none is."""
        return int(np.searchsorted(self.starts, place, side="left"))

    def last_control_before(self, place: int) -> int:
        """Index of the last control token that begins before character `place`; -1 if none does."""
        number = bisect_left(self.controls, place, key=lambda index: self.span(index)[0])
        return self.controls[number - 1] if number else -1

    def control_reaching(self, place: int) -> int:
        """Index of the first control token that ends at or after `place`; len(self) if none does."""
        number = bisect_left(self.controls, place, key=lambda index: self.span(index)[1])
        return self.controls[number] if number < len(self.controls) else len(self)


@dataclass(frozen=True, slots=True)
class ControlTokens:
    """The added tokens that steer a model: they may come from the template, never from a user."""

    by_text: Mapping[str, int]
    special: frozenset[int]
    unknown: int | None
    """The model's own unknown token: ordinary text may turn into it."""

    @classmethod
    def of(cls, added: Mapping[int, AddedToken], unknown: int | None) -> ControlTokens:
        """Special ones, and those that look like markup; an added word is a word."""
        control = {id: token for id, token in added.items() if token.special or _MARKUP.search(token.content)}
        return cls(
            {token.content: id for id, token in control.items() if token.content},
            frozenset(id for id, token in control.items() if token.special),
            unknown,
        )

    def pattern(self, special_only: bool = False) -> re.Pattern[str]:
        """Matches their texts, the longest first."""
        texts = [text for text, id in self.by_text.items() if not special_only or id in self.special]
        longest_first = sorted(texts, key=len, reverse=True)
        return re.compile("|".join(map(re.escape, longest_first)) or "(?!)")

    def table(self, size: int) -> ndarray:
        """Bool[ndarray, "V"]: is this id one of them? The unknown token is not: text may turn into it."""
        size = max(size, *(id + 1 for id in self.by_text.values()), 1)
        table = np.zeros(size, bool)
        table[[id for id in self.by_text.values() if id != self.unknown]] = True
        return table


class Coder:
    """Encodes whole texts with one tokenizer and finds, or makes, borders between tokens."""

    def __init__(self, backend: Tokenizer, is_control: ndarray, ids: Mapping[int, int] | None = None) -> None:
        """`ids` renames ids of `backend`, where it is a changed copy of the model's tokenizer."""
        self._backend = backend
        self._is_control = is_control
        self._renamed = _renaming(ids, len(is_control)) if ids else None
        self._lefts: dict[tuple[str, str], list[int]] = {}
        self._prefixes = self._writes_a_prefix()

    def encode(self, text: str) -> Tokens:
        """The whole text, no token added to it."""
        self.settle()
        encoding = self._backend.encode(text, add_special_tokens=False)
        ids = np.array(encoding.ids, np.int32)
        if self._renamed is not None:
            ids = self._renamed[ids]
        return Tokens(ids, self._controls(ids), encoding)

    def _controls(self, ids: ndarray) -> list[int]:
        found: list[int] = np.flatnonzero(self._is_control[ids]).tolist()
        return found

    def settle(self) -> None:
        """Switch off what others who pad or cut leave switched on in the shared backend."""
        backend = self._backend
        if backend.padding is not None:
            backend.no_padding()
        if backend.truncation is not None:
            backend.no_truncation()
        if backend.encode_special_tokens:
            backend.encode_special_tokens = False

    @property
    def has_free_stretches(self) -> bool:
        """Whether what stands between two control tokens is encoded without a look at what is around it.

        So it is with byte-level BPE whose added tokens take no white space with them. A border inside a stretch is
        free too: where no merge crosses it, the merges on each side are those of each side alone.
        """
        backend, model = self._backend, self._backend.model
        return (
            type(model).__name__ == "BPE"
            and not (model.continuing_subword_prefix or model.end_of_word_suffix or model.dropout)
            and not self._prefixes
            and _kinds(backend.pre_tokenizer) <= _FREE
            and _maps_letters(backend.normalizer)
            and all(_stands_alone(token, backend) for token in backend.get_added_tokens_decoder().values())
        )

    def encode_all(self, texts: Sequence[str], with_special: bool = False) -> list[list[int]]:
        """Ids of many texts at once, without their places."""
        self.settle()
        assert self._renamed is None
        return [each.ids for each in self._backend.encode_batch_fast(texts, add_special_tokens=with_special)]

    def border(
        self, text: str, tokens: Tokens, place: int, before: tuple[int, int] = (0, 0)
    ) -> tuple[Tokens, int]:
        """Index of the first token after character `place`; what stands before is as if it stood alone.

        Where a token reaches over the place, or the left side alone encodes otherwise, the stretch between
        the control tokens around it is encoded in two pieces, as inference does: prompt, then answer.
        `before` is the border made before this one, as (character, index): it stays.
        """
        last = tokens.last_control_before(place)
        head_start, edge = tokens.span(last) if last >= 0 else (0, 0)
        if last >= 0 and edge >= place:
            return tokens, last + 1
        if before[0] > edge:
            last, edge = before[1] - 1, before[0]
            left: list[int] = self.continuation(text[edge:place]).ids.tolist()
        else:
            left = self._left(text[head_start:edge], text[edge:place])
        index = last + 1 + len(left)
        same = index <= len(tokens) and tokens.ids[last + 1 : index].tolist() == left
        meets_left = index == 0 or (same and tokens.span(index - 1)[1] <= place)
        meets_right = index >= len(tokens) or tokens.span(index)[0] >= place
        if same and meets_left and meets_right:
            return tokens, index
        following = next((index for index in tokens.controls if tokens.span(index)[0] >= place), len(tokens))
        return self._apart(text, tokens, (last + 1, following), (edge, place), left), index

    def _apart(
        self, text: str, tokens: Tokens, stretch: tuple[int, int], places: tuple[int, int], left: list[int]
    ) -> Tokens:
        """Put separately encoded pieces where one stretch was encoded in one go."""
        first, following = stretch
        edge, place = places
        end = tokens.span(following)[0] if following < len(tokens) else len(text)
        right = self.continuation(text[place:end])

        def joined(mine: ndarray, lefts: list[int], rights: ndarray) -> ndarray:
            return np.concatenate(
                [mine[:first], np.array(lefts, mine.dtype), rights.astype(mine.dtype), mine[following:]]
            )

        ids = joined(tokens.ids, left, right.ids)
        starts = joined(tokens.starts, [edge] * len(left), right.starts + place)
        ends = joined(tokens.ends, [place] * len(left), right.ends + place)
        return Tokens(ids, self._controls(ids), places=(starts, ends))

    def _left(self, head: str, stretch: str) -> list[int]:
        """Ids of `stretch` where it follows the control token `head` and nothing follows it."""
        if not stretch:
            return []
        key = (head, stretch)
        known = self._lefts.get(key)
        if known is None:
            ids: list[int] = self.encode(head + stretch).ids.tolist()
            known = ids[1:] if head else ids
            if len(self._lefts) < _CACHED_LEFTS and len(stretch) < 200:
                self._lefts[key] = known
        return known

    def continuation(self, stretch: str) -> Tokens:
        """Tokens of `stretch` inside a text: without the space some tokenizers begin a text with."""
        if not self._prefixes or not stretch:
            return self.encode(stretch)
        for anchor in _ANCHORS:
            alone, together = self.encode(anchor), self.encode(anchor + stretch)
            cut = len(alone)
            if together.ids[:cut].tolist() == alone.ids.tolist() and together.ends[cut - 1] <= len(anchor):
                shift = len(anchor)
                places = (together.starts[cut:] - shift, together.ends[cut:] - shift)
                return Tokens(together.ids[cut:], [], places=places)
        return self.encode(stretch)

    def _writes_a_prefix(self) -> bool:
        """Whether a text begins with something that was not in it (SentencePiece's first space)."""
        alone, after = self.encode("a"), self.encode("\na")
        line = len(self.encode("\n"))
        return bool(after.ids[line:].tolist() != alone.ids.tolist())


# Parts that cut a text into words by what is in it alone.
_FREE = {"ByteLevel", "Split", "Sequence", "Digits", "Punctuation"}


def _kinds(part: Any) -> set[str]:
    """The types of a tokenizer's component and of those inside it."""
    return set(re.findall(r'"type":\s*"(\w+)"', part.__getstate__().decode())) if part is not None else set()


def _stands_alone(token: AddedToken, backend: Tokenizer) -> bool:
    """Whether an added token is found wherever its text is, and takes nothing else."""
    asks = token.normalized and backend.normalizer is not None
    return not (token.lstrip or token.rstrip or token.single_word or asks)


def _maps_letters(normalizer: Any) -> bool:
    """Whether a normaliser does nothing but compose letters (NFC) and put one letter for another."""
    if normalizer is None:
        return True
    rule = json.loads(normalizer.__getstate__())
    rules = rule["normalizers"] if rule["type"] == "Sequence" else [rule]
    return all(
        each["type"] == "NFC" or (each["type"] == "Replace" and len(each["pattern"].get("String", "")) == 1)
        for each in rules
    )


def _renaming(ids: Mapping[int, int], size: int) -> ndarray:
    table = np.arange(max(size, *(id + 1 for id in ids)), dtype=np.int32)
    for theirs, ours in ids.items():
        table[theirs] = ours
    return table
