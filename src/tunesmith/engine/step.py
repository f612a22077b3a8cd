"""One optimiser step: micro-batches -> gradient of the mean over the step's targets -> finite gate -> update.

Loss is the sum over learnt tokens divided by the step's count, so cutting a step into micro-batches changes nothing.
A step that is not finite, or does not fit, changes nothing either: no weight, no moment, no count.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from tunesmith.data.loader import Batch, batches
from tunesmith.data.samples import Sample
from tunesmith.engine.faults import visit
from tunesmith.errors import DoesNotFitError
from tunesmith.tuning.method import Hooks, TunedModel

SummedLoss = Callable[[nn.Module, Batch], Tensor]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What a step measured. micro_tokens is what finally fitted."""

    loss_nats: float
    grad_norm: float
    finite: bool
    micro_tokens: int


def take_step(
    tuned: TunedModel,
    optimizer: torch.optim.Optimizer,
    hooks: Hooks,
    summed_loss: SummedLoss,
    samples: Sequence[Sample],
    targets: int,
    *,
    number: int,
    micro_tokens: int,
    packing: bool,
    autocast: bool,
    grad_clip: float | None,
) -> StepResult:
    """Compute the step's gradient and, if all is finite, update. `number` counts from 1."""
    visit("step")
    loss, micro_tokens = _gradient(
        tuned, optimizer, hooks, summed_loss, samples, targets, micro_tokens, packing, autocast
    )
    parameters = [parameter for parameter in tuned.trainable.values() if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
    if visit("update"):
        norm = norm * math.nan
    finite = math.isfinite(loss) and bool(torch.isfinite(norm))
    if finite:
        if grad_clip is not None:
            torch.nn.utils.clip_grads_with_norm_(parameters, grad_clip, norm)
        hooks.before_step(number)
        optimizer.step()
        hooks.after_step(number)
    optimizer.zero_grad(set_to_none=True)
    return StepResult(loss, float(norm), finite, micro_tokens)


def _gradient(
    tuned: TunedModel,
    optimizer: torch.optim.Optimizer,
    hooks: Hooks,
    summed_loss: SummedLoss,
    samples: Sequence[Sample],
    targets: int,
    micro_tokens: int,
    packing: bool,
    autocast: bool,
) -> tuple[float, int]:
    """Accumulate the gradient over micro-batches; where memory runs out, begin again with smaller ones."""
    random_state = torch.get_rng_state()
    while True:
        try:
            return _accumulate(
                tuned, hooks, summed_loss, samples, targets, micro_tokens, packing, autocast
            ), micro_tokens
        except (torch.OutOfMemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            longest = max(samples, key=lambda sample: len(sample.input_ids))
            if micro_tokens <= len(longest.input_ids):
                raise DoesNotFitError.at(
                    longest.address,
                    f"out of memory with this sample alone ({len(longest.input_ids)} tokens)",
                    "lower data.max_length, set compute.checkpointing: full, or tune fewer parameters",
                ) from error
            micro_tokens = max(len(longest.input_ids), micro_tokens // 2)
        # outside the except block: the traceback would keep the failed graph's tensors alive
        optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(random_state)
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _accumulate(
    tuned: TunedModel,
    hooks: Hooks,
    summed_loss: SummedLoss,
    samples: Sequence[Sample],
    targets: int,
    micro_tokens: int,
    packing: bool,
    autocast: bool,
) -> float:
    device = next(iter(tuned.trainable.values())).device.type
    total = torch.zeros((), dtype=torch.float64)
    for batch in batches(samples, micro_tokens, packing):
        poisoned = visit("forward")
        with torch.autocast(device, dtype=torch.bfloat16, enabled=autocast):
            loss = summed_loss(tuned.model, hooks.on_batch(batch)) / targets
        if poisoned:
            loss = loss * math.nan
        visit("backward")
        loss.backward()
        total += loss.detach().cpu()
    penalty = hooks.extra_loss()
    if penalty is not None:
        penalty.backward()
        total += penalty.detach().cpu()
    return float(total)


def is_out_of_memory(error: Exception) -> bool:
    """CUDA has a class for it; the CPU allocator says it in words."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)
