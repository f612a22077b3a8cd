"""Count a model of an unknown family on its empty skeleton: built without memory, looked at by structure.

config (+ its own code, where that is trusted) -> modules on the meta device -> names, sizes, linear layers
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.pytorch_utils import Conv1D

from tunesmith.errors import ModelError
from tunesmith.model.config import FoundConfig
from tunesmith.model.facts import Linear, ModelFacts, Skeleton
from tunesmith.model.families import Family
from tunesmith.model.forward import decoder_layers
from tunesmith.model.traced import Traced
from tunesmith.recipe import Model


def count_skeleton(model: Model, found: FoundConfig, file: Path | None = None) -> ModelFacts:
    """The facts of a model that no row of families.py describes. file: where answers of its tracing are kept.

    Raises ModelError where it cannot be built.
    """
    lm = _build(model, found)
    layers_name, layers = decoder_layers(lm)
    if not len(layers):
        raise ModelError.at(
            found.name,
            f"no list of decoder layers is found in {type(lm).__name__}",
            "use a decoder-only model",
        )
    _refuse_experts(lm, found.name)
    names = {id(module): name for name, module in lm.named_modules()}
    embedding, head = lm.get_input_embeddings(), _head(lm)
    config = lm.config
    heads = int(getattr(config, "num_attention_heads", None) or 1)
    hidden = int(embedding.weight.shape[1])
    linears = tuple(tuple(_linears(layer, head)) for layer in layers)
    inside = {id(module) for layer in layers for module in layer.modules()}
    outside = tuple(
        _linear(name, module) for name, module in _all_linears(lm, head) if id(module) not in inside
    )
    if not linears[0]:
        raise ModelError.at(found.name, "its layers hold no linear layer", "use a transformer")
    return ModelFacts(
        name=found.name,
        family=str(config.model_type),
        hidden_size=hidden,
        layers=len(layers),
        heads=heads,
        kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
        head_dim=int(getattr(config, "head_dim", None) or max(1, hidden // heads)),
        intermediate_size=max(max(linear.inputs, linear.outputs) for linear in linears[0]),
        vocab_size=int(embedding.weight.shape[0]),
        tied=head is None or head.weight is embedding.weight,
        linears=linears[0],
        spelling=Family(
            vocab_size=0,
            inner=0,
            embedding=names[id(embedding)],
            layers=layers_name,
            final_norm=None,
            head=names.get(id(head), "lm_head"),
        ),
        max_positions=_positions(config),
        kind=found.kind,
        skeleton=_skeleton(lm, model, linears, outside, file),
    )


def _skeleton(
    lm: Any,
    model: Model,
    linears: tuple[tuple[Linear, ...], ...],
    outside: tuple[Linear, ...],
    file: Path | None,
) -> Skeleton:
    """What was counted; where all layers are alike, one of them can be traced."""
    named = tuple((name, parameter.numel()) for name, parameter in lm.named_parameters())
    alike = len(set(linears)) == 1
    return Skeleton(
        named, linears, outside, _tracer(lm.config, model.trust_remote_code, file) if alike else None
    )


_TRACERS: dict[tuple[str, bool], Traced] = {}


def _tracer(config: Any, remote_code: bool, file: Path | None) -> Traced:
    """One for a config in a process: what it found is not looked for again."""
    key = (config.to_json_string(), remote_code)
    if key not in _TRACERS or _TRACERS[key].file != file:
        _TRACERS[key] = Traced(config, remote_code, file)
    return _TRACERS[key]


def _build(model: Model, found: FoundConfig) -> Any:
    """The model without its weights."""
    said = io.StringIO()
    try:
        with contextlib.redirect_stdout(said), torch.device("meta"):
            if found.values.get("auto_map") and model.trust_remote_code:
                revision = {"revision": model.revision} if model.revision else {}
                config = AutoConfig.from_pretrained(str(found.source), trust_remote_code=True, **revision)
            else:
                config = AutoConfig.for_model(**dict(found.values))
            return AutoModelForCausalLM.from_config(config, trust_remote_code=model.trust_remote_code)
    except Exception as error:
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise ModelError.at(
            found.name,
            f"of family {found.values.get('model_type')!r} cannot be built: {first}",
            "use a decoder that this transformers knows, or one whose own code runs with it",
        ) from error


def _refuse_experts(lm: nn.Module, name: str) -> None:
    fused = [n for n, p in lm.named_parameters() if p.dim() == 3 and "expert" in n]
    if fused:
        raise ModelError.at(
            name,
            f"is a mixture of experts: {fused[0]} is a fused 3-D tensor, which adapters on all linear layers do "
            "not reach, and its routing needs a balancing loss",
            "choose a dense model",
        )


def _head(lm: Any) -> Any:
    """The output head, where the model tells."""
    try:
        return lm.get_output_embeddings()
    except (AttributeError, NotImplementedError):  # so transformers says that a model keeps it to itself
        return None


def _all_linears(module: nn.Module, head: Any) -> list[tuple[str, nn.Module]]:
    kinds = (nn.Linear, Conv1D)
    return [(name, m) for name, m in module.named_modules() if isinstance(m, kinds) and m is not head]


def _linears(layer: nn.Module, head: Any) -> list[Linear]:
    return [_linear(name, module) for name, module in _all_linears(layer, head)]


def _linear(name: str, module: Any) -> Linear:
    outputs, inputs = module.weight.shape
    if isinstance(module, Conv1D):
        inputs, outputs = outputs, inputs
    return Linear(name, int(inputs), int(outputs), module.bias is not None)


def _positions(config: Any) -> int | None:
    """Most positions, as transformers or remote code spells it."""
    found = (getattr(config, key, None) for key in ("max_position_embeddings", "seq_length", "n_positions"))
    return next((count for count in found if isinstance(count, int) and count > 0), None)
