"""Checkpoints that are whole or absent: staged beside, summed, flushed, renamed; then `latest` moves.

    checkpoints/step-00000005/ weights.safetensors optimizer.safetensors state.json manifest.json
    checkpoints/latest         the name of the newest; a hint only: the newest that verifies is resumed
safetensors and JSON alone: nothing is ever unpickled.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.engine.faults import visit
from tunesmith.engine.paged import page_again
from tunesmith.errors import CheckpointError
from tunesmith.folder import let_read, write_atomically

SCHEMA = 1
RANDOM, METHOD = "random_state", "method|"  # beside the optimiser's own tensors
WEIGHTS, OPTIMIZER, STATE, MANIFEST = (
    "weights.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything exact resume needs. Tensors are those of the live objects until they are written."""

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    method: Mapping[str, Tensor]
    random_state: Tensor
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class CheckpointStore:
    """The checkpoints of a run; keeps the newest `keep`, and the best one where a best is asked for."""

    folder: Path
    keep: int

    def save(self, snapshot: Snapshot, best_step: int | None) -> tuple[Path, int]:
        """Commit a snapshot; returns its folder and size in bytes. OSError leaves what was there untouched."""
        final = self.folder / f"step-{snapshot.step:08d}"
        if final.exists() and not verify(final):
            return final, _size(final)
        staging = self.folder / f".staging-{final.name}"
        shutil.rmtree(staging, ignore_errors=True)
        try:
            staging.mkdir(parents=True)
            _write(staging, snapshot)
            visit("save_rename")
            if final.exists():
                shutil.rmtree(final)
            os.replace(staging, final)
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        _flush(self.folder)
        visit("save_latest")
        write_atomically(self.folder / "latest", final.name + "\n")
        visit("save_rotate")
        self._rotate(final, best_step)
        return final, _size(final)

    def _rotate(self, newest: Path, best_step: int | None) -> None:
        """Delete older checkpoints, but only once the newest is known to be whole."""
        if verify(newest):
            return
        kept = set(self.steps()[-self.keep :]) | {best_step}
        for step in self.steps():
            if step not in kept:
                shutil.rmtree(self.folder / f"step-{step:08d}", ignore_errors=True)

    def steps(self) -> list[int]:
        """Steps of all committed checkpoints, oldest first, whole or not."""
        names = [path.name for path in self.folder.glob("step-*") if path.name[5:].isdigit()]
        return sorted(int(name[5:]) for name in names)

    def newest(self) -> tuple[Path | None, list[str]]:
        """The newest checkpoint that verifies, by step, and why newer ones were passed over."""
        passed_over: list[str] = []
        for step in reversed(self.steps()):
            path = self.folder / f"step-{step:08d}"
            fault = verify(path)
            if fault is None:
                return path, passed_over
            passed_over.append(f"{path.name}: {fault}")
        return None, passed_over


def _write(staging: Path, snapshot: Snapshot) -> None:
    visit("save_weights")
    save_file(_plain(snapshot.weights), staging / WEIGHTS)
    visit("save_optimizer")
    kept = {**snapshot.optimizer, RANDOM: snapshot.random_state}
    kept |= {f"{METHOD}{name}": tensor for name, tensor in snapshot.method.items()}
    save_file(_plain(kept), staging / OPTIMIZER)
    visit("save_state")
    state = {"schema": SCHEMA, "step": snapshot.step, **snapshot.state}
    (staging / STATE).write_text(json.dumps(state, indent=1, allow_nan=False), encoding="utf-8")
    visit("save_manifest")
    sums = {name: _sha256(staging / name) for name in (WEIGHTS, OPTIMIZER, STATE)}
    (staging / MANIFEST).write_text(
        json.dumps({"schema": SCHEMA, "sha256": sums}, indent=1), encoding="utf-8"
    )
    let_read(staging)
    for path in staging.iterdir():
        _flush(path)
    _flush(staging)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def verify(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, or None where every file is what the manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sums = manifest["sha256"]
        if manifest["schema"] != SCHEMA:
            return f"written by another version (schema {manifest['schema']})"
        for name in (WEIGHTS, OPTIMIZER, STATE):
            if _sha256(folder / name) != sums[name]:
                return f"{name} is not what was written (sha256 differs)"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{MANIFEST} cannot be read ({error})"
    return None


def read(folder: Path) -> Snapshot:
    """A verified checkpoint's content."""
    state = json.loads((folder / STATE).read_text(encoding="utf-8"))
    tensors = load_file(folder / OPTIMIZER)
    random_state = tensors.pop(RANDOM)
    method = {name: tensors.pop(name) for name in list(tensors) if name.startswith(METHOD)}
    return Snapshot(
        state["step"],
        load_file(folder / WEIGHTS),
        tensors,
        {name.removeprefix(METHOD): tensor for name, tensor in method.items()},
        random_state,
        state,
    )


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter]
) -> dict[str, Tensor]:
    """The optimiser's state as tensors named `parameter|entry`."""
    names = {id(parameter): name for name, parameter in trainable.items()}
    return {
        f"{names[id(parameter)]}|{entry}": torch.as_tensor(value)
        for parameter, entries in optimizer.state.items()
        for entry, value in entries.items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, trainable: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put saved state back, bit for bit."""
    optimizer.state.clear()
    for key, tensor in tensors.items():
        name, _, entry = key.rpartition("|")
        parameter = trainable[name]
        # fused AdamW keeps its step count beside the parameter
        optimizer.state[parameter][entry] = tensor.to(parameter.device).clone()
    page_again(optimizer)


def restore_weights(
    trainable: Mapping[str, nn.Parameter], weights: Mapping[str, Tensor], where: Path
) -> None:
    """Put saved weights back. Raises CheckpointError where they do not fit."""
    if set(weights) != set(trainable) or any(weights[n].shape != p.shape for n, p in trainable.items()):
        raise CheckpointError.at(
            str(where),
            "holds other parameters than this recipe trains",
            "resume with the recipe it was made with",
        )
    with torch.no_grad():
        for name, parameter in trainable.items():
            parameter.copy_(weights[name])


def is_disk_full(error: OSError | Exception) -> bool:
    """Whether an error of a write means that the disk (or quota) is full; safetensors gives text, not a number."""
    full = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
    return (
        getattr(error, "errno", None) in full or "os error 28" in str(error) or "No space left" in str(error)
    )


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.iterdir())
