"""AdamW whose moments are held in less than fp32: made wide a piece at a time, moved, and kept small again.

    held m, v --wide--> fp32 m, v --one step of AdamW (arXiv:1711.05101)--> weights moved, m and v --keep--> held
How they are held is for adam8.py (a byte) and adam16.py (two).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor

# Numbers made wide at once: what a core's cache holds; on a card larger ones, for each piece starts its operators anew.
PIECE, PIECE_ON_CARD = 2**18, 2**22


class Moments(Protocol):
    """The two moments of a piece of a parameter."""

    def wide(self) -> tuple[Tensor, Tensor]:
        """In fp32, flat; they are changed in place."""
        ...

    def keep(self, first: Tensor, second: Tensor) -> None:
        """Hold what they have become."""
        ...


@dataclass(frozen=True, slots=True)
class Due:
    """A parameter that is to move. count: its steps, from 1; seed: of what is drawn for it in this one."""

    parameter: Tensor
    gradient: Tensor
    state: dict[str, Tensor]
    group: dict[str, Any]
    count: int
    seed: int

    @property
    def kept(self) -> float:
        """What a weight keeps of itself."""
        return float(1 - self.group["lr"] * self.group["weight_decay"])


class SmallAdamW(torch.optim.Optimizer):
    """AdamW with decoupled decay; `lr` is set at each step. What is drawn, is drawn from seeds of step and place,
    never from torch's own state: a resumed run draws the same."""

    def __init__(self, groups: list[dict[str, Any]], betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": 0.0, "betas": betas, "eps": eps, "weight_decay": 0.0})

    @abstractmethod
    def first_state(self, parameter: Tensor) -> dict[str, Tensor]:
        """Zero moments, as tensors that a checkpoint holds as they are."""

    @abstractmethod
    def moments(self, state: dict[str, Tensor], cut: slice, seed: int) -> Moments:
        """Those of the numbers in `cut` of the flat parameter."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Move every parameter that has a gradient."""
        assert closure is None
        place = 0
        for group in self.param_groups:
            for parameter in group["params"]:
                place += 1
                if parameter.grad is not None:
                    self._move(parameter, parameter.grad, group, place)

    def _move(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any], place: int) -> None:
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros(())
            state.update(self.first_state(parameter))
        # a restore puts it beside the parameter; on the processor, reading it makes no card wait
        state["step"] = state["step"].cpu() + 1
        count = int(state["step"])
        self.update(Due(parameter, gradient, state, group, count, (count * 1_000_003 + place) * 1_000_003))

    def update(self, due: Due) -> None:
        """Move it, a piece after the other."""
        state, group, count, (beta1, beta2) = due.state, due.group, due.count, due.group["betas"]
        due.parameter.mul_(due.kept)
        flat, gradient = due.parameter.view(-1), due.gradient.float().reshape(-1)
        size = PIECE if flat.device.type == "cpu" else PIECE_ON_CARD
        for number, begin in enumerate(range(0, len(flat), size)):
            cut = slice(begin, min(begin + size, len(flat)))
            moments = self.moments(state, cut, due.seed + number)
            grad = gradient[cut]
            first, second = moments.wide()
            first.lerp_(grad, 1 - beta1)
            second.mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
            spread = (second / (1 - beta2**count)).sqrt_().add_(group["eps"])
            flat[cut].addcdiv_(first, spread, value=-group["lr"] / (1 - beta1**count))
            moments.keep(first, second)
