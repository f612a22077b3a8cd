"""What a checkpoint holds, and its files: safetensors and JSON under a manifest of sha256 sums. Nothing is unpickled.

step-00000005/ weights.safetensors optimizer.safetensors state.json manifest.json
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.engine.faults import visit
from tunesmith.engine.paged import page_again
from tunesmith.errors import CheckpointError

SCHEMA = 2
READABLE = (1, 2)
RANDOM, METHOD = "random_state", "method|"  # beside the optimiser's own tensors
WEIGHTS, OPTIMIZER, STATE, MANIFEST = (
    "weights.safetensors",
    "optimizer.safetensors",
    "state.json",
    "manifest.json",
)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All that exact resume needs. Tensors are those of the live objects until they are copied or written."""

    step: int
    weights: Mapping[str, Tensor]
    optimizer: Mapping[str, Tensor]
    method: Mapping[str, Tensor]
    random_state: Mapping[str, Tensor]
    state: Mapping[str, Any]

    @property
    def bytes(self) -> int:
        """Size of its tensors."""
        parts = (self.weights, self.optimizer, self.method)
        return sum(tensor.nbytes for part in parts for tensor in part.values())

    def copied(self) -> Snapshot:
        """The same in memory of its own, on the processor: what training does next no longer changes it."""
        parts = (self.weights, self.optimizer, self.method)
        weights, optimizer, method = (
            {name: tensor.detach().to("cpu", copy=True).contiguous() for name, tensor in part.items()}
            for part in parts
        )
        return replace(self, weights=weights, optimizer=optimizer, method=method)


def write(folder: Path, snapshot: Snapshot) -> None:
    """Fill an empty folder. OSError (or safetensors' own, see `cause_of`) where the disk does not take it."""
    visit("save_weights")
    save_file(_plain(snapshot.weights), folder / WEIGHTS)
    visit("save_optimizer")
    kept = dict(snapshot.optimizer)
    kept |= {f"{RANDOM}|{name}": tensor for name, tensor in snapshot.random_state.items()}
    kept |= {f"{METHOD}{name}": tensor for name, tensor in snapshot.method.items()}
    save_file(_plain(kept), folder / OPTIMIZER)
    visit("save_state")
    state = {"schema": SCHEMA, "step": snapshot.step, **snapshot.state}
    (folder / STATE).write_text(json.dumps(state, indent=1, allow_nan=False), encoding="utf-8")
    visit("save_manifest")
    sums = {name: _sha256(folder / name) for name in (WEIGHTS, OPTIMIZER, STATE)}
    (folder / MANIFEST).write_text(json.dumps({"schema": SCHEMA, "sha256": sums}, indent=1), encoding="utf-8")


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def verify(folder: Path) -> str | None:
    """Why a checkpoint cannot be used, or None where every file is what the manifest says."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        sums = manifest["sha256"]
        if manifest["schema"] not in READABLE:
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
    """A verified checkpoint's content, of this schema or an older one."""
    state = read_state(folder)
    tensors = load_file(folder / OPTIMIZER)
    random = {key: tensors.pop(key) for key in list(tensors) if key.partition("|")[0] == RANDOM}
    method = {name: tensors.pop(name) for name in list(tensors) if name.startswith(METHOD)}
    return Snapshot(
        state["step"],
        load_file(folder / WEIGHTS),
        tensors,
        {name.removeprefix(METHOD): tensor for name, tensor in method.items()},
        {key.partition("|")[2] or "cpu": tensor for key, tensor in random.items()},
        state,
    )


def read_state(folder: Path) -> dict[str, Any]:
    """Its JSON part, as this version writes it."""
    state: dict[str, Any] = json.loads((folder / STATE).read_text(encoding="utf-8"))
    if state["schema"] == 1:  # before steps were watched: skipped ones were counted, evaluations always done
        bad = state["progress"].pop("bad_in_a_row")
        first = state["step"] - bad + 1
        state["progress"] |= {"evaluated_step": state["step"], "watch": {"bad": [*range(first, first + bad)]}}
    return state


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


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
