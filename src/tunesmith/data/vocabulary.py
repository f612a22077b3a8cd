"""Learn which tokens a text lacks: byte-pair merges that go on where the tokenizer's own merges end.

"关于 关于 ..."  --the tokenizer's words-->  [å][ħ][³] [äº][İ]  --each token one letter, BPE on letters-->  关, 于, 关于
New merges come after all old ones, so a text in which none applies keeps its ids, and each new token stands exactly
for the old tokens that stood there before (`NewToken.of`).
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from tunesmith.data.faults import Fault
from tunesmith.data.files import files_of
from tunesmith.data.gather import open_source
from tunesmith.data.records import Text, as_chats
from tunesmith.errors import DataError
from tunesmith.events import Reporter, Silent

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tunesmith.recipe import Source, Vocabulary

LONGEST = 16  # old tokens that one new token may stand for
PIECE = 2000  # characters; longer documents are cut at line ends, so that a part of one can be held out
# Text behind it is counted, not read: no further token would be found often enough.
MOST_CHARACTERS = 50_000_000
_BATCH = 256
_SEPARATOR = "\n"
_FIRST = 0x100  # a token's letter is chr(_FIRST + id), past the surrogates where need be
_SURROGATES = range(0xD800, 0xE000)
_POINTS = (
    16,
    32,
    64,
    128,
    256,
    512,
    768,
    1024,
    1536,
    2048,
    3072,
    4096,
    6144,
    8192,
    12288,
    16384,
    24576,
    32768,
)


@dataclass(frozen=True, slots=True)
class NewToken:
    """A token: its spelling in the vocabulary, the two it is merged from, and the old ids it stands for."""

    spelling: str
    pair: tuple[str, str]
    of: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Learnt:
    """New tokens, most useful first; what the first `count` of the curve's points save on held-out text."""

    tokens: tuple[NewToken, ...]
    curve: tuple[tuple[int, int], ...]  # (new tokens, tokens of the held-out text)
    why: str
    held_out: tuple[str, ...] = field(repr=False)
    read: dict[str, int] = field(default_factory=dict)

    @property
    def characters(self) -> int:
        """Of the held-out text."""
        return sum(map(len, self.held_out))

    @property
    def before(self) -> float:
        """Tokens a character, with the old tokens alone."""
        return self.curve[0][1] / self.characters

    @property
    def after(self) -> float:
        """Tokens a character, with the new ones."""
        return next(count for tokens, count in self.curve if tokens == len(self.tokens)) / self.characters


def learn(
    section: Vocabulary, tokenizer: PreTrainedTokenizerFast, reporter: Reporter | None = None
) -> Learnt:
    """Which tokens to add. Raises DataError where there is no text, or nothing in it comes often enough."""
    reporter = reporter or Silent()
    read: Counter[str] = Counter()
    train, held_out = _apart(_texts(section.data, read, reporter), section.held_out)
    words, held_words, held_tokens = Counter[str](), Counter[str](), 0
    for text_words, _ in _words(train, tokenizer):
        words.update(text_words)
    for text_words, count in _words(held_out, tokenizer):
        held_words.update(text_words)
        held_tokens += count
    most = section.most if section.tokens == "auto" else section.tokens
    reporter.progress("learning tokens", 0, None)
    merges = _train(
        words, most + most // 8 + 64, section.min_count
    )  # some are spelt like others and left out
    usable = _usable(merges, tokenizer)[:most]
    reporter.progress("learning tokens", 1, 1)
    curve = _curve(usable, held_words, held_tokens)
    chosen, why = _choose(section, curve, len(usable))
    if not chosen:
        what = f"no token would shorten the text ({why})"
        raise DataError.at("vocabulary", what, "give more text, or lower vocabulary.min_count or min_gain")
    return Learnt(tuple(merge.token for merge in usable[:chosen]), curve, why, tuple(held_out), dict(read))


# ---- text ----


def _texts(sources: Iterable[Source], read: Counter[str], reporter: Reporter) -> Iterator[str]:
    """What people would read of each row: a document, or what was said in a dialogue. Bad rows are counted."""
    for source in sources:
        files_of(source.path)  # a missing file is told as everywhere
        opened = open_source(source, reporter)
        for raw in opened.rows:
            record = opened.record(raw)
            read["rows"] += 1
            if isinstance(record, Fault):
                read["bad_rows"] += 1
                continue
            texts = [record.text] if isinstance(record, Text) else [
                turn.content for chat in as_chats(record) for turn in chat.messages
            ]  # fmt: skip
            for text in filter(None, texts):
                read["characters"] += len(text)
                if read["characters"] <= MOST_CHARACTERS:
                    yield from _pieces(text)
                else:
                    read["characters_not_read"] += len(text)


def _pieces(text: str) -> Iterator[str]:
    """A long document in parts, cut behind line ends."""
    if len(text) <= 2 * PIECE:
        yield text
        return
    part: list[str] = []
    size = 0
    for line in text.splitlines(keepends=True):
        part.append(line)
        size += len(line)
        if size >= PIECE:
            yield "".join(part)
            part, size = [], 0
    if part:
        yield "".join(part)


def _apart(texts: Iterable[str], share: float) -> tuple[list[str], list[str]]:
    """(to learn from, held out): by content, so that equal texts never part; at least one is held out."""
    marked = [(_place(text), text) for text in texts]
    if not marked:
        raise DataError.at("vocabulary.data", "holds no text", "give documents or dialogues")
    limit = max(share, min(place for place, _ in marked))
    train = [text for place, text in marked if place > limit]
    held = [text for place, text in marked if place <= limit]
    return (train, held) if train else (held, held)


def _place(text: str) -> float:
    """A number in [0, 1) that a text always has."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=6).digest()) / 2**48


def _words(texts: Sequence[str], tokenizer: PreTrainedTokenizerFast) -> Iterator[tuple[list[str], int]]:
    """(words of several tokens, as letters; number of tokens) of each batch. A word is what no merge crosses."""
    backend = tokenizer.backend_tokenizer
    added = set(tokenizer.get_added_vocab().values())
    for start in range(0, len(texts), _BATCH):
        found: list[str] = []
        count = 0
        for encoding in backend.encode_batch(list(texts[start : start + _BATCH]), add_special_tokens=False):
            count += len(encoding.ids)
            word: list[str] = []
            last = None
            for id, place in zip(encoding.ids, encoding.word_ids):
                if place != last and word:
                    found.append("".join(word))
                    word = []
                last = place
                if id not in added:
                    word.append(_letter(id))
            found.append("".join(word))
        yield [word for word in found if len(word) > 1], count


def _letter(id: int) -> str:
    """The private letter of a token."""
    code = _FIRST + id
    return chr(code if code < _SURROGATES.start else code + len(_SURROGATES))


def _id(letter: str) -> int:
    code = ord(letter)
    return code - _FIRST if code < _SURROGATES.start else code - _FIRST - len(_SURROGATES)


# ---- merges ----


def _train(words: Counter[str], most: int, min_count: int) -> list[tuple[str, str]]:
    """Merges of letters, most frequent first, by the trainer of `tokenizers`."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    letters = sorted(set().union(*words)) if words else []
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Split(_SEPARATOR, "removed")
    trainer = trainers.BpeTrainer(
        vocab_size=len(letters) + most,
        min_frequency=min_count,
        initial_alphabet=letters,
        show_progress=False,
        special_tokens=[],
    )
    lines = (_SEPARATOR.join([word] * min(left, 4096)) for word, n in words.items() for left in _parts(n))
    backend.train_from_iterator(lines, trainer)
    return [(a, b) for a, b in json.loads(backend.to_str())["model"]["merges"]]


def _parts(count: int) -> Iterator[int]:
    """4096 at a time: a word that stands a million times is not one long line."""
    for start in range(0, count, 4096):
        yield count - start


@dataclass(frozen=True, slots=True)
class _Merge:
    """A merge in letters, and the token it makes."""

    left: str
    right: str
    token: NewToken


def _usable(merges: Iterable[tuple[str, str]], tokenizer: PreTrainedTokenizerFast) -> list[_Merge]:
    """The merges whose token is new and spelt like no other."""
    backend = tokenizer.backend_tokenizer
    model: Any = backend.model
    spellings = {_letter(id): spelling for spelling, id in backend.get_vocab(with_added_tokens=False).items()}
    taken = set(backend.get_vocab(with_added_tokens=True))
    found = []
    for left, right in merges:
        if left not in spellings or right not in spellings:
            continue  # a part was left out
        pair = (spellings[left], spellings[right])
        spelling, of = "".join(pair), tuple(map(_id, left + right))
        if spelling in taken or len(of) > LONGEST:
            continue
        if model.ignore_merges and tuple(token.id for token in model.tokenize(spelling)) != of:
            continue  # a word spelt so would be taken whole, though its tokens were others
        taken.add(spelling)
        spellings[left + right] = spelling
        found.append(_Merge(left, right, NewToken(spelling, pair, of)))
    return found


# ---- how many ----


def _curve(usable: Sequence[_Merge], words: Counter[str], tokens: int) -> tuple[tuple[int, int], ...]:
    """(new tokens, tokens of the held-out text) at growing numbers of tokens, from none to all."""
    points = [*(point for point in _POINTS if point < len(usable)), len(usable)]
    long = sum(len(word) * count for word, count in words.items())
    counts = [(point, tokens - long + _length(usable[:point], words)) for point in points if point]
    return ((0, tokens), *counts)


def _length(merges: Sequence[_Merge], words: Counter[str]) -> int:
    """Tokens of all words, with these merges."""
    from tokenizers import Tokenizer, models

    letters = sorted(set().union(*words, *(merge.left + merge.right for merge in merges)))
    entries = [*letters, *(merge.left + merge.right for merge in merges)]
    vocabulary = {entry: number for number, entry in enumerate(entries)}
    backend = Tokenizer(models.BPE(vocabulary, [(merge.left, merge.right) for merge in merges]))
    unique = list(words)
    total = 0
    for start in range(0, len(unique), 32 * _BATCH):
        batch = unique[start : start + 32 * _BATCH]
        for word, encoding in zip(batch, backend.encode_batch(batch, add_special_tokens=False)):
            total += words[word] * len(encoding.ids)
    return total


def _choose(section: Vocabulary, curve: Sequence[tuple[int, int]], available: int) -> tuple[int, str]:
    """How many tokens to take, and why."""
    if section.tokens != "auto":
        if available < section.tokens:
            return available, f"only {available:,} stand {section.min_count} times in the text"
        return section.tokens, "asked for"
    base = max(1, curve[0][1])
    for (fewer, longer), (more, shorter) in pairwise(curve):
        gain = (longer - shorter) / base / (more - fewer) * 1000
        if gain < section.min_gain:
            return fewer, f"a thousand more would save {100 * gain:.2g}% of the tokens"
    if available >= section.most:
        return available, f"vocabulary.most is {section.most:,}"
    return available, f"no more stand {section.min_count} times in the text"
