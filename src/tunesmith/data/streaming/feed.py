"""One stream as shards in a folder: made ahead of the training, found again after a kill, let go when no longer needed.

rows --cut at the window--> piece --kitchen--> shard-00007.*  after-00007.json (the place behind it, written first)
shards up to 00004 lie before every checkpoint: gone.  ended.json: how many there are in all, once the run is there

The head, all that is needed of it before the run begins, is made here and now; the rest by a thread and a worker
process, AHEAD shards before they are asked for. What a shard holds depends on the rows alone, never on who was faster.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import threading
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import final

from tunesmith.data import cache
from tunesmith.data.books import Books
from tunesmith.data.gather import Opened, recognised
from tunesmith.data.pieces import PIECE_BYTES, Piece
from tunesmith.data.rawrows import RawRow
from tunesmith.data.shards import Shard, remove
from tunesmith.data.streaming.reading import Place, read_stream
from tunesmith.data.streaming.spool import Closed, Spool
from tunesmith.data.tokenised import Kitchen, problem_of
from tunesmith.data.work import SPELT
from tunesmith.data.workers import Task, Worker
from tunesmith.errors import DataError, Problem
from tunesmith.recipe import DataFormat, Source

AHEAD = 2
"""Shards that are made before they are asked for: what is held of a stream beside what is being learnt."""
LOOK_SECONDS = 0.2
Waiting = Callable[[], bool]


class Interrupted(Exception):
    """Nobody wants to wait any longer."""


@final
class Feed:
    """The shards of one stream, by number. `folder` may hold what an earlier run made of it."""

    def __init__(
        self, source: Source, kitchen: Kitchen, strict: bool, folder: Path, spool: Spool | None = None
    ) -> None:
        self.source, self.kitchen, self.strict, self.folder = source, kitchen, strict, folder
        self.spool = spool
        self.format: DataFormat | None = source.format
        self._shards: dict[int, Shard] = {}
        self._ended: int | None = None  # so many shards in all
        self._error: BaseException | None = None
        self._wanted = 0
        self.visit: Callable[[str], object] = lambda point: None  # faults of tests
        self._news = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self._worker: Worker | None = None
        self._next, self._place = self._find()
        self._making = self._make_all()

    # --- what is there ---

    def _find(self) -> tuple[int, Place]:
        """What an earlier run left: (the number of the next shard, the place from which it is read)."""
        known = cache.read_document(self.folder / "let_go.json") or {"before": 0, "place": Place().to_json()}
        for number in _numbers(self.folder):
            if number < known["before"] and (shard := Shard.find(self.folder, number)) is not None:
                self._shards[number] = shard  # of the head
        number, place = int(known["before"]), Place(**known["place"])
        while (after := cache.read_document(self._after(number))) is not None:
            if (shard := Shard.find(self.folder, number)) is None:
                break
            self._shards[number] = shard
            number, place = number + 1, Place(**after)
        for left in [each for each in _numbers(self.folder) if each >= number]:
            self._remove(left)
        ended = cache.read_document(self.folder / "ended.json")
        self._ended = ended if ended == number else None
        for shard in self._shards.values():
            self.format = self.format or shard.books.format  # type: ignore[assignment]
        return number, place

    def _after(self, number: int) -> Path:
        return self.folder / f"after-{number:05d}.json"

    def _remove(self, number: int) -> None:
        remove(self.folder, number)
        self._after(number).unlink(missing_ok=True)

    # --- what comes ---

    def shard(self, number: int, waiting: Waiting = lambda: True) -> Shard | None:
        """The shard of this number, as soon as it is there; None behind the end of the stream.

        Raises what reading or tokenising raised, and Interrupted once `waiting` says that nobody waits any longer.
        """
        if self._thread is None:
            while number not in self._shards and self._ended is None:
                self._require_kept(number)
                self.kitchen.reporter.progress(f"reading the head of {self.source.path}", 0, None)
                made = next(self._making, None)
                assert made is not None or self._ended is not None
            if number not in self._shards:
                self._end()
            return self._shards.get(number)
        with self._news:
            self._wanted = max(self._wanted, number)
            self._news.notify_all()
            while number not in self._shards:
                if not waiting():
                    raise Interrupted
                if self._ended is not None and number >= self._ended:
                    self._end()
                    return None
                self._require_kept(number)
                if self._error is not None:
                    raise self._error
                self._news.wait(LOOK_SECONDS)
            return self._shards[number]

    def _end(self) -> None:
        """The run has come to the end, and keeps it. (What only the feed has seen may be its writer's death.)"""
        cache.write_document(self.folder / "ended.json", self._ended)

    def _require_kept(self, number: int) -> None:
        if number < self._next:
            what, fix = "rows that are needed have been let go, or taken away", "begin anew: output=NEW"
            raise DataError.at(str(self.folder), what, fix)

    def begin(self, folder: Path) -> None:
        """The run begins: its shards lie in this folder from now on, and are made ahead."""
        if folder != self.folder:
            _move(self.folder, folder)
            self.folder = folder
            for shard in self._shards.values():
                shard.base = folder / shard.base.name
        if self._ended is None:
            self._thread = threading.Thread(target=self._make_ahead, name="stream", daemon=True)
            self._thread.start()

    def release(self, before: int, head: int) -> None:
        """Let go of the shards before this number, except the first `head`."""
        before = min(before, self._next)
        gone = [number for number in self._shards if head <= number < before]
        if not gone:
            return
        place = cache.read_document(self._after(before - 1))
        cache.write_document(self.folder / "let_go.json", {"before": before, "place": place})
        with self._news:
            for number in gone:
                self._shards.pop(number).forget()
        for number in gone:
            self.visit("stream_remove")
            self._remove(number)
        if self.spool is not None:
            self.spool.release(Place(**place).byte)

    def close(self) -> None:
        """The run has ended, or stopped: nothing more is made. A read that hangs is left to hang."""
        with self._news:
            self._closed = True
            self._news.notify_all()
        if self.spool is not None:
            self.spool.close()
        if self._worker is not None:
            self._worker.end()
        if self._thread is not None:
            self._thread.join(5 * LOOK_SECONDS)
        if self.spool is not None and not (self._thread is not None and self._thread.is_alive()):
            self.spool.free()

    # --- making ---

    def _make_ahead(self) -> None:
        try:
            while not self._closed:
                with self._news:
                    while self._next > self._wanted + AHEAD and not self._closed:
                        self._news.wait()
                if self._closed or next(self._making, None) is None:
                    return
        except Closed:
            return
        except BaseException as error:  # told to whoever asks for a shard
            with self._news:
                self._error = error
                self._news.notify_all()

    def _make_all(self) -> Iterator[int]:
        """Make shard after shard; yields the number of each once it is there."""
        for number, rows, place in self._cut():
            if self.format is None:
                self.format = recognised(self.source, rows)
            first = rows[0]
            name = first.address.rpartition(":")[0]
            piece = Piece(number, name, Path(name), 0, rows[-1].end, tuple(rows))
            if self.spool is not None:  # before anything is learnt of these rows
                self.spool.settle()
            cache.write_document(self._after(number), place.to_json())
            self.visit("stream_row")
            self._require_good(number, self._cook(piece))
            self.visit("stream_shard")
            found = Shard.find(self.folder, number)
            assert found is not None
            with self._news:
                self._shards[number], self._next = found, number + 1
                self._news.notify_all()
            yield number
        with self._news:
            self._ended = self._next
            self._news.notify_all()

    def _cut(self) -> Iterator[tuple[int, list[RawRow], Place]]:
        """Pieces of at most a window of rows, of one file each."""
        assert self.source.stream is not None
        numbers = count(self._next)
        rows: list[RawRow] = []
        size, last = 0, self._place
        for raw, place in read_stream(self.source, self._place, self.spool):
            if rows and place.file != last.file:
                yield next(numbers), rows, last
                rows, size = [], 0
            rows.append(raw)
            size, last = size + len(raw.data), place
            if len(rows) >= self.source.stream.window or size >= PIECE_BYTES:
                yield next(numbers), rows, last
                rows, size = [], 0
        if rows:
            yield next(numbers), rows, last

    def _cook(self, piece: Piece) -> Books:
        if self._thread is None or self._alone or self.format is None:
            opened = Opened(self.source, self.format, "", iter(()))
            return self.kitchen.maker(opened).make(piece, self.folder)
        if self._worker is None:
            kitchen = self.kitchen
            task = Task(
                self.source, self.format, kitchen.wanted, kitchen.words, kitchen.template.choice, self.folder
            )
            self._worker = Worker(pickle.dumps(task))
        return self._worker.do("make", piece)

    @property
    def _alone(self) -> bool:
        return self.kitchen.workers == 0 or os.environ.get("TUNESMITH_WORKERS") == "0"

    def _require_good(self, number: int, books: Books) -> None:
        """A row that stops the run: its shard is not there, and is made anew when the run goes on."""
        kinds = {"bad", "fatal"} if self.strict else {"fatal"}
        bad = [each for each in books.complaints if each.kind in kinds]
        labels = [] if bad else [each for each in books.complaints if each.kind == "labels"]
        if not (bad or labels):
            return
        self._remove(number)
        problems = [problem_of(books, 0, each) for each in (*bad, *labels)][:SPELT]
        if bad:
            rows = sum(books.complaint_counts[kind] for kind in kinds)
            what = f"{rows} bad row{'s' * (rows != 1)} in a stream"
            fix = "correct them, or leave them out as they come, and count them: data.on_bad_row=drop"
            problems.append(Problem("data", what, fix))
        raise DataError(problems)


def _numbers(folder: Path) -> list[int]:
    """Of the shards in a folder."""
    names = (path.stem for pattern in ("shard-*.json", "after-*.json") for path in folder.glob(pattern))
    return sorted({int(name[6:]) for name in names if name[6:].isdigit()})


def _move(source: Path, target: Path) -> None:
    """All files of a folder into another, which may hold what a killed move left."""
    import shutil

    shutil.rmtree(target, ignore_errors=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(source, target)
    with contextlib.suppress(OSError):
        source.mkdir()
