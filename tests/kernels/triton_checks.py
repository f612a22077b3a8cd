"""Run by test_triton.py in a process of its own, with TRITON_INTERPRET=1: prints one JSON object, name -> verdict."""

from __future__ import annotations

import json
from collections.abc import Callable

import torch
from torch import Tensor

from tunesmith.kernels import head, triton_head, triton_nf4
from tunesmith.kernels.nf4 import dequantise


def quantised(shape: tuple[int, int], kind: str, double: bool) -> Tensor:
    from bitsandbytes.nn import Params4bit

    torch.manual_seed(0)
    weight = Params4bit(torch.randn(shape), requires_grad=False, quant_type=kind, compress_statistics=double)
    return weight.to("cpu")


def widened(
    shape: tuple[int, int], kind: str = "nf4", double: bool = False, dtype: torch.dtype = torch.float32
) -> str:
    weight = quantised(shape, kind, double)
    ours, theirs = triton_nf4.dequantise(weight, dtype), dequantise(weight, dtype)
    return (
        "equal"
        if ours.dtype == theirs.dtype and torch.equal(ours, theirs)
        else f"{(ours - theirs).abs().max()}"
    )


def table(bits: int = 4) -> str:
    """A table's rows by the kernel, as on a card, and in plain torch."""
    from tunesmith.kernels.tables import Table

    torch.manual_seed(4)
    held = Table.of(torch.randn(50, 192), bits)
    plain = held.rows(slice(3, 40), torch.float16)
    codes, scales = held.codes[3:40], held.scales[3:40]
    ours = triton_nf4.widen(codes.reshape(-1), held.levels, scales.reshape(-1), 64, torch.float16)
    return (
        "equal" if torch.equal(ours.view(37, 192), plain) else f"{(ours.view(37, 192) - plain).abs().max()}"
    )


def scored(
    dtype: torch.dtype = torch.float32, scale: float = 1.0, softcap: float | None = None, weighted: bool = False,
    z_loss: float = 0.0,
) -> str:  # fmt: skip
    torch.manual_seed(1)
    raw = (torch.randn(7, 1000) * 3).to(dtype)
    targets = torch.randint(0, 1000, (7,))
    weights = torch.rand(7) * 2 if weighted else None
    exact = raw.double().requires_grad_()
    z = exact * scale
    z = z if softcap is None else softcap * torch.tanh(z / softcap)
    norm = torch.logsumexp(z, 1)
    losses = norm - z.gather(1, targets[:, None])[:, 0] + z_loss * norm**2
    losses = losses if weights is None else losses * weights
    losses.sum().backward()
    got = triton_head.loss_and_gradient(raw, targets, weights, scale, softcap, z_loss)
    assert exact.grad is not None
    tolerance = 1e-5 if dtype == torch.float32 else 4e-3
    apart = ((got - losses).abs().max() / losses.abs().max()).item()
    slopes = ((raw.double() - exact.grad).norm() / exact.grad.norm()).item()
    return "equal" if apart < 1e-5 and slopes < tolerance else f"losses {apart}, gradients {slopes}"


def summed() -> str:
    """The head as a whole with and without the kernel, a trained weight included."""
    torch.manual_seed(2)
    hidden, weight = torch.randn(40, 16), torch.randn(300, 16)
    targets, weights = torch.randint(0, 300, (40,)), torch.rand(40)
    results = []
    for fused in (False, True):
        head.fused = (lambda logits: True) if fused else (lambda logits: False)
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
        bias = torch.zeros(300, requires_grad=True)
        loss = head.summed_loss(h, head.Head(w, bias, 0.7, 5.0), targets, weights, 1e-3)
        (loss / 3).backward()
        results.append([loss.detach(), h.grad, w.grad, bias.grad])
    worst = max(((a - b).norm() / a.norm()).item() for a, b in zip(*results))
    return "equal" if worst < 1e-5 else f"{worst}"


CHECKS: dict[str, Callable[[], str]] = {
    "nf4": lambda: widened((64, 96)),
    "nf4_double_quant": lambda: widened((320, 256), double=True),
    "fp4": lambda: widened((64, 96), "fp4", double=True),
    # the interpreter cuts fp32 to bf16 where a card rounds: 16 bits are compared in fp16
    "nf4_fp16": lambda: widened((64, 96), double=True, dtype=torch.float16),
    "nf4_uneven": lambda: widened((7, 33), double=True),
    "table": table,
    "head": scored,
    "head_bf16": lambda: scored(torch.bfloat16),
    "head_capped": lambda: scored(softcap=4.0, scale=0.5),
    "head_weighted": lambda: scored(weighted=True),
    "head_z_loss": lambda: scored(z_loss=1e-2),
    "head_all": lambda: scored(torch.bfloat16, 0.25, 6.0, True, 1e-2),
    "summed_loss": summed,
}

if __name__ == "__main__":
    print(json.dumps({name: check() for name, check in CHECKS.items()}))
