"""The label X-ray: the first rows as exact tokens, each with its readable piece and whether it is learnt.

{"address": "a.jsonl:1", "ids": [..], "pieces": ["User", ":", ..], "learnt": [false, ..], "cut": []}
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

from tunesmith.data.formats import Fault
from tunesmith.data.gather import open_source, read_records
from tunesmith.data.ledger import SourceAccount
from tunesmith.data.records import Record
from tunesmith.data.render import Drop, Rendered, render
from tunesmith.data.samples import Rendering
from tunesmith.recipe import Data, ObjectiveKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.template import ChatTemplate

_BYTE_PIECE = re.compile(r"<0x([0-9A-F]{2})>")


def show(
    data: Data,
    objective: ObjectiveKind,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    rows: int,
) -> dict[str, Any]:
    """The first `rows` rows of the train sources, in file order, before the validation split and packing.

    Rows that would not be learnt stand under `dropped`, with the reason. Raises DataError.
    """
    pieces = Pieces(tokenizer)
    samples: list[dict[str, Any]] = []
    dropped: list[dict[str, str]] = []
    for address, record in _first(data, rows):
        result = (
            record
            if isinstance(record, Fault)
            else render(record, address, template, objective, data.max_length, data.overlength)
        )
        if isinstance(result, Fault | Drop):
            dropped.append({"address": address, "reason": result.reason, "detail": result.detail})
        else:
            samples += [_sample(rendering, result, pieces) for rendering in result.renderings]
    named = {"name": template.name, "source": template.source, "stop": pieces.of([template.stop_id])[0]}
    return {"samples": samples, "template": named, "dropped": dropped}


def _first(data: Data, rows: int) -> Iterator[tuple[str, Record | Fault]]:
    """The first rows of all sources together; nothing behind them is read."""
    left = rows if data.limit is None else min(rows, data.limit)
    for source in data.sources:
        if left <= 0:
            return
        opened = open_source(source)
        account = SourceAccount(source.path, opened.format, "train")
        for address, record in read_records(opened, account, None):
            yield address, record
            left -= 1
            if left <= 0:
                return


def _sample(rendering: Rendering, result: Rendered, pieces: Pieces) -> dict[str, Any]:
    ids = rendering.ids.tolist()
    cuts = [
        {"turn": cut.turn, "behind": cut.behind, "ids": list(cut.ids), "pieces": pieces.of(cut.ids)}
        for cut in rendering.cut
    ]
    return {
        "address": rendering.address,
        "ids": ids,
        "pieces": pieces.of(ids),
        "learnt": rendering.learnt.tolist(),
        "cut": cuts,
        "fate": result.fate,
        **({} if rendering.weights is None else {"weights": rendering.weights.astype(float).tolist()}),
    }


@final
class Pieces:
    """Ids as text for people. The pieces of a text, put together, are the text.

    Where a letter is spread over several tokens (a Chinese letter over three bytes), the last one shows it.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast) -> None:
        backend = tokenizer.backend_tokenizer
        self._backend = backend
        self._added = {id: token.content for id, token in backend.get_added_tokens_decoder().items()}
        # A component's pickled state is its JSON; the whole tokenizer's would be megabytes of vocabulary.
        parts = (backend.decoder, backend.pre_tokenizer, backend.normalizer)
        kinds = {
            kind for part in parts if part is not None for kind in _types(json.loads(part.__getstate__()))
        }
        self._letters = _byte_letters() if "ByteLevel" in kinds else None
        self._has_bytes = "ByteFallback" in kinds
        # SentencePiece writes a space as this letter.
        self._space = "▁" if {"Metaspace", "Replace", "Prepend"} & kinds and self._letters is None else None

    def of(self, ids: Iterable[int]) -> list[str]:
        """The readable piece of each id."""
        decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        found = [decoder.decode(self._bytes(id)) for id in ids]
        rest = decoder.decode(b"", final=True)
        if rest and found:
            found[-1] += rest
        return found

    def _bytes(self, id: int) -> bytes:
        if id in self._added:
            return self._added[id].encode()
        piece = self._backend.id_to_token(id)
        if piece is None:
            return f"<{id}?>".encode()
        if self._letters is not None:
            if all(letter in self._letters for letter in piece):
                return bytes(self._letters[letter] for letter in piece)
            return piece.encode()
        if self._has_bytes and (byte := _BYTE_PIECE.fullmatch(piece)):
            return bytes([int(byte[1], 16)])
        return (piece.replace(self._space, " ") if self._space else piece).encode()


def _types(part: Any) -> Iterator[str]:
    """The types of a tokenizer's component and of those inside it."""
    if isinstance(part, Mapping):
        if isinstance(part.get("type"), str):
            yield part["type"]
        for inner in part.values():
            yield from _types(inner)
    elif isinstance(part, Sequence) and not isinstance(part, str):
        for inner in part:
            yield from _types(inner)


def _byte_letters() -> dict[str, int]:
    """GPT-2's alphabet: the printable letter that stands for each byte (openai/gpt-2, encoder.py)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    letters = {chr(byte): byte for byte in printable}
    others = [byte for byte in range(256) if byte not in set(printable)]
    return letters | {chr(256 + number): byte for number, byte in enumerate(others)}
