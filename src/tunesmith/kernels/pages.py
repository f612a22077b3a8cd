"""A large table in large pages: a new gradient of a vocabulary costs a page fault for each 4 KiB, else.

152,064 words of 512 numbers are 297 MiB, 76,000 faults: in a virtual machine a tenth of a step (docs/log.md).
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor

LEAST = 2**25  # bytes: what is smaller the C library takes from memory that it had before
HUGE = 2**21  # bytes of a large page
_ADVICE = 14  # MADV_HUGEPAGE, linux/mman.h


def zeros(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch.zeros."""
    return empty(shape, dtype, device).zero_()


def empty(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """As torch.empty."""
    made = torch.empty(*shape, dtype=dtype, device=device)
    size = made.numel() * made.itemsize
    if made.is_cpu and size >= LEAST:
        first = -(-made.data_ptr() // HUGE) * HUGE
        _advise()(first, size - (first - made.data_ptr()), _ADVICE)  # refused: pages stay small
    return made


@cache
def _advise() -> Any:
    """madvise(2); nothing but on Linux."""
    if sys.platform != "linux":
        return lambda *_: -1
    found = ctypes.CDLL(None).madvise
    found.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
    return found
