"""The output head and its cross-entropy, in chunks: the [T, V] matrix of logits never exists.

    hidden [n d] --chunk--> logits [c V] -> loss, and at once d loss/d hidden and d loss/d weight
The gradient is formed in the forward pass, so nothing is computed twice and a frozen head costs no weight gradient.
Loss and gradient equal torch.nn.functional.cross_entropy (tests, float64).

Shapes: n learnt tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CHUNK_ELEMENTS = 4_000_000  # logits of a chunk: 16 MB in fp32, within a last-level cache's reach


def rows_per_chunk(vocabulary: int) -> int:
    """Rows whose logits are made at once."""
    return max(16, CHUNK_ELEMENTS // vocabulary)


def token_losses(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each token in nats, without gradient. hidden [n d], weight [V d], targets [n] -> [n]."""
    rows = rows_per_chunk(weight.shape[0])
    with torch.no_grad():
        parts = [
            torch.nn.functional.cross_entropy(_logits(h, weight), t, reduction="none")
            for h, t in zip(hidden.split(rows), targets.split(rows))
        ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def summed_loss(hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
    """Sum of the tokens' cross-entropies in nats, with gradient. hidden [n d], weight [V d], targets [n] -> []."""
    if not torch.is_grad_enabled() or not (hidden.requires_grad or weight.requires_grad):
        return token_losses(hidden, weight, targets).sum()
    return _SummedLoss.apply(hidden, weight, targets)


def _logits(hidden: Tensor, weight: Tensor) -> Tensor:
    """Logits of a chunk, at least fp32 (float64 stays float64)."""
    logits = torch.nn.functional.linear(hidden, weight.to(hidden.dtype))
    return logits if logits.dtype == torch.float64 else logits.float()


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, targets: Tensor) -> Tensor:
        if torch.is_autocast_enabled(hidden.device.type):
            dtype = torch.get_autocast_dtype(hidden.device.type)
        else:
            dtype = hidden.dtype
        with torch.autocast(hidden.device.type, enabled=False):
            cast = weight.to(dtype)
            wide = torch.float64 if dtype == torch.float64 else torch.float32
            total = torch.zeros((), dtype=wide, device=hidden.device)
            grad_hidden = torch.empty_like(hidden)
            grad_weight = (
                torch.zeros(weight.shape, dtype=wide, device=weight.device)
                if ctx.needs_input_grad[1]
                else None
            )
            rows = rows_per_chunk(weight.shape[0])
            for begin in range(0, hidden.shape[0], rows):
                h, t = hidden[begin : begin + rows].to(dtype), targets[begin : begin + rows]
                logits = _logits(h, cast)
                norm = torch.logsumexp(logits, dim=1)
                total += (norm - logits.gather(1, t[:, None])[:, 0]).sum()
                # d loss / d logits = softmax - onehot, made in place of the logits
                grad = logits.sub_(norm[:, None]).exp_()
                grad[torch.arange(len(t), device=t.device), t] -= 1
                grad = grad.to(dtype)
                grad_hidden[begin : begin + rows] = grad @ cast
                if grad_weight is not None:
                    grad_weight.addmm_(grad.t().to(wide), h.to(wide))
        ctx.save_for_backward(grad_hidden, *([] if grad_weight is None else [grad_weight.to(weight.dtype)]))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, *grad_weight = ctx.saved_tensors
        scale = grads[0]
        return (
            grad_hidden * scale.to(grad_hidden.dtype),
            grad_weight[0] * scale if grad_weight else None,
            None,
        )
