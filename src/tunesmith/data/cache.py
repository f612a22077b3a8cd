"""Where prepared data is kept between runs: one folder a key, found by content, never by name.

~/.cache/tunesmith/                 or $TUNESMITH_CACHE, or $XDG_CACHE_HOME/tunesmith
    tokens/3f9c../  manifest.json shard-00000.bin ..    the rows of one source as tokens
    splits/81d2../  index.json index.bin                which rows a recipe learns from, and which it holds out
    trunks/c07b../  manifest.json block-00000.bin ..    what the frozen layers of a model make of rows
    traced/ words/          of unknown families, what a layer keeps; of tokenizers, what a plan asks
    stamps/ab01..json                                   the hash of a file, and what the file system said of it then
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from tunesmith.errors import DataError
from tunesmith.folder import cache_root

KINDS = ("tokens", "splits", "trunks")
# Who makes an entry locks the one; who reads it holds the other, which only clearing asks for.
_LOCK, _LEASE = "lock", "lease"
# A file may change twice within one tick of the clock: a stamp this young proves nothing (git's "racy" entries).
_RACY_NS = 2_000_000_000
_SMALL = 4 << 20  # hashed faster than it is worth to remember


def free_bytes() -> int | None:
    """Room left on the disk of the caches; None where nobody says."""
    place = next((path for path in (cache_root(), *cache_root().parents) if path.is_dir()), None)
    try:
        return None if place is None else shutil.disk_usage(place).free
    except OSError:
        return None


@cache
def _writable(wanted: Path, named: bool) -> Path:
    """The folder, made if need be. One that nobody named may stand elsewhere where it cannot be written."""
    try:
        wanted.mkdir(parents=True, exist_ok=True)
        if os.access(wanted, os.W_OK):
            return wanted
        problem = "cannot be written"
    except OSError as error:
        problem = f"cannot be made: {error.strerror}"
    if named:
        raise DataError.at(str(wanted), problem, "set TUNESMITH_CACHE to a folder that can be written")
    other = Path(tempfile.gettempdir()) / f"tunesmith-cache-{os.getuid()}"
    other.mkdir(mode=0o700, exist_ok=True)
    if other.stat().st_uid != os.getuid():
        raise DataError.at(str(other), "belongs to somebody else", "set TUNESMITH_CACHE to a folder of yours")
    return other


def folder_of(kind: str, key: str) -> Path:
    """The folder of an entry, made if need be. Raises DataError."""
    base = _writable(cache_root(), "TUNESMITH_CACHE" in os.environ)
    found = base / kind / key[:32]
    found.mkdir(parents=True, exist_ok=True)
    return found


def key_of(parts: Mapping[str, Any]) -> str:
    """sha256 of everything that decides an entry."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


def code_version() -> str:
    """What turns rows into tokens."""
    import jinja2
    import tokenizers

    return f"{tokenizers.__version__} {jinja2.__version__} {code_hash('data')}"


@cache
def code_hash(*rooms: str) -> str:
    """A digest of the code of some rooms of this package: whoever changes it need not remember to say so."""
    digest = hashlib.sha256()
    for room in rooms:
        for path in sorted((Path(__file__).parents[1] / room).glob("*.py")):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


@contextlib.contextmanager
def locked(folder: Path, waiting: Any = None) -> Iterator[None]:
    """One writer at a time; another process waits, and then finds the work done. The kernel frees it at death."""
    with open(folder / _LOCK, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            if waiting is not None:
                waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Lease:
    """Keeps an entry from being cleared for as long as it lives: until the last shard that holds it is gone."""

    def __init__(self, folder: Path) -> None:
        self._file = open(folder / _LEASE, "a")  # noqa: SIM115 - closed by __del__
        fcntl.flock(self._file, fcntl.LOCK_SH)

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


def write_document(path: Path, value: Any) -> None:
    """Write a JSON document beside and rename it."""
    staging = path.with_name(f".{path.name}.{os.getpid()}")
    staging.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    os.replace(staging, path)


def read_document(path: Path) -> Any:
    """A JSON document; None where there is none, or a torn one."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


# --- whether a file has changed -----------------------------------------------------------------------------


def remembered_hash(path: Path, compute: Any) -> str:
    """sha256 of a large file; what was computed before counts while the file system says nothing has changed.

    Size, inode, time of change and time of status change (which no program can set) must all be as they were,
    and the hash must be two seconds younger than the last change.
    """
    found = path.stat()
    now = [found.st_size, found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns]
    if found.st_size < _SMALL:
        return str(compute())
    place = _writable(cache_root(), "TUNESMITH_CACHE" in os.environ) / "stamps"
    memo = place / f"{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:32]}.json"
    known = read_document(memo)
    if isinstance(known, dict) and known.get("stamp") == now:
        return str(known["sha256"])
    began = time.time_ns()
    digest = str(compute())
    after = path.stat()
    unchanged = now == [after.st_size, after.st_dev, after.st_ino, after.st_mtime_ns, after.st_ctime_ns]
    if unchanged and began - max(found.st_mtime_ns, found.st_ctime_ns) > _RACY_NS:
        place.mkdir(parents=True, exist_ok=True)
        write_document(memo, {"path": str(path.resolve()), "stamp": now, "sha256": digest})
    return digest


# --- list and clear -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Entry:
    """One folder of the cache. `used` is when it was last opened, in seconds since 1970."""

    kind: str
    key: str
    path: str
    what: str
    rows: int
    tokens: int
    bytes: int
    used: float
    complete: bool


def entries() -> list[Entry]:
    """Everything in the cache, last used first."""
    found = [
        _entry(kind, path)
        for kind in KINDS
        for path in sorted((cache_root() / kind).glob("*"))
        if path.is_dir()
    ]
    return sorted(found, key=lambda entry: -entry.used)


def _entry(kind: str, path: Path) -> Entry:
    document = read_document(path / ("index.json" if kind == "splits" else "manifest.json"))
    about = document["about"] if isinstance(document, dict) and "about" in document else {}
    lease = path / _LEASE
    return Entry(
        kind,
        path.name,
        str(path),
        str(about.get("what", "being made, or left unfinished")),
        int(about.get("rows", 0)),
        int(about.get("tokens", 0)),
        sum(each.stat().st_size for each in path.iterdir() if each.is_file()),
        (lease if lease.exists() else path).stat().st_mtime,
        document is not None,
    )


def mark_used(folder: Path) -> None:
    """Note that an entry was opened now."""
    with contextlib.suppress(OSError):
        (folder / _LEASE).touch()


def clear(older_than_days: float | None = None) -> tuple[list[Entry], list[Entry]]:
    """Delete entries (not used for so many days): (those that went, those that are in use and stayed)."""
    gone, kept = [], []
    limit = time.time() - (older_than_days or 0) * 86400
    for entry in entries():
        if older_than_days is not None and entry.used > limit:
            continue
        with open(Path(entry.path) / _LOCK, "a") as writer, open(Path(entry.path) / _LEASE, "a") as readers:
            try:
                fcntl.flock(writer, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(readers, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                kept.append(entry)
                continue
            shutil.rmtree(entry.path)
            gone.append(entry)
    if older_than_days is None:
        shutil.rmtree(cache_root() / "stamps", ignore_errors=True)
        for small in ("traced", "words"):
            shutil.rmtree(cache_root() / small, ignore_errors=True)
    return gone, kept
