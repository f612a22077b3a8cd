"""Between the loop and the disk: save, restore, go back; and what is done where the disk refuses.

save  -> copy in memory -> a thread writes -> [saved] or, at the next step, the error
go_back: a good checkpoint from before, with the window left out or a lower rate
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from tunesmith.engine import checkpoint
from tunesmith.engine.checkpoint import Snapshot
from tunesmith.engine.faults import visit
from tunesmith.engine.progress import Progress, progress_from_json
from tunesmith.engine.rescue import Judgement, Rewind, back
from tunesmith.engine.store import CheckpointStore, Writer, Written
from tunesmith.engine.world import free_bytes, random_state, set_random_state
from tunesmith.errors import CheckpointError, DiskFullError, FolderError, Problem, UserError
from tunesmith.events import Reporter, Rescued, Saved
from tunesmith.folder import cause_of
from tunesmith.model.memory import is_out_of_memory
from tunesmith.tuning.method import Hooks, TunedModel

# A copy may take this share of the memory that is free; a larger one is not made, and training waits for the disk.
COPY_SHARE = 0.5


class Keeper:
    """Holds what a run needs to be resumed: who learns, what the optimiser and the method remember.

    Without a store nothing is kept, and there is no way back.
    """

    def __init__(
        self,
        tuned: TunedModel,
        optimizer: torch.optim.Optimizer,
        hooks: Hooks,
        store: CheckpointStore | None,
        identity: dict[str, Any],
        reporter: Reporter,
    ) -> None:
        self.tuned, self.optimizer, self.hooks = tuned, optimizer, hooks
        self.store, self.identity, self.reporter = store, identity, reporter
        self.writer = Writer(store) if store is not None else None
        self.saved_step = 0

    # --- save ---

    def save(self, progress: Progress, *, must: bool) -> None:
        """Commit a checkpoint beside the training. `must`: wait for it, and raise where it cannot be had."""
        if self.writer is None:
            return
        if progress.step != self.saved_step:
            self.saved_step = progress.step
            self._begin(self.writer, progress, beside=not must)
        if must:
            self.writer.wait()
        self.settle(progress.step, must)

    def _begin(self, writer: Writer, progress: Progress, *, beside: bool) -> None:
        method = self.hooks.state_dict()
        values = {key: value for key, value in method.items() if not torch.is_tensor(value)}
        snapshot = Snapshot(
            progress.step,
            self.tuned.trainable,
            checkpoint.optimizer_tensors(self.optimizer, self.tuned.trainable),
            {key: value for key, value in method.items() if torch.is_tensor(value)},
            random_state(),
            {
                "progress": asdict(progress),
                "identity": self.identity,
                "method": values,
                "good": progress.watch.is_good,
            },
        )
        copied = _copy(snapshot) if beside else None
        writer.write(copied or snapshot, progress.best_step, beside=copied is not None)

    def settle(self, step: int, must: bool = False) -> None:
        """Hear of writes that ended: told, or, where it matters, raised."""
        for written in self.writer.ended() if self.writer is not None else ():
            if written.error is None:
                assert written.path is not None
                path = str(Path(*written.path.parts[-2:]))
                self.reporter.event(
                    Saved(step=written.step, path=path, bytes=written.bytes, seconds=written.seconds)
                )
                continue
            self.saved_step = min(self.saved_step, written.step - 1)
            self._answer(written, step, must and written.step == step)

    def finish(self) -> None:
        """Let a write that is under way come to its end."""
        if self.writer is not None:
            self.writer.wait()

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """A run that ends with an error lets its last write end well. (One that is stopped at once does not wait.)"""
        try:
            yield
        except Exception:
            self.finish()
            raise

    def _answer(self, written: Written, step: int, must: bool) -> None:
        """A checkpoint could not be written: the run goes on while the older ones stay, unless it was the last."""
        assert written.error is not None
        assert self.store is not None
        cause, where = cause_of(written.error), str(self.store.folder)
        if cause is None:
            raise written.error
        if must or cause == "gone":
            raise _refusal(cause, where) from written.error
        action = f"checkpoint of step {written.step} given up, the older ones stay"
        reason = cause if cause == "disk full" else f"{where} is {cause}: {written.error}"
        self.reporter.event(Rescued(step=step, reason=reason, action=action))

    # --- restore ---

    def restore(self, fresh: Progress, anyway: bool) -> tuple[Progress, str | None]:
        """Continue from the newest checkpoint that verifies; newer broken ones are named and left alone.

        Raises CheckpointError where there are checkpoints and none is whole, or they are of another run.
        """
        if self.store is None:
            return fresh, None
        self.store.folder.mkdir(exist_ok=True)
        self.store.clear_void()
        path, passed_over = self.store.newest()
        if path is None and passed_over:
            fix = "put the files back from a copy; or begin anew: output=NEW"
            raise CheckpointError([_broken(self.store.folder, fault, fix) for fault in passed_over])
        if path is None:
            return fresh, None
        for fault in passed_over:
            reason, action = f"checkpoint passed over: {fault}", f"resume from {path.name}"
            self.reporter.event(Rescued(step=0, reason=reason, action=action))
        return self._put_back(self.store, path, anyway), path.name

    def _put_back(self, store: CheckpointStore, path: Path, anyway: bool = True) -> Progress:
        snapshot = checkpoint.read(path)
        known = snapshot.state["identity"]
        changed = [key for key, value in self.identity.items() if known.get(key) != value]
        if changed and not anyway:
            raise CheckpointError.at(
                str(path),
                f"was made with another {', '.join(changed)}",
                "resume with what it was made with, add --resume-anyway, or start anew: output=NEW",
            )
        self.restore_weights(snapshot, path)
        checkpoint.restore_optimizer(self.optimizer, self.tuned.trainable, snapshot.optimizer)
        set_random_state(dict(snapshot.random_state))
        self.saved_step = snapshot.step
        progress = progress_from_json(snapshot.state["progress"])
        for rewind in store.rewinds()[progress.watch.rewinds :]:  # ways back that were taken since
            progress = replace(progress, watch=rewind.applied_to(progress.watch))
        return progress

    def restore_weights(self, snapshot: Snapshot, path: Path) -> None:
        """The method's state first: it may change which tensors there are."""
        self.hooks.load_state_dict({**snapshot.state["method"], **snapshot.method})
        checkpoint.restore_weights(self.tuned.trainable, snapshot.weights, path)

    def restore_best(self, step: int | None) -> None:
        """Only the weights, of the step that was best."""
        if self.store is not None and step is not None:
            path = self.store.path(step)
            self.restore_weights(checkpoint.read(path), path)

    # --- go back ---

    def go_back(self, judgement: Judgement, step: int, seconds: float) -> tuple[Progress, Rewind] | None:
        """To a good checkpoint from before what went wrong; None where there is none."""
        if self.store is None:
            return None
        self._wait(step)
        store = self.store
        rewind = back(judgement, step, [(at, store.is_good(at)) for at in store.whole()])
        if rewind is None:
            return None
        store.go_back(rewind)
        return replace(self._put_back(store, store.path(rewind.back_to)), seconds=seconds), rewind

    @property
    def has_checkpoints(self) -> bool:
        """Whether there is one to resume from."""
        return self.store is not None and bool(self.store.steps())

    def oldest(self, step: int) -> int:
        """The first step that the run may ever go back to, when it is at `step`."""
        return step if self.store is None else min(self.store.steps(), default=0)

    def newest(self, step: int) -> Progress | None:
        """Put the newest whole checkpoint back as it is."""
        if self.store is None:
            return None
        self._wait(step)
        path, _ = self.store.newest()
        return self._put_back(self.store, path) if path else None

    def _wait(self, step: int) -> None:
        self.finish()
        self.settle(step)


def _copy(snapshot: Snapshot) -> Snapshot | None:
    """The snapshot in memory of its own, where there is room for it."""
    room = free_bytes()
    if room is not None and snapshot.bytes > COPY_SHARE * room:
        return None
    try:
        visit("save_copy")
        return snapshot.copied()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        return None


def _refusal(cause: str, where: str) -> UserError:
    match cause:
        case "disk full":
            return DiskFullError.at(where, "no space for the checkpoint", "free space, then --resume")
        case "gone":
            what = "has gone since the run began (moved, deleted or unmounted?): nothing can be kept any more"
            fix = "put it back, then --resume: it goes on from the newest checkpoint in it"
            return FolderError.at(where, what, fix)
        case _:
            what, fix = (
                f"is {cause}: the checkpoint cannot be kept",
                "mend the disk or its rights, then --resume",
            )
            return FolderError.at(where, what, fix)


def _broken(folder: Path, fault: str, fix: str) -> Problem:
    name, _, what = fault.partition(": ")
    return Problem(str(folder / name), what, fix)
