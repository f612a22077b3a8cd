"""What a layer of an unknown family keeps for its backward pass: one layer run under fake tensors, nothing computed.

config with one layer -> fake model -> forward at three lengths -> saved-tensor hooks -> fixed, a token, a pair
On fake cpu tensors: on meta, attention falls apart into products that keep all scores.
"""

from __future__ import annotations

import contextlib
import copy
import logging
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._pytree import tree_flatten
from transformers import AutoModelForCausalLM, masking_utils

from tunesmith.model.facts import Asked, Bytes, Kept
from tunesmith.model.forward import decoder_layers
from tunesmith.model.known import keep_answers, known_answers

_DOCUMENTS, _LENGTHS = 2, (16, 32, 64)


class Traced:
    """Answers what is kept, given what trains; None where this model cannot be traced. Answers are remembered."""

    def __init__(self, config: Any, remote_code: bool, file: Path | None = None) -> None:
        self.config, self.remote_code, self.file = config, remote_code, file
        self.models: dict[str, tuple[Any, FakeTensorMode]] = {}
        self.answers = known_answers(file)

    def __call__(self, asked: Asked) -> Kept | None:
        """Bytes kept in front of the layer, in it, for all layers together, and behind them."""
        if asked not in self.answers:
            said = logging.getLogger("torch._subclasses.fake_tensor")
            before = said.disabled
            try:
                said.disabled = True  # an operator that fails is answered here, not shown
                self.answers[asked] = self._trace(asked)
            except Exception:  # the model's own code, on tensors without values: anything may come
                self.answers[asked] = None
            finally:
                said.disabled = before
            keep_answers(self.file, self.answers)
        return self.answers[asked]

    def _trace(self, asked: Asked) -> Kept:
        dtype = torch.bfloat16 if asked.bf16 and not asked.wide else torch.float32
        lm, mode = self._model(dtype)
        layers = decoder_layers(lm)[1]
        with mode, _unpacked(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=asked.bf16):
            _let_train(lm, asked.trains, dtype)
            for linear in asked.adapted:
                layers[0].get_submodule(linear).weight.requires_grad_(True)
            found = [_count(lm, layers[0], length, asked) for length in _LENGTHS]
        return Kept(*(_fit([one[part] for one in found]) for part in range(4)))

    def _model(self, dtype: torch.dtype) -> tuple[Any, FakeTensorMode]:
        """The model with one layer, of fake tensors."""
        from tunesmith.model.load import without_dropout

        if str(dtype) not in self.models:
            mode = FakeTensorMode()
            with mode:
                lm = AutoModelForCausalLM.from_config(
                    _with_one_layer(self.config), dtype=dtype, trust_remote_code=self.remote_code
                )
            self.models[str(dtype)] = without_dropout(lm).train(), mode
        return self.models[str(dtype)]


def _let_train(lm: nn.Module, names: frozenset[str], dtype: torch.dtype) -> None:
    """These weights train, in fp32; the others stand as they are stored."""
    named = {id(weight): name for name, weight in lm.named_parameters()}
    made: dict[int, nn.Parameter] = {}
    for module in lm.modules():
        for name, weight in module._parameters.items():
            if weight is None:
                continue
            trains = named[id(weight)] in names
            if id(weight) not in made:
                wanted = torch.float32 if trains else dtype
                made[id(weight)] = (
                    weight if weight.dtype == wanted else nn.Parameter(torch.empty_like(weight, dtype=wanted))
                )
            made[id(weight)].requires_grad_(trains)
            module._parameters[name] = made[id(weight)]


def _with_one_layer(config: Any) -> Any:
    """A copy of the config that says so, in whatever words it has for it."""
    config = copy.deepcopy(config)
    count = None
    for name in ("num_hidden_layers", "num_layers", "n_layer", "n_layers"):
        if getattr(config, name, None):
            count = count or getattr(config, name)
            if isinstance(getattr(config, "layer_types", None), list):
                config.layer_types = config.layer_types[:1]
            setattr(config, name, 1)
    if count is None:
        raise ValueError("no number of layers")
    return config


def _count(lm: Any, layer: nn.Module, length: int, asked: Asked) -> tuple[int, int, int, int]:
    """Bytes of storages kept by a forward: before the layer, in it, of what all layers are handed, after it."""
    own = {_storage(tensor) for tensor in (*lm.parameters(), *lm.buffers())}
    handed: set[int] = set()
    place = 0
    kept: weakref.WeakSet[_Held] = weakref.WeakSet()  # what goes with its node before the end does not count

    def hold(tensor: Tensor) -> _Held:
        found = _Held(tensor.detach(), place)
        kept.add(found)
        return found

    def enter(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        nonlocal place
        place = 1
        hidden = args[0] if args else kwargs["hidden_states"]
        handed.update(_storage(t) for t in tree_flatten((args, kwargs))[0] if isinstance(t, Tensor))
        handed.discard(_storage(hidden))
        alive.append(hidden)  # as is the graph that leads here
        hidden = hidden.detach().requires_grad_(asked.reached)
        return ((hidden, *args[1:]), kwargs) if args else (args, {**kwargs, "hidden_states": hidden})

    def leave(_: nn.Module, __: Any, out: Any) -> Any:
        nonlocal place
        place = 2
        hidden, rest = (out, None) if isinstance(out, Tensor) else (out[0], out[1:])
        alive.append(hidden)  # its graph counts
        hidden = hidden.detach().requires_grad_(asked.leaves)
        return hidden if rest is None else (hidden, *rest)

    alive: list[Any] = []
    with (
        _hooked(layer, enter, leave),
        torch.autograd.graph.saved_tensors_hooks(hold, lambda held: held.tensor),
    ):
        ids = torch.zeros(_DOCUMENTS, length, dtype=torch.long)
        alive.append(lm(input_ids=ids, use_cache=False).logits)
        sizes: dict[int, tuple[int, int]] = {}
        for held in sorted(kept, key=lambda held: held.place):
            at = _storage(held.tensor)
            if at not in own:
                sizes.setdefault(at, (held.place, held.tensor.untyped_storage().nbytes()))
    inside = [(2 if at in handed else place, n) for at, (place, n) in sizes.items() if place == 1]
    before, after = (sum(n for place, n in sizes.values() if place == which) for which in (0, 2))
    layer_bytes, shared = (sum(n for place, n in inside if place == which) for which in (1, 2))
    return before, layer_bytes, shared, after


@contextlib.contextmanager
def _unpacked() -> Iterator[None]:
    """transformers looks for packed documents in the positions, and makes a mask where these have no values."""
    name = "find_packed_sequence_indices"
    before = getattr(masking_utils, name, None)
    if before is None:
        yield
        return
    setattr(masking_utils, name, lambda *_, **__: None)
    try:
        yield
    finally:
        setattr(masking_utils, name, before)


class _Held:
    """A tensor that a node of the graph keeps, and where it was made to."""

    def __init__(self, tensor: Tensor, place: int) -> None:
        self.tensor, self.place = tensor, place


@contextlib.contextmanager
def _hooked(layer: nn.Module, enter: Callable[..., Any], leave: Callable[..., Any]) -> Iterator[None]:
    handles = (
        layer.register_forward_pre_hook(enter, with_kwargs=True),
        layer.register_forward_hook(leave),
    )
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def _fit(counts: list[int]) -> Bytes:
    """fixed + tokens (a + b length), through three counts."""
    (x0, x1, x2), (y0, y1, y2) = _LENGTHS, counts
    first, second = (y1 - y0) / (x1 - x0), (y2 - y1) / (x2 - x1)
    square = (second - first) / (x2 - x0)
    linear = first - square * (x0 + x1)
    fixed = y0 - linear * x0 - square * x0 * x0
    return Bytes(fixed, linear / _DOCUMENTS, square / _DOCUMENTS)
