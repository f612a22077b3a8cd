"""What a pipe has delivered, kept in files until no checkpoint needs it: nothing that has left the pipe can be lost.

pipe  --splice-->  lines-3f9a61c2/ 000000000000 000000008388 ..    bytes as they came; a file is named by its first one
                                  |-- let go --|-- read by shards, and to be read again after a kill --|

The kernel moves the bytes (splice(2)): at no moment are they in neither. A power cut may take what came since the last
shard was made, as it takes what is in the pipe itself, but no row that is learnt. The folder stands in the run's own,
which may not have begun: a start that was killed, or refused, before its first step leaves what it read to the next.
"""

from __future__ import annotations

import errno
import fcntl
import io
import os
import select
from contextlib import suppress
from hashlib import sha256
from itertools import pairwise
from pathlib import Path
from typing import final

from tunesmith.errors import DataError
from tunesmith.folder import flush_to_disk

FILE_BYTES = 8 << 20
_ONCE = 1 << 20
_LOOK_SECONDS = 0.2
_NO_SPLICE = {errno.EINVAL, errno.ENOSYS}  # standard input is a file, a terminal, a socket


class Closed(Exception):
    """Nobody wants to read on."""


@final
class Spool:
    """The bytes of one pipe. `waits`: after a writer has closed it, wait for the next one.

    Raises DataError where another process reads it already.
    """

    def __init__(self, path: str, base: Path, waits: bool) -> None:
        """`base`: where a run keeps what is left of its streams."""
        self.path, self.waits = path, waits
        self.folder = base / f"lines-{sha256(path.encode()).hexdigest()[:8]}"
        self.folder.mkdir(parents=True, exist_ok=True)
        self._lock = _alone(self.folder, path)
        self.end = max((int(file.name) + file.stat().st_size for file in self._files()), default=0)
        """Bytes that have left the pipe."""
        self.had = self.end
        """Of these, how many had before this process."""
        self._settled = 0
        self._pipe: int | None = None
        self._closed = False

    def _files(self) -> list[Path]:
        return sorted(path for path in self.folder.iterdir() if path.name.isdigit())

    def read_from(self, byte: int) -> io.BufferedReader:
        """Everything behind this byte; waits for what has not come yet. Raises Closed in the midst of reading."""
        return io.BufferedReader(_Reading(self, byte))

    def read(self, byte: int, size: int) -> bytes:
        """At most so many bytes; none only at the end of the pipe."""
        while byte >= self.end:
            if not self._fetch():
                return b""
        file = next((file for file in reversed(self._files()) if int(file.name) <= byte), None)
        if file is None:
            what, fix = "rows that are needed have been let go, or taken away", "begin anew: output=NEW"
            raise DataError.at(str(self.folder), what, fix)
        with open(file, "rb") as found:
            found.seek(byte - int(file.name))
            return found.read(size)

    def settle(self) -> None:
        """What has come so far outlives a power cut. Once a shard: some milliseconds in thousands of rows."""
        for file in self._files():
            with suppress(FileNotFoundError):  # let go of meanwhile, by the thread that trains
                if int(file.name) + file.stat().st_size > self._settled:
                    flush_to_disk(file)
        flush_to_disk(self.folder)
        self._settled = self.end

    def release(self, byte: int) -> None:
        """Nothing before this byte will be read again."""
        files = self._files()
        for file, after in pairwise(files):
            if int(after.name) <= byte:
                file.unlink()

    def close(self) -> None:
        """A read that waits gives up."""
        self._closed = True

    def free(self) -> None:
        """Nobody reads here any more."""
        self._lock.close()
        if self._pipe:  # standard input is not ours to close
            os.close(self._pipe)
            self._pipe = None

    # --- what is not here yet ---

    def _fetch(self) -> bool:
        """Some bytes more. False: the pipe has ended."""
        while True:
            if self._pipe is None:
                self._pipe = self._open()
            self._wait(self._pipe)
            try:
                moved = self._move(self._pipe)
            except BlockingIOError:
                continue
            self.end += moved
            if moved:
                return True
            if not self.waits or self.path == "-":
                return False
            before, self._pipe = self._pipe, self._open()  # first the new one: a writer never finds nobody
            os.close(before)
            self._end_line()

    def _open(self) -> int:
        if self.path == "-":
            return 0
        try:
            return os.open(self.path, os.O_RDONLY | os.O_NONBLOCK)  # does not wait for a writer: _wait does
        except OSError as error:
            raise DataError.at(self.path, f"cannot be read: {error.strerror}", "check the pipe") from error

    def _wait(self, pipe: int) -> None:
        while not select.select([pipe], [], [], _LOOK_SECONDS)[0]:
            if self._closed:
                raise Closed
        if self._closed:
            raise Closed

    def _move(self, pipe: int) -> int:
        """Bytes that are there, from the pipe into the last file; 0 where its writers have closed it."""
        files = self._files()
        begins = int(files[-1].name) if files else 0
        if not files or self.end - begins >= FILE_BYTES:
            begins = self.end
        into = os.open(self.folder / f"{begins:012d}", os.O_WRONLY | os.O_CREAT, 0o666)
        try:
            os.lseek(into, self.end - begins, os.SEEK_SET)
            return _splice(pipe, into)
        finally:
            os.close(into)

    def _end_line(self) -> None:
        """A line that a writer left without its end is none that the next one goes on with."""
        last = self._files()[-1]
        with open(last, "r+b") as file:
            size = file.seek(0, io.SEEK_END)
            file.seek(max(0, size - 1))
            if size and file.read() != b"\n":
                self.end += file.write(b"\n")


def _splice(pipe: int, into: int) -> int:
    try:
        return os.splice(pipe, into, _ONCE)
    except (AttributeError, OSError) as error:
        if isinstance(error, OSError) and error.errno not in _NO_SPLICE:
            raise
    data = os.read(pipe, _ONCE)
    left = memoryview(data)
    while left:
        left = left[os.write(into, left) :]
    return len(data)


def _alone(folder: Path, path: str) -> io.TextIOWrapper:
    """Held as long as the spool lives: what two processes read of a pipe belongs to neither."""
    file = open(folder / ".lock", "a")  # noqa: SIM115
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        file.close()
        fix = "name each pipe once; wait for the other run, or choose another output="
        raise DataError.at(path, "is being read already, by this run or another", fix) from error
    return file


@final
class _Reading(io.RawIOBase):
    """The spool from a byte on, as a file."""

    def __init__(self, spool: Spool, byte: int) -> None:
        self.spool, self.byte = spool, byte

    def readable(self) -> bool:
        return True

    def readinto(self, into: memoryview) -> int:  # type: ignore[override]
        data = self.spool.read(self.byte, len(into))
        into[: len(data)] = data
        self.byte += len(data)
        return len(data)
