"""bitsandbytes' paged AdamW, on CUDA only: moments that move to the host's memory when the card is full.

arXiv:2305.14314, section 3. The driver does the moving; all that is needed here is to make it and to resume it.
"""

from __future__ import annotations

from typing import Any

import torch

from tunesmith.model import bitsandbytes_alone

_PAGED = ("state1", "state2")


def make_paged(
    groups: list[dict[str, Any]], betas: tuple[float, float], eps: float, *, eight_bit: bool
) -> torch.optim.Optimizer:
    """Moments in fp32, or in 8 bits as bitsandbytes has them."""
    bitsandbytes_alone.load()
    from bitsandbytes.optim import PagedAdamW, PagedAdamW8bit

    made: Any = (PagedAdamW8bit if eight_bit else PagedAdamW)(groups, lr=0.0, betas=betas, eps=eps)
    return made


def page_again(optimizer: torch.optim.Optimizer) -> None:
    """After a restore: what a checkpoint gave back goes where bitsandbytes wants it. Others are left alone."""
    given: Any = optimizer
    if not hasattr(given, "get_state_buffer"):
        return
    for parameter, state in given.state.items():
        state["step"] = int(state["step"])
        for name in _PAGED:
            buffer = given.get_state_buffer(parameter, dtype=state[name].dtype)
            buffer.copy_(state[name])
            state[name] = buffer
