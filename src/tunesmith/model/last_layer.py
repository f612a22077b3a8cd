"""The last layer where only some tokens need an output: queries, attention, o_proj and MLP of those alone.

    x [all] -> [asking; resting]      resting: norm -> k, v, and no further
                                      asking:  norm -> q, k, v -> attend to all -> o -> MLP -> [n d]
The layer is called as it is, twice: its cache argument takes keys and values from the first call into the second.
So norms, rotations, adapters and prefixes of every family take part without being known here.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from tunesmith.kernels.attention import Gather
from tunesmith.kernels.documents import LastLayer
from tunesmith.model.families import FAMILIES

CACHES = ("past_key_values", "layer_past")  # what attention modules call their cache
WATCHED = "tunesmith_watched"  # set on a model while somebody counts what each layer sees


def may_ask_less(lm: Any) -> bool:
    """Whether the last layer may compute a part of the tokens: a family that allows it, and nobody looks on."""
    family = FAMILIES[lm.config.model_type]
    layer = lm.get_submodule(family.layers)[-1]
    recomputed = getattr(layer, "gradient_checkpointing", False) and layer.training
    return not (family.keeps_width or recomputed or getattr(lm, WATCHED, False))


@contextmanager
def asking_at(lm: Any, last: LastLayer | None) -> Iterator[None]:
    """Within: the decoder's forward pass gives [1 n d], the tokens that ask. None: all, as ever."""
    if last is None:
        yield
        return
    family = FAMILIES[lm.config.model_type]
    layer = lm.get_submodule(family.layers)[-1]
    attention = layer.get_submodule(family.attention_out.rpartition(".")[0])
    known = inspect.signature(attention.forward).parameters
    name = next(word for word in CACHES if word in known)
    caches: list[Any] = []

    def with_cache(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        return args, {**kwargs, name: caches[-1]}

    def narrow(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        hidden, *others = args
        moved = Gather.apply(hidden.flatten(0, 1), last.order, last.back, last.back_real)[None]
        asking, resting = moved[:, : last.asking], moved[:, last.asking :]
        turned = {key: _moved(kwargs.get(key), last.order) for key in ("position_ids", "position_embeddings")}
        turned = {key: value for key, value in turned.items() if value is not None}
        caches.append(_Stopping())
        try:
            rest = {key: _part(value, last.asking, None) for key, value in turned.items()}
            module.forward(resting, *others, **{**kwargs, **rest})
        except _StoppedError as stopped:
            caches.append(_Joining(stopped.key, stopped.value))
        here = {key: _part(value, 0, last.asking) for key, value in turned.items()}
        return (asking, *others), {**kwargs, **here, "documents": last.documents}

    # first of all, so that a method's own hook (prefix tuning) finds this cache and puts its keys before it
    handles = [
        attention.register_forward_pre_hook(with_cache, with_kwargs=True, prepend=True),
        layer.register_forward_pre_hook(narrow, with_kwargs=True),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _moved(value: Any, order: Tensor) -> Any:
    """Positions [B T], or (cosine, sine) [B T D], in the layer's order: [1 T ...]."""
    if value is None:
        return None
    if isinstance(value, torch.Tensor):
        return value.flatten(0, 1).index_select(0, order)[None]
    return tuple(_moved(one, order) for one in value)


def _part(value: Any, begin: int, end: int | None) -> Any:
    if isinstance(value, torch.Tensor):
        return value[:, begin:end]
    return tuple(one[:, begin:end] for one in value)


class _StoppedError(Exception):
    """The resting tokens' keys and values are there; the rest of their layer is not computed."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value


class _Stopping:
    """A cache that takes keys and values, and ends the call."""

    asks_no_query = True

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Never returns."""
        raise _StoppedError(key, value)


class _Joining:
    """A cache that puts the resting tokens' keys and values behind those of the asking ones."""

    def __init__(self, key: Tensor, value: Tensor) -> None:
        self.key, self.value = key, value

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """key, value [1 H n D] -> [1 H T D]."""
        return torch.cat([key, self.key], 2), torch.cat([value, self.value], 2)
