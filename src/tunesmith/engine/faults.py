"""Injected faults for tests: TUNESMITH_FAULT=point:n:action makes the n-th visit of a point fail, exactly.

TUNESMITH_FAULT=save_rename:2:kill tunesmith train recipe.yaml
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

import torch

POINTS = (
    "step",  # before the batches of a step are computed
    "forward",  # before each micro-batch's forward
    "backward",  # before each micro-batch's backward
    "update",  # gradients complete, before the optimiser moves anything
    "stepped",  # after the optimiser, before the step is reported
    "evaluate",  # before a held-out loss
    "save_weights",  # before each write point of a checkpoint
    "save_optimizer",
    "save_state",
    "save_manifest",
    "save_rename",  # everything written, not yet visible
    "save_latest",  # visible, `latest` still points to the older one
    "save_rotate",  # before older checkpoints are deleted
)
ACTIONS = ("kill", "raise", "oom", "nan", "enospc")

_visits: Counter[str] = Counter()


def visit(point: str) -> bool:
    """Count a visit; fail if the environment asks for it here. Returns True where a NaN is asked for."""
    assert point in POINTS, point
    asked = os.environ.get("TUNESMITH_FAULT")
    if not asked:
        return False
    _visits[point] += 1
    where, number, action = asked.split(":")
    assert where in POINTS, where
    assert action in ACTIONS, action
    if where != point or _visits[point] != int(number):
        return False
    match action:
        case "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        case "raise":
            raise RuntimeError(f"injected fault at {asked}")
        case "oom":
            raise torch.OutOfMemoryError(f"injected out of memory at {asked}")
        case "enospc":
            raise OSError(errno.ENOSPC, f"injected: {os.strerror(errno.ENOSPC)}")
    return True


def forget_visits() -> None:
    """Start counting anew (tests run several runs in one process)."""
    _visits.clear()
