"""What the tests of AdamW in 8 and in 16 bits share: one parameter and its optimiser, and two whole stories."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from tunesmith.engine.checkpoint import optimizer_tensors, restore_optimizer
from tunesmith.engine.optim import make_optimizer, set_rate
from tunesmith.tuning.method import ParameterGroup

BETAS = (0.9, 0.999)
Made = tuple[nn.Parameter, torch.optim.Optimizer]


def made(begin: Tensor, kind: str, decay: float = 0.0, lr: float = 1e-2) -> Made:
    parameter = nn.Parameter(begin.clone())
    optimizer = make_optimizer([ParameterGroup((parameter,), decay)], BETAS, kind)
    set_rate(optimizer, lr)
    return parameter, optimizer


def take(parameter: nn.Parameter, optimizer: torch.optim.Optimizer, gradients: Iterable[Tensor]) -> None:
    for gradient in gradients:
        parameter.grad = gradient.clone()
        optimizer.step()


def loss_of_a_small_problem(kind: str) -> float:
    """Logistic regression with inputs of four orders of magnitude, after 300 steps."""
    torch.manual_seed(1)
    inputs = torch.randn(512, 64) * torch.logspace(-2, 2, 64)
    labels = (inputs @ (torch.randn(64, 80) / torch.logspace(-2, 2, 64)[:, None])).argmax(dim=1)
    weight, optimizer = made(torch.zeros(64, 80), kind, decay=0.01)
    for step in range(300):
        rows = slice(step % 4 * 128, step % 4 * 128 + 128)
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(inputs[rows] @ weight, labels[rows]).backward()
        optimizer.step()
    return torch.nn.functional.cross_entropy(inputs @ weight, labels).item()


def straight_and_resumed(kind: str) -> tuple[Made, Made]:
    """Six steps, and three that another optimiser takes up from what a checkpoint keeps."""
    torch.manual_seed(4)
    begin, gradients = torch.randn(80, 60), [torch.randn(80, 60) for _ in range(6)]
    straight, whole = made(begin, kind)
    before = torch.random.get_rng_state()
    take(straight, whole, gradients)
    assert torch.equal(torch.random.get_rng_state(), before), "draws from torch's own random state"
    broken, stopped = made(begin, kind)
    take(broken, stopped, gradients[:3])
    kept = {name: value.clone() for name, value in optimizer_tensors(stopped, {"w": broken}).items()}
    resumed, after = made(broken.detach(), kind)
    restore_optimizer(after, {"w": resumed}, kept)
    torch.manual_seed(99)
    if "paged" in kind:  # bitsandbytes counts in whole numbers; mutation tried: page_again left out
        assert type(after.state[resumed]["step"]) is int
    take(resumed, after, gradients[3:])
    return (straight, whole), (resumed, after)
