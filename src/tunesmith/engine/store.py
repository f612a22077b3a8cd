"""The checkpoints of a run, each whole or absent: staged beside, flushed, renamed; then `latest` moves.

checkpoints/step-00000005/   one checkpoint
checkpoints/latest           the name of the newest; a hint only: the newest that verifies is resumed, by step
checkpoints/rewinds.json     ways back that were taken; checkpoints on a way that was given up are void
"""

from __future__ import annotations

import shutil
import threading
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from tunesmith.engine import checkpoint
from tunesmith.engine.checkpoint import Snapshot, verify
from tunesmith.engine.faults import visit
from tunesmith.engine.rescue import Rewind, rewind_from_json
from tunesmith.errors import CheckpointError
from tunesmith.folder import cause_of, flush_to_disk, read_json, remove, staged, write_atomically, write_json

TRIES = 3
WAIT_SECONDS = 0.2  # before the second try; four times as long before the third


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """Keeps the newest `keep` checkpoints, the one with the best held-out loss, and the newest good one."""

    folder: Path
    keep: int

    def save(self, snapshot: Snapshot, best_step: int | None) -> tuple[Path, int]:
        """Commit a snapshot; returns its folder and size in bytes. OSError leaves what was there untouched."""
        final = self.path(snapshot.step)
        if final.exists() and not verify(final):
            return final, _size(final)
        with staged(final) as staging:
            checkpoint.write(staging, snapshot)
            visit("save_rename")
        visit("save_latest")
        write_atomically(self.folder / "latest", final.name + "\n")
        flush_to_disk(self.folder)
        visit("save_rotate")
        self._rotate(final, best_step)
        return final, _size(final)

    def _rotate(self, newest: Path, best_step: int | None) -> None:
        """Delete older checkpoints, but only once the newest is known to be whole, and never the last good one."""
        if verify(newest):
            return
        kept = {*self.steps()[-self.keep :], best_step, self._newest_good()}
        for step in self.steps():
            if step not in kept:
                remove(self.path(step))

    def _newest_good(self) -> int | None:
        return next((step for step in reversed(self.steps()) if self.is_good(step)), None)

    def is_good(self, step: int) -> bool:
        """Whether steps were healthy when this checkpoint was made."""
        try:
            return bool(checkpoint.read_state(self.path(step)).get("good", True))
        except (OSError, ValueError, KeyError):
            return False

    def path(self, step: int) -> Path:
        """Where the checkpoint of a step is."""
        return self.folder / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps of all committed checkpoints, oldest first, whole or not."""
        names = [path.name for path in self.folder.glob("step-*") if path.name[5:].isdigit()]
        return sorted(int(name[5:]) for name in names)

    def whole(self) -> list[int]:
        """Steps of those that verify."""
        return [step for step in self.steps() if verify(self.path(step)) is None]

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that verifies, by step, and why newer ones were passed over."""
        passed_over: list[str] = []
        for step in reversed(self.steps()):
            path = self.path(step)
            fault = verify(path)
            if fault is None:
                return path, passed_over
            passed_over.append(f"{path.name}: {fault}")
        return None, passed_over

    # --- ways back ---

    def rewinds(self) -> list[Rewind]:
        """All that were taken, oldest first."""
        path = self.folder / "rewinds.json"
        try:
            return [rewind_from_json(value) for value in read_json(path)] if path.exists() else []
        except (ValueError, KeyError, TypeError) as error:
            what = f"cannot be read ({error}): which checkpoints are void is not known"
            raise CheckpointError.at(str(path), what, "put it back from a copy of the run folder") from error

    def go_back(self, rewind: Rewind) -> None:
        """Take a way back. From the moment it is written down, what lies beyond it is void, killed or not."""
        visit("go_back")
        write_json(self.folder / "rewinds.json", [asdict(one) for one in (*self.rewinds(), rewind)])
        visit("went_back")
        self.clear_void()

    def clear_void(self) -> None:
        """Delete checkpoints that lie on a way that was given up, and what killed processes left."""
        taken = self.rewinds()
        for step in self.steps():
            known = self._rewinds_known_to(step)
            if any(step > rewind.back_to for rewind in taken[known:]):
                remove(self.path(step))
        for rest in [*self.folder.glob(".trash-*"), *self.folder.glob(".staging-*")]:
            shutil.rmtree(rest, ignore_errors=True)

    def _rewinds_known_to(self, step: int) -> int:
        try:
            return int(checkpoint.read_state(self.path(step))["progress"]["watch"].get("rewinds", 0))
        except (OSError, ValueError, KeyError):
            return 0


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())


@dataclass(frozen=True, slots=True)
class Written:
    """How a write ended: a committed checkpoint, or an error."""

    step: int
    path: Path | None
    bytes: int
    seconds: float
    error: Exception | None = None


class Writer:
    """Writes checkpoints in a thread of its own, one at a time and in order; a process that ends takes it along."""

    def __init__(self, store: CheckpointStore) -> None:
        self._store = store
        self._thread: threading.Thread | None = None
        self._ended: list[Written] = []

    def write(self, snapshot: Snapshot, best_step: int | None, *, beside: bool) -> None:
        """Begin a write once the one before has ended; `beside` training, or here and now."""
        self.wait()
        if not beside:
            self._write(snapshot, best_step)
            return
        self._thread = threading.Thread(
            target=self._write, args=(snapshot, best_step), name="checkpoint", daemon=True
        )
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def ended(self) -> list[Written]:
        """Writes that ended since this was asked last."""
        if self._thread is not None and not self._thread.is_alive():
            self.wait()
        found, self._ended = self._ended, []
        return found

    def _write(self, snapshot: Snapshot, best_step: int | None) -> None:
        began = time.perf_counter()
        for number in range(1, TRIES + 1):
            try:
                path, size = self._store.save(snapshot, best_step)
            except Exception as error:
                if number < TRIES and cause_of(error) == "unsteady":
                    time.sleep(WAIT_SECONDS * 4 ** (number - 1))
                    continue
                written = Written(snapshot.step, None, 0, time.perf_counter() - began, error)
            else:
                written = Written(snapshot.step, path, size, time.perf_counter() - began)
            self._ended.append(written)
            return
