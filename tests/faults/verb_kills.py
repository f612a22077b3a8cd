"""kill -9 of a verb that writes or measures: at its n-th change of a file, exactly, or at any moment.

A process of its own carries out the words; an audit hook (PEP 578) counts what it does to files below a folder and
ends it before the n-th. So every point is a fault point, and none has to be named in the code.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

from tests.faults.kills import PRELOADED

CHANGES = {
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.symlink", "os.truncate",
    "shutil.rmtree", "shutil.copyfile", "shutil.move",
    "ctypes.dlsym",  # renameat2(2), which swaps two folders
}  # fmt: skip
LOADED = [
    *PRELOADED,
    "tunesmith.export.merge",
    "tunesmith.export.adapter",
    "tunesmith.app.cli",
    "tunesmith.combined",
]


def carry_out(
    words: list[str],
    place: Path,
    at: int = 0,
    seconds: float | None = None,
    by: signal.Signals = signal.SIGKILL,
) -> tuple[int, dict[str, Any]]:
    """(exit code, or the signal that ended it, negative; what it said and how many changes it made below `place`).

    at: the change of a file that it is killed before. seconds: when it is killed, whatever it does.
    """
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(LOADED)
    said = place.with_name(place.name + ".said")
    said.unlink(missing_ok=True)
    process = server.Process(target=_carry_out, args=(words, place, at, by, said))
    process.start()
    process.join(seconds)
    if process.is_alive():
        process.kill()
        process.join()
    assert process.exitcode is not None
    return process.exitcode, json.loads(said.read_text()) if said.exists() else {}


def _carry_out(words: list[str], place: Path, at: int, by: signal.Signals, said: Path) -> None:
    from tunesmith.app.cli import main

    os.environ["TUNESMITH_CACHE"] = str(place / "cache")
    os.chdir(place)
    changes, out = 0, io.StringIO()

    def hear(event: str, args: tuple[Any, ...]) -> None:
        nonlocal changes
        if not _changes(event, args, place):
            return
        changes += 1
        if changes == at:
            os.kill(os.getpid(), by)

    sys.addaudithook(hear)
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
        code = main([*words, "--json"])
    made = changes
    said.write_text(json.dumps({"answer": out.getvalue(), "changes": made}))
    os._exit(code)


def _changes(event: str, args: tuple[Any, ...], place: Path) -> bool:
    if event == "open":
        path, _, flags = args
        return (
            isinstance(path, str | bytes | os.PathLike)
            and bool(flags & (os.O_WRONLY | os.O_RDWR))
            and _below(path, place)
        )
    if event == "ctypes.dlsym":
        return args[1] == "renameat2"
    return event in CHANGES and _below(args[0], place)


def _below(path: Any, place: Path) -> bool:
    return isinstance(path, str | bytes | os.PathLike) and os.path.abspath(os.fsdecode(path)).startswith(
        str(place)
    )


def bytes_of(folder: Path, without: tuple[str, ...] = ()) -> dict[str, str]:
    """sha256 of each file below a folder, hidden ones too."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.relative_to(folder).parts[0] not in without
    }
