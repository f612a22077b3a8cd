"""Which dtype autocast chooses, asked in one place by all nodes: it does not reach into what they do by themselves."""

from __future__ import annotations

import torch
from torch import Tensor


def computed_in(x: Tensor, otherwise: torch.dtype | None = None) -> torch.dtype:
    """Autocast's dtype on the device of x; where it is off `otherwise`, or that of x."""
    device = x.device.type
    if torch.is_autocast_enabled(device):
        return torch.get_autocast_dtype(device)
    return otherwise or x.dtype
