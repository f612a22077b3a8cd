"""Make the shards of a source, here or in worker processes; each holds one piece at a time.

pieces --one at a time--> worker 1 --> shard-00000, shard-00002 ..      a killed worker or run loses one piece each
                          worker 2 --> shard-00001, shard-00003 ..

A worker is a fresh interpreter (`python -m tunesmith.data.workers`) that knows the tokenizer's rules and the
template, and neither torch nor transformers: it starts in half a second and nothing of the caller runs in it.
"""

from __future__ import annotations

import gc
import os
import pickle
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal

from tunesmith.data.books import Books
from tunesmith.data.choice import Choice
from tunesmith.data.gather import Opened
from tunesmith.data.heap import give_back, large_blocks_apart
from tunesmith.data.pieces import Piece
from tunesmith.data.template import ChatTemplate
from tunesmith.data.work import Maker, Wanted
from tunesmith.errors import DataError, Problem, UserError
from tunesmith.recipe import DataFormat, Source

Job = Literal["make", "scan"]


@dataclass(frozen=True, slots=True)
class Words:
    """What a worker needs of a tokenizer, without the library it came from."""

    backend_tokenizer: Any
    special_tokens_map: Mapping[str, str]
    bos_token: str | None
    bos_token_id: int | None
    eos_token: str | None
    eos_token_id: int | None
    unk_token: str | None
    unk_token_id: int | None

    @classmethod
    def of(cls, tokenizer: Any) -> Words:
        """Taken from a tokenizer of transformers."""
        names = (
            "backend_tokenizer",
            "special_tokens_map",
            "bos_token",
            "bos_token_id",
            "eos_token",
            "eos_token_id",
        )
        return cls(*(getattr(tokenizer, name) for name in (*names, "unk_token", "unk_token_id")))


@dataclass(frozen=True, slots=True)
class Task:
    """All that the making of a source's shards depends on; it travels to each worker once."""

    source: Source
    format: DataFormat
    wanted: Wanted
    words: Words
    choice: Choice
    folder: Path

    def maker(self) -> Maker:
        """Ready to make shards."""
        opened = Opened(self.source, self.format, "", iter(()))
        template = ChatTemplate(self.words, self.choice)  # type: ignore[arg-type]
        return Maker(opened, self.wanted, template, self.words.bos_token_id)


class Worker:
    """One process. Not for several threads at once."""

    def __init__(self, task: bytes) -> None:
        environment = {**os.environ, "TOKENIZERS_PARALLELISM": "false", "OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(
            filter(None, [_package_root(), environment.get("PYTHONPATH")])
        )
        command = [sys.executable, "-m", "tunesmith.data.workers"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True
        )
        self._write(task)

    @property
    def pid(self) -> int:
        """The process."""
        return self._process.pid

    def _write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(len(data).to_bytes(8, "little") + data)
        self._process.stdin.flush()

    def do(self, job: Job, piece: Piece) -> Books:
        """Make, or only look at, one piece. Raises DataError where the process died."""
        try:
            self._write(pickle.dumps((job, piece)))
            assert self._process.stdout is not None
            answer = pickle.loads(_read(self._process.stdout))
        except (OSError, EOFError) as error:
            code = self._process.wait()
            what = f"the process that tokenised it died ({_how(code)})"
            fix = "run again: it goes on where it stopped. Short of memory? TUNESMITH_WORKERS=1"
            raise DataError.at(piece.name, what, fix) from error
        if isinstance(answer, Books):
            return answer
        if isinstance(answer, OSError):
            raise answer
        if isinstance(answer, str):
            raise RuntimeError(f"in the process that tokenised {piece.name}:\n{answer}")
        raise DataError(answer)

    def end(self) -> None:
        """Let it go, at once."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with _quiet():
                    pipe.close()


class _quiet:
    def __enter__(self) -> None: ...

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> bool:
        return kind is not None and issubclass(kind, OSError)


def _how(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit code {code}"


def _package_root() -> str:
    return str(Path(__file__).parents[2])


def work(
    task: Task,
    pieces: Iterator[Piece],
    workers: int,
    job: Callable[[], Job],
    watch: Callable[[list[int]], None] = lambda pids: None,
) -> Iterator[tuple[Piece, Books]]:
    """Have each piece done, by `workers` processes; `job` is asked anew before each. Raises what a worker raised.

    No more pieces are taken than are being worked on.
    """
    packed = pickle.dumps(task)
    give_back()
    started: list[Worker] = []
    mine = threading.local()

    def do(piece: Piece) -> tuple[Piece, Books]:
        if not hasattr(mine, "worker"):
            mine.worker = Worker(packed)
            started.append(mine.worker)
            watch([each.pid for each in started])
        return piece, mine.worker.do(job(), piece)

    pool = ThreadPoolExecutor(workers, "tokenising")
    try:
        running: set[Future[tuple[Piece, Books]]] = set()
        for piece in pieces:
            running.add(pool.submit(do, piece))
            if len(running) >= workers:
                done, running = wait(running, return_when=FIRST_COMPLETED)
                yield from (each.result() for each in done)
        while running:
            done, running = wait(running, return_when=FIRST_COMPLETED)
            yield from (each.result() for each in done)
    finally:
        for worker in started:
            worker.end()
        pool.shutdown(cancel_futures=True)


# --- in the worker ------------------------------------------------------------------------------------------


def _read(stream: IO[bytes]) -> bytes:
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError
    size = int.from_bytes(head, "little")
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def main() -> None:
    """Read a task, then pieces, until the caller is gone."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints does not disturb the answers
    large_blocks_apart()
    gc.freeze()
    gc.set_threshold(100_000)  # rows are made and dropped by the thousand; none is part of a cycle
    task: Task = pickle.loads(_read(sys.stdin.buffer))
    maker = task.maker()
    give_back()
    while True:
        try:
            job, piece = pickle.loads(_read(sys.stdin.buffer))
        except EOFError:
            return
        answer: Books | tuple[Problem, ...] | OSError | str
        try:
            answer = maker.scan(piece) if job == "scan" else maker.make(piece, task.folder)
        except UserError as error:
            answer = error.problems
        except OSError as error:  # the disk's
            answer = error
        except Exception:  # our fault: told by the caller, as if it had happened there
            answer = traceback.format_exc()
        data = pickle.dumps(answer)
        try:
            answers.write(len(data).to_bytes(8, "little") + data)
            answers.flush()
        except BrokenPipeError:  # the caller was killed; the shard is there for whoever comes next
            os._exit(0)
        give_back()


if __name__ == "__main__":
    main()
