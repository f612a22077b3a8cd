"""A digest of all that decides the samples: file bytes, options, template, tokenizer, seed."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from tunesmith.data.cache import remembered_hash
from tunesmith.data.files import DataFile, files_of
from tunesmith.data.shards import hash_of
from tunesmith.data.template import ChatTemplate
from tunesmith.errors import DataError
from tunesmith.recipe import Data, ObjectiveKind

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast


def hash_file(path: str) -> str:
    """sha256 of the file's bytes; of several, over their names and digests."""
    files = files_of(path)
    if len(files) == 1:
        return _hash(files[0])
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.name}\0{_hash(file)}\n".encode())
    return digest.hexdigest()


def _hash(file: DataFile) -> str:
    try:
        return remembered_hash(file.path, lambda: hash_of(file.path))
    except OSError as error:
        raise DataError.at(file.name, f"cannot be read: {error.strerror}", "check the file") from error


def fingerprint(
    files: Sequence[str],
    data: Data,
    objective: ObjectiveKind,
    tokenizer: str,
    template: ChatTemplate,
    seed: int,
) -> str:
    """sha256 over the digests of the files, of the tokenizer, and everything else that changes a sample."""
    parts = {
        "files": list(files),
        "data": data.model_dump(mode="json"),
        "objective": objective,
        "template": template.source,
        "stop_ids": sorted(template.stop_ids),
        "tokenizer": tokenizer,
        "seed": seed,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def hash_tokenizer(tokenizer: PreTrainedTokenizerFast) -> str:
    """sha256 of all rules of a fast tokenizer, or of the vocabulary of another."""
    if known := getattr(tokenizer, "rules_hash", None):
        return str(known)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    text = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab(), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()
