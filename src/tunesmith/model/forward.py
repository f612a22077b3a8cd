"""The one forward pass: hidden states of a packed batch at the positions where something is learnt.

batch -> decoder (packed attention) -> hidden [B T d] -> gather learnt -> [n d], head weight [V d]
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tunesmith.kernels.attention import group_documents

if TYPE_CHECKING:
    from tunesmith.data.loader import Batch


def causal_lm(model: nn.Module) -> Any:
    """The transformers causal LM inside a model that may be wrapped by PEFT."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else model


def learnt_hidden(model: nn.Module, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Hidden states where a target is: hidden [n d], head weight [V d], targets [n], in the batch's flat order."""
    lm = causal_lm(model)
    device = lm.device
    documents = group_documents(batch.segments)
    if device.type != "cpu":
        documents = documents.to(device)
    learnt = torch.nonzero(batch.labels.reshape(-1) >= 0)[:, 0]
    hidden = lm.model(
        input_ids=batch.input_ids.to(device),
        position_ids=batch.positions.to(device),
        use_cache=False,
        documents=documents,
    ).last_hidden_state
    hidden = hidden.reshape(-1, hidden.shape[-1]).index_select(0, learnt.to(device))
    return hidden, lm.get_output_embeddings().weight, batch.labels.reshape(-1)[learnt].to(device)
