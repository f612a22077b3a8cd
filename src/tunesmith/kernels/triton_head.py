"""Cross-entropy over a chunk of logits and its gradient in their place, by one Triton program a row.

    pass 1    running maximum and sum of exponentials of z = cap(scale x)  (Milakov & Gimelshein 2018, arXiv:1805.02867)
    pass 2    x <- d loss / d x = w scale cap'(x) (more softmax(z) - onehot),  more = 1 + 2 z_loss logsumexp(z)
Logits stay in the dtype of the matrix product (bf16); all sums are fp32. The plain twin is head.py's own.
Runs on CUDA; on processors through Triton's interpreter alone (TRITON_INTERPRET=1), as the tests do.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

MOST_BLOCK = 32768


@triton.jit
def tanh(x):
    return 2.0 / (1.0 + tl.exp(-2.0 * x)) - 1.0


@triton.jit
def _loss_and_gradient(  # type: ignore[no-untyped-def]
    logits, stride, targets, token_weights, losses, vocabulary, scale, softcap, z_loss,
    capped: tl.constexpr, weighted: tl.constexpr, size: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    start = logits + row * stride
    target = tl.load(targets + row)
    most = -float("inf")
    total = 0.0
    hit = 0.0
    for begin in range(0, vocabulary, size):
        place = begin + tl.arange(0, size)
        z = tl.load(start + place, mask=place < vocabulary, other=-float("inf")).to(tl.float32) * scale
        if capped:
            z = tl.where(place < vocabulary, softcap * tanh(z / softcap), -float("inf"))
        hit += tl.sum(tl.where(place == target, z, 0.0))
        higher = tl.maximum(most, tl.max(z))
        total = total * tl.exp(most - higher) + tl.sum(tl.exp(z - higher))
        most = higher
    norm = most + tl.log(total)
    weight = tl.load(token_weights + row).to(tl.float32) if weighted else 1.0
    tl.store(losses + row, weight * (norm - hit + z_loss * norm * norm))
    more = 1.0 + 2.0 * z_loss * norm
    for begin in range(0, vocabulary, size):
        place = begin + tl.arange(0, size)
        z = tl.load(start + place, mask=place < vocabulary, other=-float("inf")).to(tl.float32) * scale
        slope = 1.0
        if capped:
            z = tl.where(place < vocabulary, softcap * tanh(z / softcap), -float("inf"))
            slope = tl.where(place < vocabulary, 1.0 - (z / softcap) * (z / softcap), 0.0)
        gradient = more * tl.exp(z - norm) - tl.where(place == target, 1.0, 0.0)
        gradient = weight * scale * slope * gradient
        tl.store(start + place, gradient.to(logits.dtype.element_ty), mask=place < vocabulary)


def loss_and_gradient(
    logits: Tensor,
    targets: Tensor,
    token_weights: Tensor | None,
    scale: float,
    softcap: float | None,
    z_loss: float,
) -> Tensor:
    """Losses in nats [n], each weighted; `logits` [n V], before scale and cap, become their own gradient."""
    assert logits.stride(1) == 1
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    if not len(logits):
        return losses
    _loss_and_gradient[(len(logits),)](
        logits, logits.stride(0), targets, losses if token_weights is None else token_weights, losses,
        logits.shape[1], float(scale), float(softcap or 1.0), float(z_loss),
        capped=softcap is not None, weighted=token_weights is not None,
        size=min(MOST_BLOCK, triton.next_power_of_2(logits.shape[1])), num_warps=16,
    )  # fmt: skip
    return losses
