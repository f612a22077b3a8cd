"""The run folder: every file name of a run is spelt here and nowhere else.

runs/my-run/ recipe.yaml plan.json environment.json ledger.json ledger.rows.jsonl events.jsonl
             checkpoints/step-00000005/ checkpoints/latest stream/ adapter/ | model/ exports/FORM/
             answers/ tracking/ report.json report.md
A run in stages has stages.json and stages/01-NAME/, each a run folder by itself (a vocabulary: a model folder).
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shlex
import shutil
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.errors import DiskFullError, FolderError

RECIPES = (".yaml", ".yml")


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
    def stream(self) -> Path:
        """What of its streams a run may still need: shards, and the windows they are learnt in."""
        return self.path / "stream"

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

    @property
    def stage_list(self) -> Path:
        """The folders of the stages, in order, of a run that has any."""
        return self.path / "stages.json"

    @property
    def stages(self) -> tuple[RunFolder, ...]:
        """The stages in order; none of a plain run."""
        if not self.stage_list.is_file():
            return ()
        return tuple(RunFolder(self.path / name) for name in read_json(self.stage_list)["stages"])

    @property
    def last(self) -> RunFolder:
        """Where what was trained last lies: the last stage, or the run itself."""
        return next(reversed(self.stages), self)

    @property
    def stage_before(self) -> RunFolder | None:
        """Of a stage, the one it starts from; None of the first, and of a plain run."""
        siblings = self.whole.stages
        place = siblings.index(self) if self in siblings else 0
        return siblings[place - 1] if place else None

    @property
    def whole(self) -> RunFolder:
        """Of a stage, the run it is part of; else the run itself."""
        above = RunFolder(self.path.parent.parent)
        return above if self.path.parent.name == "stages" and above.stage_list.is_file() else self

    @property
    def resume_words(self) -> str:
        """The command that goes on with it, as a shell takes it."""
        return f"tunesmith train {shlex.quote(str(self.whole.recipe))} --resume"

    @property
    def handed_over(self) -> Path | None:
        """What the next stage starts from: the trained model, the merged one, or a vocabulary's; None until then."""
        places = (self.model, self.export("merged"), self.path)
        return next((place for place in places if (place / "config.json").is_file()), None)

    def export(self, form: str) -> Path:
        """Where an export of this form goes."""
        return self.path / "exports" / form

    def require_new(self) -> None:
        """Refuse a folder that already holds something; nothing is touched, so it may be asked early."""
        if self.path.exists() and (not self.path.is_dir() or self._holds_something()):
            fix = f"go on with it: {self.resume_words}; or choose another: output=NEW"
            raise FolderError.at(str(self.path), "the output folder already exists and is not empty", fix)
        there = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if path.exists())
        if not (there.is_dir() and os.access(there, os.W_OK | os.X_OK, effective_ids=True)):
            what = f"cannot be created: {there} is {'not writable' if there.is_dir() else 'no folder'}"
            raise FolderError.at(str(self.path), what, "choose a writable output= folder")

    def _holds_something(self) -> bool:
        """More than `create` and `lock` leave where the process is killed before a word of the run is written."""
        left = (".lock", self.checkpoints.name, self.stream.name)  # the last: what had left a pipe by then
        bare = [path for path in self.path.iterdir() if path.name not in left]
        return bool(bare) or (self.checkpoints.is_dir() and any(self.checkpoints.iterdir()))

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

    def require_space(self, needed_bytes: int) -> None:
        """Raise DiskFullError where the disk has less room than a run will take; what it took already counts."""
        there = next(path for path in (self.path.absolute(), *self.path.absolute().parents) if path.is_dir())
        taken = sum(path.stat().st_size for path in self.path.rglob("*") if path.is_file())
        free = shutil.disk_usage(there).free + taken
        if free < needed_bytes:
            what = f"needs about {needed_bytes / 2**30:.2f} GiB of disk, {free / 2**30:.2f} are free"
            fix = "free some space, lower checkpoint.keep, or set output= to a folder on another disk"
            raise DiskFullError.at(str(self.path), what, fix)

    @contextlib.contextmanager
    def staying(self) -> Iterator[None]:
        """Within, a file that is missing because the folder has gone is told as that. Raises FolderError."""
        try:
            yield
        except FileNotFoundError as error:
            if self.path.is_dir() and any(self.path.iterdir()):
                raise
            what, fix = (
                "has gone since the run began (moved, deleted or unmounted?)",
                "put it back, then --resume",
            )
            raise FolderError.at(str(self.path), what, fix) from error

    def reopen(self) -> None:
        """A finished run goes on: what was measured at its end is measured again."""
        self.report.unlink(missing_ok=True)
        self.forget_answers("after", "test")

    def forget_answers(self, *names: str) -> None:
        """Let these evaluations be done anew."""
        for name in names:
            for ending in ("json", "jsonl"):
                (self.answers / f"{name}.{ending}").unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for one writer; freed by the kernel when the process dies, however it dies."""
        try:
            file = open(self.path / ".lock", "a+")  # noqa: SIM115 (closed below, once it is known to be open)
        except OSError as error:
            what = f"cannot be written to: {error.strerror}"
            raise FolderError.at(
                str(self.path), what, "check its rights, or choose another output="
            ) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                file.seek(0)
                raise FolderError.at(
                    str(self.path),
                    f"another run is writing here (process {file.read().strip() or 'unknown'})",
                    "wait for it, stop it, or choose another output=",
                ) from error
            except OSError as error:
                what = f"this file system has no locks ({error.strerror}): two runs could write here at once"
                raise FolderError.at(str(self.path), what, "choose an output= on a local disk") from error
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
        what, fix = "is not a run folder (no recipe.yaml in it)", "see: tunesmith runs list"
        if folder.path.suffix in RECIPES and folder.path.is_file():
            what, fix = "is a recipe, not the run folder it led to", "give the folder that its output: names"
        elif (folder.path / "config.json").is_file():
            what, fix = "is a model folder, not a run folder", f"{fix}; a run folder holds recipe.yaml"
        raise FolderError.at(str(path), what, fix)
    return folder


def is_run(path: str | Path) -> bool:
    """Whether `path` is a run folder."""
    return RunFolder(Path(path)).recipe.is_file()


def let_read(path: Path) -> None:
    """Give a file, or a folder with all in it, the rights of the user's new ones: temporary ones are 0600 or 0700."""
    umask = os.umask(0)
    os.umask(umask)
    for each in (path, *path.rglob("*")):
        os.chmod(each, (0o777 if each.is_dir() else 0o666) & ~umask)


def write_atomically(path: Path, text: str) -> None:
    """Write beside, flush to disk, rename: a reader sees the old text or the new, never a part."""
    _write_beside(path, [text])


def write_lines(path: Path, lines: Iterable[str]) -> None:
    """The same with lines that need not all be held at once."""
    _write_beside(path, (line + "\n" for line in lines))


def _write_beside(path: Path, parts: Iterable[str]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.parent / f".{path.name}.{os.getpid()}.{threading.get_ident()}"  # one writer, one name
    try:
        with open(beside, "w", encoding="utf-8") as file:  # which obeys the user's umask, as mkstemp does not
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise


def flush_to_disk(path: Path) -> None:
    """fsync a file or a folder (whose entries survive a power cut only then)."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def put_in_place(staging: Path, final: Path) -> None:
    """A filled folder takes its name in one step; what had the name before is set aside first, then deleted."""
    rights = (
        staging.stat().st_mode & 0o666
    )  # the user's umask; asking for it by setting it is not for threads
    for path in [*staging.rglob("*"), staging]:
        if path.is_file():
            os.chmod(path, rights)  # safetensors gives 0600
        flush_to_disk(path)
    if final.exists():
        remove(final)
    os.rename(staging, final)
    flush_to_disk(final.parent)


@contextlib.contextmanager
def staged(final: Path) -> Iterator[Path]:
    """An empty folder to fill, which becomes `final` when the block ends well, and vanishes otherwise."""
    staging = final.parent / f".staging-{final.name}"
    shutil.rmtree(staging, ignore_errors=True)  # left by a process that was killed
    staging.mkdir()
    try:
        yield staging
        put_in_place(staging, final)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def remove(folder: Path) -> None:
    """Delete a folder so that nobody ever sees a part of it: first out of the way, then away."""
    aside = folder.parent / f".trash-{folder.name}"
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON document atomically; NaN and infinity are refused."""
    write_atomically(path, json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON document."""
    return json.loads(path.read_text(encoding="utf-8"))


# --- what a disk refuses ------------------------------------------------------------------------------------


_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_REFUSED = {errno.EACCES, errno.EPERM, errno.EROFS}
_GONE = {errno.ENOENT, errno.ENOTDIR, errno.ESTALE, errno.ENODEV}
_AGAIN = {errno.EIO, errno.EAGAIN, errno.EINTR, errno.ETIMEDOUT, errno.EBUSY}


def cause_of(error: BaseException) -> str | None:
    """Why a write failed: disk full, not writable, gone, unsteady (worth another try); None: not the disk's fault."""
    number = getattr(error, "errno", None)
    if number is None and (found := re.search(r"os error (\d+)", str(error))):
        number = int(found[1])  # safetensors gives text
    causes = {"disk full": _FULL, "not writable": _REFUSED, "gone": _GONE, "unsteady": _AGAIN}
    return next((cause for cause, numbers in causes.items() if number in numbers), None)


@contextlib.contextmanager
def writing(where: Path, what: str) -> Iterator[None]:
    """Within, a disk that has no room for `what`, or fails, is an answer. Raises DiskFullError or FolderError."""
    try:
        yield
    except OSError as error:
        place, fix = str(error.filename or where), "then go on: --resume"
        match cause_of(error):
            case "disk full":
                raise DiskFullError.at(
                    str(where), f"no space for {what}", f"free some space, {fix}"
                ) from error
            case "unsteady":
                told = f"cannot be read or written: {error.strerror}"
                raise FolderError.at(place, told, f"mend the disk, {fix}") from error
        raise


def cache_root() -> Path:
    """The folder of all caches: TUNESMITH_CACHE, else tunesmith/ in the user's own. RuntimeError: there is no home."""
    if asked := os.environ.get("TUNESMITH_CACHE"):
        return Path(asked).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base).expanduser() if base else Path.home() / ".cache") / "tunesmith"
