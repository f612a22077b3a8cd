"""Tokens that a model has never learnt, read off a few rows of its weight files. No torch, nothing else is loaded.

embedding   ordinary tokens lie far apart      o     o   o        o
            tokens nobody trained lie together          ⁂         (or at 0): pushed alike, pulled by nothing

A row counts as untrained if it is as good as zero (norm below 1/20 of a large ordinary row's), or as good as equal to
the row of another token: closer than 1/30 of the distance between ordinary rows. Measured: tokens never seen in
training lie within 1/1000 of that distance of each other (stories260k, nano-psycho, both tied), trained control tokens
no closer than 1/2. Fresh random rows lie apart too, so a model that has learnt nothing is not told from one that has.

Limits: a single untrained row with nobody beside it (new rows drawn at random, noise that has not decayed yet)
is not found, nor is a row that was seen a few times and learnt badly. Weights on the hub that are not in the cache yet,
and tables stored in fewer than 16 bits, are not judged.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from tunesmith.folder import RunFolder, is_run
from tunesmith.model.adapted import is_adapter, read_adapter
from tunesmith.model.run_recipe import recipe_of
from tunesmith.recipe import Model

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

_EMBEDDINGS = (
    "embed_tokens.weight",
    "wte.weight",
    "embed_in.weight",
    "word_embeddings.weight",
    "tok_embeddings.weight",
)
_HEADS = ("lm_head.weight", "embed_out.weight")
_DTYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "BF16": "<u2"}
_SAMPLE = 512  # ordinary rows that are looked at
_UNUSED = 256  # rows behind the tokenizer's last token that are
_NEAR, _SMALL = 1 / 30, 1 / 20
_LARGEST_HEADER = 100_000_000


@dataclass(frozen=True, slots=True)
class Table:
    """A matrix [rows, columns] in a safetensors file, of which single rows are read."""

    file: Path
    dtype: str
    rows: int
    columns: int
    offset: int

    def take(self, ids: Sequence[int]) -> ndarray:
        """Float32[ndarray, "N C"]: those rows."""
        shape = (self.rows, self.columns)
        stored = np.memmap(self.file, dtype=_DTYPES[self.dtype], mode="r", offset=self.offset, shape=shape)
        taken = np.asarray(stored[np.asarray(ids, np.int64)])
        if self.dtype == "BF16":  # the upper half of a float32
            return (taken.astype(np.uint32) << 16).view(np.float32)
        return taken.astype(np.float32)


@dataclass(frozen=True, slots=True)
class Tables:
    """What turns tokens into vectors, and vectors into tokens; one and the same where they are tied."""

    embedding: Table
    head: Table


def read_tables(model: Model) -> Tables | None:
    """The tables of a model whose weights lie here in a form that can be judged, else None."""
    folder = weights_folder(model)
    if folder is None:
        return None
    found = dict(_tensors(folder))
    embedding = _ending(found, _EMBEDDINGS)
    return None if embedding is None else Tables(embedding, _ending(found, _HEADS) or embedding)


def untrained_tokens(
    model: Model, tokenizer: PreTrainedTokenizerFast, ids: Collection[int], learnt: Collection[int] = ()
) -> list[int]:
    """Which of `ids` the model has never read, and which of `learnt` it has never written; rising.

    None is where the weights cannot be looked at (see `read_tables`).
    """
    tables = read_tables(model)
    if tables is None:
        return []
    added = set(tokenizer.get_added_vocab().values())
    read = untrained_rows(tables.embedding, ids, added, len(tokenizer))
    written = untrained_rows(tables.head, learnt, added, len(tokenizer))
    return sorted({*read, *written})


def untrained_rows(table: Table, ids: Iterable[int], added: Collection[int], tokens: int) -> list[int]:
    """Which rows of a table are untrained; `added` tokens and rows behind `tokens` are the likeliest company."""
    asked = sorted({id for id in ids if 0 <= id < table.rows})
    if not asked:
        return []
    evenly = np.unique(np.linspace(0, table.rows - 1, min(table.rows, _SAMPLE)).astype(np.int64))
    unused = range(tokens, min(table.rows, tokens + _UNUSED))
    beside = np.unique([*evenly, *(id for id in added if 0 <= id < table.rows), *unused])
    ordinary, company = table.take(evenly.tolist()), table.take(beside.tolist())
    large = float(np.quantile(np.linalg.norm(ordinary, axis=1), 0.9))
    # most rows of a model may be untrained: the 90th hundredth of distances is still one of trained rows
    halves = ordinary[: len(ordinary) // 2], ordinary[len(ordinary) - len(ordinary) // 2 :]
    apart = float(np.quantile(np.linalg.norm(halves[0] - halves[1], axis=1), 0.9)) if len(evenly) > 1 else 0.0
    found = []
    for id, row in zip(asked, table.take(asked)):
        distances = np.linalg.norm(company[beside != id] - row, axis=1)
        near = len(distances) > 0 and float(distances.min()) < _NEAR * apart
        if near or float(np.linalg.norm(row)) < _SMALL * large:
            found.append(id)
    return found


def weights_folder(model: Model) -> Path | None:
    """The folder of the weights that a recipe's model starts from; None where they are not here, or new."""
    for _ in range(20):  # runs on runs on runs
        if model.path is None:
            return None
        path = Path(model.path).expanduser()
        if is_run(path):
            run = RunFolder(path).last
            if run.model.is_dir():
                return run.model
            if _trains_tables(run.adapter):
                return None
            model = recipe_of(run).model
        elif is_adapter(path):
            if _trains_tables(path):
                return None
            model = read_adapter(model).base
        else:
            return path if path.is_dir() else _cached(model)
    return None


def _cached(model: Model) -> Path | None:
    from huggingface_hub import errors, try_to_load_from_cache

    try:
        found = try_to_load_from_cache(str(model.path), "config.json", revision=model.revision)
    except errors.HFValidationError:
        return None
    return Path(found).parent if isinstance(found, str) else None


def _trains_tables(adapter: Path) -> bool:
    """Whether an adapter brings rows of its own: the base's then say nothing."""
    return any(name.endswith(_EMBEDDINGS + _HEADS) or "embed" in name for name, _ in _headers(adapter))


def _tensors(folder: Path) -> Iterator[tuple[str, Table]]:
    """Every matrix of the folder that can be read row by row."""
    for name, (file, entry, start) in _headers(folder):
        shape, dtype = entry.get("shape", ()), entry.get("dtype")
        if len(shape) == 2 and dtype in _DTYPES:
            yield name, Table(file, dtype, shape[0], shape[1], start + entry["data_offsets"][0])


def _headers(folder: Path) -> Iterator[tuple[str, tuple[Path, Mapping[str, Any], int]]]:
    """Each tensor's name, file, entry, and where the file's data begin (8 bytes of length, JSON, data)."""
    for file in sorted(folder.glob("*.safetensors")):
        try:
            with open(file, "rb") as stream:
                size = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(size)) if size <= _LARGEST_HEADER else {}
        except (OSError, ValueError):
            continue  # whoever loads the weights will say what is wrong with them
        for name, entry in header.items() if isinstance(header, dict) else ():
            if name != "__metadata__" and isinstance(entry, dict):
                yield name, (file, entry, 8 + size)


def _ending(tables: Mapping[str, Table], endings: tuple[str, ...]) -> Table | None:
    """The largest matrix of such a name: a model that also sees may have a small one beside it."""
    found = [table for name, table in tables.items() if name.endswith(endings)]
    return max(found, key=lambda table: table.rows, default=None)
