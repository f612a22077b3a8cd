"""Which tensors the Triton kernels take, and how a batch gets to a card without anybody waiting for it."""

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


def sent(x: Tensor, device: torch.device) -> Tensor:
    """The same there. To a card from page-locked memory: an ordinary copy waits until all is done that the card was
    told before, and then it stands idle while the next micro-batch is told."""
    if device.type != "cuda" or not x.is_cpu:
        return x.to(device)
    return x.pin_memory().to(device, non_blocking=True)
