"""The output head and its cross-entropy, in chunks: the [T, V] matrix of logits never exists.

    hidden [n d] --chunk--> logits [c V] -> loss, and at once d loss/d hidden and d loss/d weight
    logits = cap(scale (hidden W^T + bias))      cap(z) = c tanh(z / c), where the family has one
    loss = sum of token_weight * (cross-entropy + z_loss * logsumexp(logits)^2)
           token_weight = 1, where none are given; z_loss (Chowdhery et al. 2022, arXiv:2204.02311, section 5) = 0
On a card a kernel makes a chunk's gradient in place (triton_head.py); else blocks of words are walked (running.py).
The gradient is formed in the forward pass, so nothing is computed twice and a frozen head costs no weight gradient.
Log-probabilities of single tokens, for objectives that weigh them later, are made by the same chunks.
Loss and gradient equal torch.nn.functional.cross_entropy (tests, float64).

Shapes: n learnt tokens, d hidden size, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.autocast import computed_in
from tunesmith.kernels.card import has_triton
from tunesmith.kernels.chunks import bytes_a_logit, first_rows, rows_per_chunk
from tunesmith.kernels.pages import empty, zeros
from tunesmith.kernels.product import add_mm, linear, mm
from tunesmith.kernels.running import (
    Gradients,
    Logits,
    losses_and_gradients,
    losses_and_slopes,
    shape_for,
    weigh,
)
from tunesmith.kernels.tables import Table


@dataclass(frozen=True, slots=True)
class Head:
    """A model's output head: weight [V d], perhaps in 8 or 4 bits, bias [V], and what its family does to logits.

    `learnt_rows`: (ids [n], rows [n d]) that stand in the frozen weight already and want its gradient there.
    """

    weight: Tensor | Table
    bias: Tensor | None = None
    scale: float = 1.0
    softcap: float | None = None
    learnt_rows: tuple[Tensor, Tensor] | None = None

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits as the model's own forward makes them, at least fp32 (float64 stays float64)."""
        return _cap(_raw(hidden, self.weight, self.bias, self.scale), self.softcap)


def _rows(hidden: Tensor, weight: Tensor | Table, dtype: torch.dtype, learns: bool = True) -> int:
    """Rows of a chunk, where products are computed in `dtype`."""
    alive = bytes_a_logit(dtype.itemsize, _fused_on(hidden, dtype), learns)
    return rows_per_chunk(weight.shape[0], _card_bytes(hidden.device), alive)


def _card_bytes(device: torch.device) -> int | None:
    return torch.cuda.get_device_properties(device).total_memory if device.type == "cuda" else None


def token_losses(hidden: Tensor, head: Head | Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each token in nats, without gradient. hidden [n d], targets [n] -> [n]."""
    head = head if isinstance(head, Head) else Head(head)
    if hidden.is_cpu:
        with torch.no_grad():
            losses, _ = _running(
                hidden, head.weight, head.bias, targets, head.scale, head.softcap, slopes=False
            )
        return losses
    rows = _rows(hidden, head.weight, computed_in(hidden), learns=False)
    with torch.no_grad():
        parts = [
            torch.nn.functional.cross_entropy(head.logits(h), t, reduction="none")
            for h, t in zip(hidden.split(rows), targets.split(rows))
        ]
    return torch.cat(parts) if parts else hidden.new_zeros(0, dtype=torch.float32)


def log_probabilities(hidden: Tensor, head: Head | Tensor, targets: Tensor) -> Tensor:
    """Log-probability of each token in nats, with gradient. hidden [n d], targets [n] -> [n].

    A head that trains is gone through again in the backward pass: how a token counts is known only then.
    """
    head = head if isinstance(head, Head) else Head(head)
    learns = [x for x in (hidden, head.weight, head.bias) if x is not None and x.requires_grad]
    if not torch.is_grad_enabled() or not learns:
        return -token_losses(hidden, head, targets)
    assert head.learnt_rows is None or not head.learnt_rows[1].requires_grad, "use summed_loss"
    losses: Tensor = _TokenLosses.apply(
        hidden, head.weight, head.bias, targets, head.scale, head.softcap, 0.0
    )
    return -losses


def summed_loss(
    hidden: Tensor,
    head: Head | Tensor,
    targets: Tensor,
    token_weights: Tensor | None = None,
    z_loss: float = 0.0,
) -> Tensor:
    """Sum of the tokens' cross-entropies in nats, each times its weight, with gradient (z_loss only with it).

    hidden [n d], targets [n], token_weights [n] -> []
    """
    head = head if isinstance(head, Head) else Head(head)
    ids, rows = head.learnt_rows or (None, None)
    learns = [x is not None and x.requires_grad for x in (hidden, head.weight, head.bias, rows)]
    if not torch.is_grad_enabled() or not any(learns):
        return weigh(token_losses(hidden, head, targets), token_weights).sum()
    if hidden.is_cpu and not any(learns[1:]):
        losses = _TokenLosses.apply(hidden, head.weight, head.bias, targets, head.scale, head.softcap, z_loss)
        return weigh(losses, token_weights).sum()
    return _SummedLoss.apply(
        hidden, head.weight, head.bias, rows, ids, targets, token_weights, head.scale, head.softcap, z_loss
    )


def _raw(hidden: Tensor, weight: Tensor | Table, bias: Tensor | None, scale: float) -> Tensor:
    """Logits before the cap."""
    return _widened(product(hidden, _cast(weight, hidden.dtype), bias), scale)


def _cast(weight: Tensor | Table, dtype: torch.dtype) -> Tensor | Table:
    """A weight to multiply with; one in few bits is made wide where it is used."""
    return weight if isinstance(weight, Table) else weight.to(dtype)


def product(hidden: Tensor, weight: Tensor | Table, bias: Tensor | None = None) -> Tensor:
    """hidden W^T + bias, in the dtype of hidden; of a table piece by piece, without gradient. [n d] -> [n V]."""
    bias = None if bias is None else bias.to(hidden.dtype)
    if not isinstance(weight, Table):
        return linear(hidden, weight, bias)
    out = hidden.new_empty(len(hidden), weight.shape[0])
    with torch.no_grad():
        for piece in weight.pieces():
            torch.mm(hidden.detach(), weight.rows(piece, hidden.dtype).t(), out=out[:, piece])
    return out if bias is None else out.add_(bias)


def _product_back(grad: Tensor, weight: Tensor | Table) -> Tensor:
    """grad W: [n V] -> [n d]; of a table the sum of its pieces, in at least fp32."""
    if not isinstance(weight, Table):
        return mm(grad, weight)
    wide = torch.float64 if grad.dtype == torch.float64 else torch.float32
    total = torch.zeros(len(grad), weight.width, dtype=wide, device=grad.device)
    for piece in weight.pieces():
        total += grad[:, piece] @ weight.rows(piece, grad.dtype)
    return total


def _widened(logits: Tensor, scale: float) -> Tensor:
    """At least fp32, and scaled."""
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return logits if scale == 1.0 else logits * scale


def _cap(logits: Tensor, softcap: float | None) -> Tensor:
    return logits if softcap is None else torch.tanh(logits / softcap) * softcap


def _add_product(total: Tensor, slopes: Tensor, hidden: Tensor) -> None:
    """total += slopes hidden, in the dtype of the total: [V d], [V n], [n d].

    On a card products of 16 bits are summed in 32 by the matrix units; a product in 32 takes ten times as long.
    """
    if total.is_cuda and hidden.dtype != total.dtype:
        torch.addmm(total, slopes, hidden, out_dtype=total.dtype, out=total)
        return
    add_mm(total, slopes.to(total.dtype), hidden.to(total.dtype))


class _SummedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | Table,
        bias: Tensor | None,
        rows: Tensor | None,
        ids: Tensor | None,
        targets: Tensor,
        token_weights: Tensor | None,
        scale: float,
        softcap: float | None,
        z_loss: float,
    ) -> Tensor:
        dtype = computed_in(hidden)
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        fused = _fused_on(hidden, dtype)
        place = zeros if fused or not len(hidden) else empty
        grad_weight, grad_bias, grad_rows = (
            make(x.shape, wide, x.device) if needed and x is not None else None
            for make, x, needed in zip((place, place, zeros), (weight, bias, rows), ctx.needs_input_grad[1:4])
        )
        grad_hidden = torch.empty_like(hidden) if fused else torch.zeros_like(hidden, dtype=wide)
        into = Gradients(grad_hidden, grad_weight, grad_bias, grad_rows, ids)
        total, chunk = torch.zeros((), dtype=wide, device=hidden.device), _rows(hidden, weight, dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            logits = Logits(_cast(weight, dtype) if fused else weight, bias, scale, softcap)
            waits = hidden.is_cpu and grad_weight is not None
            ahead = first_rows(chunk, weight.shape[1]) if waits else chunk
            for some in _parts(len(hidden), ahead, chunk):
                h, w = hidden[some].to(dtype), None if token_weights is None else token_weights[some]
                total += _add(fused, h, logits, targets[some], w, z_loss, into, some)
        kept = [
            g.to(x.dtype) if g is not None and isinstance(x, Tensor) else None
            for g, x in zip((grad_weight, grad_bias, grad_rows), (weight, bias, rows))
        ]
        ctx.save_for_backward(grad_hidden.to(hidden.dtype), *kept)
        ctx.given = False
        return total

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if ctx.given:
            raise RuntimeError("gradients of the head are given away as they are: once for a forward pass")
        ctx.given = True
        grad_hidden, *kept = ctx.saved_tensors
        scale = grads[0]
        # in place: no second table beside the first
        weight, bias, rows = (g if g is None else g.mul_(scale) for g in kept)
        return grad_hidden * scale.to(grad_hidden.dtype), weight, bias, rows, *[None] * 6


def _parts(count: int, first: int, others: int) -> Iterator[slice]:
    """All rows, so many at a time."""
    ends = [0, *range(min(first, count), count, others), count]
    return (slice(begin, end) for begin, end in pairwise(ends) if begin < end)


def _add(
    fused: bool,
    hidden: Tensor,
    logits: Logits,
    targets: Tensor,
    token_weights: Tensor | None,
    z_loss: float,
    into: Gradients,
    some: slice,
) -> Tensor:
    """The summed loss of some tokens, by one kernel or by blocks of words; gradients go into `into`. hidden [c d]."""
    if not fused:
        words = shape_for(hidden, logits.weight.shape[0])[1]
        mine, first = replace(into, hidden=into.hidden[some]), some.start == 0
        return losses_and_gradients(hidden, logits, targets, token_weights, z_loss, words, mine, first).sum()
    loss, grad = _fused(hidden, logits, targets, token_weights, z_loss)
    if into.bias is not None:
        into.bias.add_(grad.sum(0, dtype=into.bias.dtype))
    into.hidden[some] = _product_back(grad, logits.weight)
    if into.rows is not None:
        _add_product(into.rows, grad[:, into.ids].t(), hidden)
    if into.weight is not None:
        _add_product(into.weight, grad.t(), hidden)
    return loss.sum()


class _TokenLosses(torch.autograd.Function):
    """Each token's loss; d loss_i / d hidden_i is kept, and takes the token's own factor in the backward pass."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor | Table,
        bias: Tensor | None,
        targets: Tensor,
        scale: float,
        softcap: float | None,
        z_loss: float,
    ) -> Tensor:
        trains, dtype = any(ctx.needs_input_grad[1:3]), computed_in(hidden)
        assert not (trains and z_loss), "use summed_loss"
        ctx.scale, ctx.softcap, ctx.dtype = scale, softcap, dtype
        kept = (hidden, weight, bias, targets) if trains else ()
        if not _fused_on(hidden, dtype):
            each, slopes = _running(hidden, weight, bias, targets, scale, softcap, z_loss)
            ctx.save_for_backward(slopes, *kept)
            return each
        losses, slopes = [], torch.empty_like(hidden)
        with torch.autocast(hidden.device.type, enabled=False):
            logits, chunk = Logits(_cast(weight, dtype), bias, scale, softcap), _rows(hidden, weight, dtype)
            for begin in range(0, hidden.shape[0], chunk):
                some = slice(begin, begin + chunk)
                loss, grad = _fused(hidden[some].to(dtype), logits, targets[some], None, z_loss)
                losses.append(loss)
                slopes[some] = _product_back(grad, logits.weight)
                del grad  # or it would live beside the logits of the next chunk
        ctx.save_for_backward(slopes, *kept)
        return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        slopes, *rest = ctx.saved_tensors
        grad_hidden = slopes * grads[0][:, None].to(slopes.dtype)
        weight, bias = _again(ctx, grads[0], *rest) if rest else (None, None)
        return grad_hidden, weight, bias, None, None, None, None


def _running(
    hidden: Tensor, weight: Tensor | Table, bias: Tensor | None, targets: Tensor, *more: Any, **options: Any
) -> tuple[Tensor, Any]:
    """running.losses_and_slopes in the dtype that products are computed in."""
    given = hidden.to(computed_in(hidden))
    with torch.autocast(hidden.device.type, enabled=False):
        losses, slopes = losses_and_slopes(given, weight, bias, targets, *more, **options)
    return losses, None if slopes is None else slopes.to(hidden.dtype)


def _again(
    ctx: Any, factors: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, targets: Tensor
) -> tuple[Tensor, Tensor | None]:
    """Gradients of a head that trains, now that each token's factor is known."""
    with torch.enable_grad():
        weight = weight.detach().requires_grad_()
        bias = None if bias is None else bias.detach().requires_grad_()
        again = Head(weight, bias, ctx.scale, ctx.softcap)
        with torch.autocast(hidden.device.type, ctx.dtype, enabled=ctx.dtype != hidden.dtype):
            summed_loss(hidden.detach(), again, targets, factors).backward()
    assert weight.grad is not None
    return weight.grad, None if bias is None else bias.grad


def _fused_on(place: Tensor, dtype: torch.dtype) -> bool:
    return place.is_cuda and dtype != torch.float64 and has_triton()


def _fused(
    hidden: Tensor, logits: Logits, targets: Tensor, token_weights: Tensor | None, z_loss: float
) -> tuple[Tensor, Tensor]:
    """A chunk's losses, each weighted, and their derivative by hidden W^T + bias, in place of the logits."""
    from tunesmith.kernels import triton_head

    made = product(hidden, logits.weight, logits.bias)
    scale, softcap = logits.scale, logits.softcap
    return triton_head.loss_and_gradient(made, targets, token_weights, scale, softcap, z_loss), made
