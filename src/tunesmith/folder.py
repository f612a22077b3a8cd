"""The run folder: every file name of a run is spelt here and nowhere else.

runs/my-run/ recipe.yaml plan.json environment.json ledger.json ledger.rows.jsonl events.jsonl
             checkpoints/step-00000005/ checkpoints/latest adapter/ | model/ exports/FORM/
             answers/ tracking/ report.json report.md
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import FolderError


@dataclass(frozen=True, slots=True)
class RunFolder:
    """Paths of one run. Movable: nothing inside refers to where the folder stands."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The recipe as it was run, aliases expanded."""
        return self.path / "recipe.yaml"

    @property
    def plan(self) -> Path:
        """The forecast."""
        return self.path / "plan.json"

    @property
    def environment(self) -> Path:
        """Versions, threads, device and fingerprints that exact resume compares."""
        return self.path / "environment.json"

    @property
    def ledger(self) -> Path:
        """Totals of what became of each row."""
        return self.path / "ledger.json"

    @property
    def ledger_rows(self) -> Path:
        """One line a touched row."""
        return self.path / "ledger.rows.jsonl"

    @property
    def events(self) -> Path:
        """One line an event."""
        return self.path / "events.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Holds step-00000005/ folders and `latest`."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """What was trained, when it is less than the model."""
        return self.path / "adapter"

    @property
    def model(self) -> Path:
        """The whole trained model (full tuning)."""
        return self.path / "model"

    @property
    def report(self) -> Path:
        """Scores, forgetting, ledger, plan against measurement."""
        return self.path / "report.json"

    @property
    def report_text(self) -> Path:
        """The same for a person."""
        return self.path / "report.md"

    @property
    def answers(self) -> Path:
        """Raw outputs of evaluations, one file each."""
        return self.path / "answers"

    @property
    def tracking(self) -> Path:
        """What trackers keep here: a folder, a log and a memory each."""
        return self.path / "tracking"

    def export(self, form: str) -> Path:
        """Where an export of this form goes."""
        return self.path / "exports" / form

    def require_new(self) -> None:
        """Refuse a folder that already holds something; nothing is touched, so it may be asked early."""
        if self.path.exists() and any(self.path.iterdir() if self.path.is_dir() else [self.path]):
            raise FolderError.at(
                str(self.path),
                "the output folder already exists and is not empty",
                f"go on with it: tunesmith train {self.recipe} --resume; or choose another: output=NEW",
            )

    def create(self) -> None:
        """Make the folder; an existing one with something in it is refused, never overwritten."""
        self.require_new()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise FolderError.at(
                str(self.path), f"cannot be created: {error.strerror}", "choose a writable output= folder"
            ) from error

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one writer; freed by the kernel when the process dies, however it dies."""
        with open(self.path / ".lock", "a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                file.seek(0)
                raise FolderError.at(
                    str(self.path),
                    f"another run is writing here (process {file.read().strip() or 'unknown'})",
                    "wait for it, stop it, or choose another output=",
                ) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield

    def is_locked(self) -> bool:
        """Whether a living process is writing here; asks without leaving a trace."""
        try:
            with open(self.path / ".lock") as file:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except FileNotFoundError:
            return False
        except OSError:
            return True
        return False


def open_run(path: str | Path) -> RunFolder:
    """The run folder at `path`, which must hold a recipe.yaml."""
    folder = RunFolder(Path(path))
    if not folder.recipe.is_file():
        raise FolderError.at(
            str(path), "is not a run folder (no recipe.yaml in it)", "see: tunesmith runs list"
        )
    return folder


def is_run(path: str | Path) -> bool:
    """Whether `path` is a run folder."""
    return RunFolder(Path(path)).recipe.is_file()


def let_read(path: Path) -> None:
    """Give a file, or all in a folder, the rights of the user's new files: mkstemp and safetensors make them 0600."""
    umask = os.umask(0)
    os.umask(umask)
    for file in (each for each in (path, *path.rglob("*")) if each.is_file()):
        os.chmod(file, 0o666 & ~umask)


def write_atomically(path: Path, text: str) -> None:
    """Write beside, flush to disk, rename: a reader sees the old text or the new, never a part."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        let_read(Path(name))
        os.replace(name, path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically; NaN and infinity are refused."""
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON document."""
    return json.loads(path.read_text(encoding="utf-8"))
