"""Injected faults for tests: TUNESMITH_FAULT=point:n:action makes the n-th visit of a point fail, exactly.

TUNESMITH_FAULT=save_rename:2:kill tunesmith train recipe.yaml        several are parted by commas
"""

from __future__ import annotations

import errno
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable, Mapping
from functools import partial

POINTS = (
    "prepared",  # the plan is made, the run folder is not
    "before",  # before the evaluation of the base
    "tuned",  # the method has prepared the model, the loop has not begun
    "trunk",  # before a block of the frozen layers' outputs is computed
    "step",  # before the batches of a step are computed
    "forward",  # before each micro-batch's forward
    "backward",  # before each micro-batch's backward
    "update",  # gradients complete, before the optimiser moves anything
    "optimizer",  # within the optimiser, when part of the weights may have moved
    "stepped",  # after the optimiser, before the step is reported
    "evaluate",  # before a held-out loss
    "held_out",  # before each micro-batch of a held-out loss
    "go_back",  # a rewind is decided, nothing is written of it
    "went_back",  # it is written, nothing is restored
    "stream_row",  # the place behind a shard of a stream is written, the shard is not
    "stream_shard",  # the shard is there, nobody has been told
    "stream_window",  # a window of a stream is written down, nothing of it is learnt
    "stream_let_go",  # windows before the oldest checkpoint are let go, their shards are there
    "stream_remove",  # before a shard is removed
    "save_copy",  # before a checkpoint is copied in memory
    "save_weights",  # before each write point of a checkpoint
    "save_optimizer",
    "save_state",
    "save_manifest",
    "save_rename",  # everything written, not yet visible
    "save_latest",  # visible, `latest` still points to the older one
    "save_rotate",  # before older checkpoints are deleted
    "trained",  # the loop is over, before what was trained is written
    "kept",  # what was trained is written, not yet visible
    "after",  # before the evaluation of what was trained
    "report",  # before the report is written
    "stage",  # a stage of several is finished, nothing of the next begun
    "hand_over",  # before an adapter is merged for the next stage
    "whole",  # every stage is finished, the report of all is not written
)


def _fail(code: int, asked: str) -> None:
    raise OSError(code, f"injected at {asked}: {os.strerror(code)}")


def _raise(asked: str) -> None:
    raise RuntimeError(f"injected fault at {asked}")


def _no_memory(asked: str) -> None:
    import torch

    raise torch.OutOfMemoryError(f"injected out of memory at {asked}")


def _signal(number: int, asked: str) -> None:
    os.kill(os.getpid(), number)


HANG_SECONDS = 2.0
ACTIONS: Mapping[str, Callable[[str], object]] = {
    "kill": partial(_signal, signal.SIGKILL),
    "raise": _raise,
    "oom": _no_memory,
    "enospc": partial(_fail, errno.ENOSPC),
    "eio": partial(_fail, errno.EIO),
    "erofs": partial(_fail, errno.EROFS),
    "int": partial(_signal, signal.SIGINT),
    "term": partial(_signal, signal.SIGTERM),
    "hup": partial(_signal, signal.SIGHUP),
    "hang": lambda asked: time.sleep(HANG_SECONDS),
}
FACTORS: Mapping[str, float] = {"nan": math.nan, "spike": 10.0}

_visits: Counter[str] = Counter()


def visit(point: str) -> float:
    """Count a visit; fail if the environment asks for it here.

    Returns what a loss or norm at this point is to be multiplied by: 1, or NaN or 10 where that is asked for.
    """
    assert point in POINTS, point
    asked = os.environ.get("TUNESMITH_FAULT")
    if not asked:
        return 1.0
    _visits[point] += 1
    factor = 1.0
    for one in asked.split(","):
        where, number, action = one.split(":")
        assert where in POINTS, where
        assert action in ACTIONS or action in FACTORS, action
        if where == point and _visits[point] == int(number):
            factor *= FACTORS.get(action, 1.0)
            if action in ACTIONS:
                ACTIONS[action](one)
    return factor


def forget_visits() -> None:
    """Start counting anew (tests run several runs in one process)."""
    _visits.clear()
