"""Which tensors the Triton kernels take: on CUDA, in 16 or 32 bits, where Triton is installed."""

from __future__ import annotations

import importlib.util
from functools import cache

import torch
from torch import Tensor

NARROW = (torch.float32, torch.bfloat16, torch.float16)


@cache
def has_triton() -> bool:
    """Whether Triton is installed; importing it is left to those who call it."""
    return importlib.util.find_spec("triton") is not None


def takes(*tensors: Tensor) -> bool:
    """Whether all of these can be given to a Triton kernel, rows of neighbours."""
    return all(x.is_cuda and x.dtype in NARROW and x.stride(-1) == 1 for x in tensors) and has_triton()
