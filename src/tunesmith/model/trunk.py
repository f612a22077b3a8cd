"""The trunk: embedding and decoder layers below the first that learns. What they make of a row never changes.

    ids -> [embedding, layer 0 .. k-1] -> states -> [layer k .. L-1, norm, head] -> loss
             once, `entering`              kept       every time, `standing_in`
The layers are called by the model's own forward pass: those of the trunk give the kept states and compute nothing.
So rotations, masks by layer, scales of the embedding and adapters above take part without being known here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tunesmith.data.cache import code_hash
from tunesmith.kernels.card import sent
from tunesmith.kernels.documents import documents_on
from tunesmith.model.families import FAMILIES
from tunesmith.model.tables import HeldEmbedding

if TYPE_CHECKING:
    from tunesmith.data.loader import Batch

DEPTH = "tunesmith_trunk"  # set on a model: how many of its layers stand in the trunk
GONE = "tunesmith_trunk_gone"  # set on a model whose trunk has no weights any more
# What numpy calls the numbers of a residual stream; it has no bf16.
STORED: Mapping[torch.dtype, str] = {
    torch.float32: "float32", torch.bfloat16: "int16", torch.float16: "float16", torch.float64: "float64",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Trunk:
    """The layers of a model that the states come from; `reason` says why there are none."""

    layers: int
    reason: str = ""


def find_trunk(model: nn.Module, lm: Any) -> Trunk:
    """How many layers stand below all that learns, draws or is looked at. Found in the model as it is prepared.

    The last layer is never among them: it alone knows which tokens need an output.
    """
    layers = _layers(lm)
    homes: dict[int, int] = {}
    for index, layer in enumerate(layers):
        homes.update(dict.fromkeys(map(id, layer.parameters()), index))
    last = len(layers) - 1
    family = FAMILIES[lm.config.model_type]
    behind = [
        lm.get_output_embeddings(),
        *([lm.get_submodule(family.final_norm)] if family.final_norm else []),
    ]
    before = {id(parameter) for parameter in lm.get_input_embeddings().parameters()}
    ends = {id(parameter) for module in behind for parameter in module.parameters()} - before
    lowest = last
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad or id(parameter) in ends:
            continue
        if id(parameter) not in homes:
            return Trunk(0, f"{name} trains, which every layer depends on")
        lowest = min(lowest, homes[id(parameter)])
    for index, layer in enumerate(layers[:lowest]):
        if reason := _not_constant(layer):
            return Trunk(index, f"layer {index} {reason}")
    return Trunk(lowest, "" if lowest else "the first layer trains")


def _not_constant(layer: nn.Module) -> str:
    """Why a layer without weights that train may say something else each time."""
    for module in layer.modules():
        if isinstance(module, nn.Dropout) and module.p > 0:
            return "has dropout"
        if module._forward_hooks or module._forward_pre_hooks:
            return "is looked at by a hook"
    return ""


def _layers(lm: Any) -> nn.ModuleList:
    found: nn.ModuleList = lm.get_submodule(FAMILIES[lm.config.model_type].layers)
    return found


class _ReachedError(Exception):
    """What enters the first layer above the trunk."""

    def __init__(self, states: Tensor) -> None:
        self.states = states


def entering(lm: Any, batch: Batch, depth: int) -> Tensor:
    """What enters layer `depth`: [B T d], without gradient. The layers from there on are not computed."""

    def reached(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        raise _ReachedError(args[0] if args else kwargs["hidden_states"])

    device = lm.device
    documents = documents_on(device, batch.segments)
    handle = _layers(lm)[depth].register_forward_pre_hook(reached, with_kwargs=True, prepend=True)
    try:
        with torch.no_grad():
            lm.base_model(
                input_ids=sent(batch.input_ids, device), position_ids=sent(batch.positions, device),
                use_cache=False, documents=documents,
            )  # fmt: skip
    except _ReachedError as stopped:
        return stopped.states.detach()
    finally:
        handle.remove()
    raise AssertionError(f"layer {depth} was not reached")


@contextmanager
def standing_in(lm: Any, states: Tensor | None) -> Iterator[dict[str, Tensor]]:
    """Within: the trunk's layers give `states` [B T d]. Yields what the decoder is called with in place of ids.

    None: the layers compute, as ever.
    """
    if states is None:
        assert not getattr(lm, GONE, False), "the trunk has no weights: each row must bring its states"
        yield {}
        return
    trunk = list(_layers(lm))[: getattr(lm, DEPTH)]
    states = sent(states, lm.device)

    def give(hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        return states

    own = [vars(layer).get("forward") for layer in trunk]
    for layer in trunk:
        layer.forward = give
    try:
        # the embedding is not looked up; what a family adds to it (GPT-2's places) is thrown away with it
        yield {"inputs_embeds": states.to(_gives(lm.get_input_embeddings()))}
    finally:
        for layer, before in zip(trunk, own):
            del layer.forward
            if before is not None:
                layer.forward = before


def _gives(embedding: Any) -> torch.dtype:
    """What an embedding's rows are made in."""
    dtype: torch.dtype = (embedding.like if isinstance(embedding, HeldEmbedding) else embedding.weight).dtype
    return dtype


# --- weights ---


def digest(lm: Any, depth: int) -> str:
    """sha256 of everything that the states depend on but the rows: config, weights of the trunk, our code, torch's."""
    import transformers

    config = {key: value for key, value in lm.config.to_dict().items() if not key.startswith("_")}
    parts = [repr(sorted(config.items())), str(depth), code_hash("model", "kernels")]
    parts += [torch.__version__, transformers.__version__]
    with ThreadPoolExecutor(max_workers=8) as pool:
        parts += pool.map(_hash, [tensor for _, tensor in _tensors(lm, depth)])
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _hash(tensor: Tensor) -> str:
    held = tensor.detach().to("cpu").contiguous()
    found = hashlib.sha256(repr((tuple(held.shape), held.dtype)).encode())
    found.update(held.reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()


def _tensors(lm: Any, depth: int) -> list[tuple[str, Tensor]]:
    """Weights of embedding (and places) and trunk; of a 4-bit one its scales, too."""
    family = FAMILIES[lm.config.model_type]
    names = [family.embedding, *([family.positions] if family.positions else [])]
    names += [f"{family.layers}.{index}" for index in range(depth)]
    found: list[tuple[str, Tensor]] = []
    embedding = lm.get_input_embeddings()
    if isinstance(embedding, HeldEmbedding):
        found += [(f"{family.embedding}.{part}", held) for part, held in embedding.table.tensors()]
    for name in names:
        for inner, parameter in lm.get_submodule(name).named_parameters():
            found.append((f"{name}.{inner}", parameter))
            state = getattr(parameter, "quant_state", None)
            if state is not None:
                scales = state.as_dict(packed=True)
                found += [(f"{name}.{inner}.{key}", value) for key, value in scales.items()]
    return found


def let_go(lm: Any, depth: int) -> list[str]:
    """Give the memory of the trunk's weights back; names of those that went. Shapes, dtypes and device stay.

    The embedding goes too, where the head is another table, unless it stands in few bits.
    """
    gone = []
    for name, parameter in _weights(lm, depth):
        parameter.data = _nothing(parameter.data)
        gone.append(name)
    setattr(lm, GONE, True)
    return gone


def take_back(lm: Any, fresh: Any, depth: int) -> None:
    """The trunk's weights from a model that was loaded anew; what it held there is taken out of it."""
    source = dict(fresh.named_parameters())
    for name, parameter in _weights(lm, depth):
        parameter.data = source[name].data.to(parameter.device)
    setattr(lm, GONE, False)


def _weights(lm: Any, depth: int) -> list[tuple[str, nn.Parameter]]:
    family = FAMILIES[lm.config.model_type]
    starts = tuple(f"{family.layers}.{index}." for index in range(depth))
    head = {id(parameter) for parameter in lm.get_output_embeddings().parameters()}
    return [
        (name, parameter)
        for name, parameter in lm.named_parameters()
        if name.startswith(starts) or (name == f"{family.embedding}.weight" and id(parameter) not in head)
    ]


def _nothing(data: Tensor) -> Tensor:
    """As large as `data` and without memory; whoever computes with it in spite of all gets no number."""
    fill = float("nan") if data.is_floating_point() else 0
    return data.new_full((1,), fill).expand(data.shape)
