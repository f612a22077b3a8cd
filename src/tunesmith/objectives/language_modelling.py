"""Next-token cross-entropy: the one loss of training, of held-out evaluation and of choice scoring.

summed_loss  sum of weight * nats over learnt tokens, with gradient; the engine divides by the step's weights
token_losses nats of each learnt token, without gradient
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor, nn

from tunesmith.model.forward import learnt

if TYPE_CHECKING:
    from tunesmith.data.loader import Batch


def summed_loss(model: nn.Module, batch: Batch, z_loss: float = 0.0) -> Tensor:
    """Sum of weighted cross-entropies in nats over the batch's targets, with gradient: []; z-loss added where asked."""
    return learnt(model, batch).summed_loss(z_loss)


def token_losses(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy in nats of each target, in the batch's flat order, without gradient: [n]."""
    return learnt(model, batch).token_losses()
