"""A folder appears whole or not at all: written beside, flushed to disk, then put in place.

exports/.merged.staging/ --fsync--> exports/merged/        an older export is swapped out in one step
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from tunesmith.errors import DiskFullError, FolderError
from tunesmith.folder import flush_to_disk, let_read

CERTIFICATE = "certificate.json"
"""Every export holds one."""
_EXCHANGE = 2  # RENAME_EXCHANGE of renameat2(2)
_HERE = -100  # AT_FDCWD


@contextlib.contextmanager
def staged(destination: Path, mark: str) -> Iterator[Path]:
    """An empty folder to fill; it becomes `destination` when the block ends well, and vanishes otherwise.

    An existing destination is replaced only if it holds `mark`, a file of an earlier export.
    """
    refuse_foreign(destination, mark)
    stage = destination.parent / f".{destination.name}.staging"
    try:
        shutil.rmtree(stage, ignore_errors=True)  # left by a process that was killed
        stage.mkdir(parents=True)
        yield stage
        let_read(stage)
        for path in (*stage.rglob("*"), stage):
            flush_to_disk(path)
        _put_in_place(stage, destination)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise DiskFullError.at(
                str(destination), "no space is left on the disk", "free some space, then export again"
            ) from error
        raise
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def refuse_foreign(destination: Path, mark: str) -> None:
    """Raise FolderError where `destination` holds something that no earlier export wrote."""
    if destination.exists() and not (destination / mark).is_file() and any(_inside(destination)):
        raise FolderError.at(
            str(destination),
            f"exists and was not made by this command (no {mark} in it)",
            "move it away, or name another folder",
        )


def _inside(path: Path) -> Iterator[Path]:
    return path.iterdir() if path.is_dir() else iter([path])


def _put_in_place(stage: Path, destination: Path) -> None:
    if not destination.exists():
        os.rename(stage, destination)
    elif not _exchange(stage, destination):
        old = destination.parent / f".{destination.name}.old"
        shutil.rmtree(old, ignore_errors=True)
        os.rename(destination, old)
        os.rename(stage, destination)
        shutil.rmtree(old, ignore_errors=True)
    flush_to_disk(destination.parent)


def _exchange(first: Path, second: Path) -> bool:
    """Swap two folders in one step; False where the system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    return bool(rename(_HERE, os.fsencode(first), _HERE, os.fsencode(second), _EXCHANGE) == 0)
