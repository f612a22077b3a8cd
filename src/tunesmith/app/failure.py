"""From an exception to an exit code: 2 the user must change something, 1 our fault, 130 stopped.

DataError -> problems, 2      KeyboardInterrupt -> 130      ZeroDivisionError -> crash file, 1
"""

from __future__ import annotations

import contextlib
import errno
import os
import platform
import shlex
import sys
import tempfile
import traceback
from collections.abc import Sequence

from tunesmith.app.answer import write_json
from tunesmith.app.render import problems as pages
from tunesmith.app.render.base import console
from tunesmith.errors import DiskFullError, DoesNotFitError, FolderError, Interrupted, Problem, TunesmithError
from tunesmith.folder import cause_of
from tunesmith.redact import redact

DEBUG = "TUNESMITH_DEBUG"


def report(error: BaseException, *, json: bool, words: Sequence[str] = ()) -> int:
    """Tell the user what went wrong; returns the exit code. `words` of the command, so that it can be said again."""
    known = as_known(error, words)
    if os.environ.get(DEBUG):
        sys.stderr.write(redact("".join(traceback.format_exception(error))))
    clean = type(known)([Problem(redact(p.where), redact(p.what), redact(p.fix)) for p in known.problems])
    if json:
        write_json(clean.to_json())
    screen = console(sys.stderr)
    with contextlib.suppress(
        OSError
    ):  # a terminal that was closed reads nothing; the code says it all the same
        if isinstance(clean, Interrupted):
            screen.print(pages.interrupted(clean.problems))
        elif not json:
            screen.print(pages.problems(clean.problems, clean.code))
    return clean.exit_code


def as_known(error: BaseException, words: Sequence[str] = ()) -> TunesmithError:
    """The error in terms of the tree; an unknown one is ours, and its traceback goes to a file."""
    match error:
        case TunesmithError():
            return error
        case KeyboardInterrupt():
            again = f"the same command begins again: {shlex.join(['tunesmith', *words])}" if words else ""
            return Interrupted([Problem("", "stopped on request; nothing is left half done", again)])
        case OSError() if cause_of(error) == "disk full":
            return DiskFullError.at(
                error.filename or "disk", "no space left", "free some space, or move output= to another disk"
            )
        case OSError(errno=errno.EACCES | errno.EPERM | errno.EROFS) if error.filename:
            return FolderError.at(
                str(error.filename), f"cannot be opened: {error.strerror}", "check its owner and permissions"
            )
        case OSError(errno=errno.ENAMETOOLONG | errno.ELOOP | errno.ENOTDIR | errno.EISDIR) if error.filename:
            return FolderError.at(
                f"{error.filename!s:.120}", f"cannot be used: {error.strerror}", "give another path"
            )
        case ValueError() if "embedded null" in str(error):
            return FolderError.at("a path", "holds a NUL character", "give another path")
        case _ if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
            return DoesNotFitError.at(
                "memory", "ran out while working", "see: tunesmith plan RECIPE; smaller data.max_length helps"
            )
        case _:
            return TunesmithError([_our_fault(error)])


def _our_fault(error: BaseException) -> Problem:
    what = f"unexpected {type(error).__name__}: {error}".rstrip(": ")
    if len(what) > 500:
        what = what[:500] + " …"
    try:
        path = write_crash(error)
    except OSError:
        return Problem("tunesmith", what, f"this is our fault; set {DEBUG}=1 to see the traceback")
    return Problem("tunesmith", what, f"this is our fault; please report it with {path}")


def write_crash(error: BaseException) -> str:
    """Write traceback and versions to a new file only this user can read; returns its path."""
    from tunesmith import __version__

    handle, path = tempfile.mkstemp(prefix="tunesmith-crash-", suffix=".txt")
    lines = [
        f"tunesmith {__version__}, Python {platform.python_version()}, {platform.platform()}",
        f"command: {' '.join(sys.argv)}",
        "",
        "".join(traceback.format_exception(error)),
    ]
    with os.fdopen(handle, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(redact("\n".join(lines)))
    return path
