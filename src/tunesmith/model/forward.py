"""The one forward pass: what a packed batch says at the positions where something is learnt.

known family   batch -> decoder (packed attention; its last layer only where something is learnt) -> [n d], and its head
               rows that bring states begin above the layers that never change (trunk.py)
any other      batch -> documents of equal length together, unpadded -> the model's own forward -> logits [n V]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tunesmith.kernels import attention, head
from tunesmith.kernels.card import sent
from tunesmith.kernels.documents import LastLayer, ask_only, documents_on, group_documents
from tunesmith.model.families import FAMILIES
from tunesmith.model.last_layer import WATCHED, asking_at, may_ask_less
from tunesmith.model.tables import HeldHead
from tunesmith.model.trunk import standing_in
from tunesmith.model.virtual import ids_before, lengthen

if TYPE_CHECKING:
    from tunesmith.data.loader import Batch


@dataclass(frozen=True, slots=True)
class Learnt:
    """The learnt positions of a batch, in its flat order. Without a head, `hidden` holds logits already."""

    hidden: Tensor  # Float[Tensor, "n d"], or [n V]
    head: head.Head | None
    targets: Tensor  # Int64[Tensor, "n"]
    weights: Tensor | None = None  # Float32[Tensor, "n"]; None where each target weighs 1

    def summed_loss(self, z_loss: float = 0.0) -> Tensor:
        """Sum of weighted cross-entropies in nats, with gradient: []; z_loss logsumexp(logits)^2 added to each."""
        if self.head is None:
            losses = _own_losses(self.hidden, self.targets)
            if z_loss:
                losses = losses + z_loss * self.hidden.to(losses.dtype).logsumexp(-1) ** 2
            return head.weigh(losses, self.weights).sum()
        return head.summed_loss(self.hidden, self.head, self.targets, self.weights, z_loss)

    def token_losses(self) -> Tensor:
        """Cross-entropy of each target in nats, without gradient: [n]."""
        if self.head is None:
            return _own_losses(self.hidden, self.targets).detach()
        return head.token_losses(self.hidden, self.head, self.targets)


def causal_lm(model: nn.Module) -> Any:
    """The transformers causal LM inside a model that may be wrapped by PEFT."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else model


def own_forward(lm: Any) -> bool:
    """Whether a model runs through its own forward: it was loaded without our attention."""
    return lm.config._attn_implementation != attention.NAME


def decoder_layers(lm: Any) -> tuple[str, nn.ModuleList]:
    """The list of decoder layers and its name, found by structure: the first list as long as the config says."""
    count = layer_count(lm.config)
    for name, module in lm.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    return "", nn.ModuleList()


def layer_count(config: Any) -> int | None:
    """How many decoder layers a config speaks of, as transformers or as remote code spells it."""
    found = (getattr(config, key, None) for key in ("num_hidden_layers", "num_layers", "n_layer", "n_layers"))
    return next((count for count in found if count), None)


def output_head(lm: Any) -> head.Head:
    """The head of a known family, with what the family does to logits."""
    module, family, config = lm.get_output_embeddings(), FAMILIES[lm.config.model_type], lm.config
    scale = 1.0
    if family.multiply:
        scale *= getattr(config, family.multiply)
    if family.divide:
        scale /= getattr(config, family.divide)
    softcap = getattr(config, family.softcap) if family.softcap else None
    weight = module.table if isinstance(module, HeldHead) else module.weight
    return head.Head(weight, module.bias, scale, softcap, getattr(module, "learnt_rows", None))


def learnt(model: nn.Module, batch: Batch, everywhere: bool = False) -> Learnt:
    """What the model says where a target is; `everywhere`: each layer computes all tokens, for who looks on."""
    lm, batch = causal_lm(model), lengthen(model, batch)
    if own_forward(lm):
        return _through_its_own_forward(lm, batch)
    places, targets, weights = _what_is_learnt(batch)
    chosen = torch.unique_consecutive(places)
    last = None
    if may_ask_less(lm) and not everywhere:
        last = ask_only(batch.segments, chosen, batch.parents)
    hidden = packed_hidden(lm, batch, last)
    hidden = hidden.reshape(-1, hidden.shape[-1])
    if last is not None:
        places = torch.searchsorted(chosen, places)
    if last is None or len(places) > len(chosen):
        hidden = hidden.index_select(0, sent(places, lm.device))
    weights = None if weights is None else sent(weights, lm.device)
    return Learnt(hidden, output_head(lm), sent(targets, lm.device), weights)


def _what_is_learnt(batch: Batch) -> tuple[Tensor, Tensor, Tensor | None]:
    """Flat place (rising), target and weight of each target, on the CPU."""
    if batch.learns is not None:
        return batch.learns
    labels = batch.labels.reshape(-1)
    places = torch.nonzero(labels >= 0)[:, 0]
    return places, labels[places], _weights_at(batch, places)


def may_fill(model: nn.Module) -> bool:
    """Whether a document may be added that teaches nothing: our own attention, each row's text as it is, and nobody
    who counts tokens."""
    lm = causal_lm(model)
    return not (own_forward(lm) or ids_before(model) or getattr(lm, WATCHED, False))


def drops(model: nn.Module) -> bool:
    """Whether anything in it drops at random in training: a walk through all its modules."""
    return any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules())


def packed_hidden(lm: Any, batch: Batch, last: LastLayer | None = None) -> Tensor:
    """Hidden states of a known family, before the head: Float[Tensor, "B T d"], or those that ask, [1 n d]."""
    device = lm.device
    documents = documents_on(device, batch.segments, batch.parents)
    if device.type != "cpu" and last is not None:
        last = last.to(device)
    with asking_at(lm, last), standing_in(lm, batch.states) as states:
        return lm.base_model(
            **(states or {"input_ids": sent(batch.input_ids, device)}),
            position_ids=sent(batch.positions, device),
            use_cache=False,
            documents=documents,
        ).last_hidden_state


def _through_its_own_forward(lm: Any, batch: Batch) -> Learnt:
    """Documents of equal length side by side: no padding, no mask, nothing one could see of another."""
    device = lm.device
    ids, labels = (sent(x, device).reshape(-1) for x in (batch.input_ids, batch.labels))
    documents = group_documents(batch.segments, shortest=1.0)
    sizes = [group.documents * group.asked for group in documents.groups]
    logits, places = [], []
    for group, slots in zip(documents.groups, documents.queries.to(device).split(sizes)):
        out = lm(input_ids=ids[slots].view(group.documents, group.length), use_cache=False).logits
        wanted = torch.nonzero(labels[slots] >= 0)[:, 0]
        logits.append(out.reshape(-1, out.shape[-1]).index_select(0, wanted))
        places.append(slots[wanted])
    if not logits:
        return Learnt(torch.zeros(0, 1, device=device), None, labels[:0])
    place = torch.cat(places)
    order = torch.argsort(place)
    place = place[order]
    return Learnt(torch.cat(logits).index_select(0, order), None, labels[place], _weights_at(batch, place))


def _weights_at(batch: Batch, places: Tensor) -> Tensor | None:
    return None if batch.weights is None else batch.weights.to(places.device).reshape(-1)[places]


def _own_losses(logits: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy of each row of logits, at least fp32."""
    wide = logits if logits.dtype == torch.float64 else logits.float()
    return torch.nn.functional.cross_entropy(wide, targets, reduction="none")
