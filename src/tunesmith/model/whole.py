"""Whether the weight files of a folder are all there and as long as they say. Reads headers only; no torch.

model.safetensors.index.json names shards -> each is a file      [8 bytes: n][n bytes: JSON header][data] -> fits
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

from tunesmith.errors import ModelError, Problem

INDEX = "model.safetensors.index.json"
_MOST_HEADER_BYTES = 100 << 20  # what safetensors itself allows
_AGAIN = "download or copy the folder again, whole"


def require_whole(folder: Path) -> None:
    """Raise ModelError with every weight file that is missing, cut short or none at all."""
    problems = [
        *_missing(folder),
        *(p for file in sorted(folder.glob("*.safetensors")) for p in _broken(file)),
    ]
    if problems:
        raise ModelError(problems)


def _missing(folder: Path) -> Iterator[Problem]:
    """Shards that the index names and the folder lacks."""
    index = folder / INDEX
    if not index.is_file():
        return
    try:
        names = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        outside = sorted(name for name in names if Path(name).name != name)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        yield Problem(str(index), "is no index of weights: it has no weight_map of names", _AGAIN)
        return
    for name in outside:
        yield Problem(str(index), f"names a file outside its folder: {name!r:.80}", _AGAIN)
    for name in sorted(names - set(outside)):
        if not (folder / name).is_file():
            yield Problem(str(folder / name), "is named by the index and not there", _AGAIN)


def _broken(file: Path) -> Iterator[Problem]:
    """What the header of a safetensors file says against it."""
    size = file.stat().st_size
    try:
        with file.open("rb") as opened:
            length = int.from_bytes(opened.read(8), "little")
            if size < 8 or length > min(size - 8, _MOST_HEADER_BYTES):
                yield Problem(str(file), f"is no whole safetensors file ({size} bytes)", _AGAIN)
                return
            header = json.loads(opened.read(length))
        ends = [entry["data_offsets"][1] for name, entry in header.items() if name != "__metadata__"]
        needed = 8 + length + max(ends, default=0)
    except OSError as error:
        yield Problem(str(file), f"cannot be read: {error.strerror}", "check the file and its permissions")
        return
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError):
        yield Problem(str(file), "is no safetensors file: its header cannot be read", _AGAIN)
        return
    if size < needed:
        yield Problem(str(file), f"is cut short: {size} bytes of {needed}", _AGAIN)
