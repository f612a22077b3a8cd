"""AdamW whose moments are bf16, each rounded at random to one of its two neighbours, so that its mean is right.

    fp32 bits  s eeeeeeee mmmmmmm mmmmmmmmmmmmmmmm  + 16 random bits, then the lower half is cut off
                          bf16    ^ the share of draws that carry into the upper half is what was cut off
To the nearest, v would stand still for ever: beta2 = 0.999 moves it by a thousandth a step, and bf16 numbers are four
to eight thousandths apart. At random it follows; its root is 0.2% too small in the mean, with a standard
deviation of 2.8%, and an update is off by 0.3% of its size (tests). Weights stay fp32. Bytes a parameter: 4.
"""

from __future__ import annotations

from typing import final

import torch
from torch import Tensor

from tunesmith.engine.small_adam import Moments, SmallAdamW

_LOWER, _UPPER = 0xFFFF, -0x10000


@final
class AdamWbf16(SmallAdamW):
    """Both moments in bf16, of every parameter."""

    def first_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """Two bf16 numbers for each of the parameter's."""
        return {name: torch.zeros_like(parameter, dtype=torch.bfloat16) for name in ("exp_avg", "exp_avg_sq")}

    def moments(self, state: dict[str, Tensor], cut: slice, seed: int) -> Moments:
        """A view of both."""
        return _Half(state["exp_avg"].view(-1)[cut], state["exp_avg_sq"].view(-1)[cut], seed)


class _Half:
    """Some numbers of both moments, in bf16."""

    def __init__(self, m: Tensor, v: Tensor, seed: int) -> None:
        self.m, self.v, self.seed = m, v, seed

    def wide(self) -> tuple[Tensor, Tensor]:
        return self.m.float(), self.v.float()

    def keep(self, first: Tensor, second: Tensor) -> None:
        generator = torch.Generator(device=first.device).manual_seed(self.seed)
        # one draw of 32 bits for both: half of it for each
        bits = torch.empty(first.shape, dtype=torch.int32, device=first.device)
        bits.random_(-(2**31), 2**31, generator=generator)
        self.m.copy_(one_of_two(first, bits & _LOWER))
        self.v.copy_(one_of_two(second, (bits >> 16) & _LOWER))


def one_of_two(values: Tensor, chance: Tensor) -> Tensor:
    """The neighbour towards 0 or away from it, whose mean over `chance`, whole numbers below 65536, is the value.

    Float32, Int32 -> BFloat16, of one shape. What bf16 holds exactly stays as it is, 0 too.
    """
    return ((values.view(torch.int32) + chance) & _UPPER).view(torch.float32).bfloat16()
