"""Deep prompts: learnt keys and values before those of each layer, k = [P_k; k], v = [P_v; v]; the text from n.

p_tuning_v2   P is free (Liu et al. 2022, arXiv:2110.07602)
prefix        P = MLP(E), which the paper needs to be stable, or free (Li & Liang 2021, arXiv:2101.00190)

    P [n, 2 L k], viewed [n, L, 2, heads, head size] as PEFT lays it out

Every token sees the whole prefix, whatever window its layer has.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.kernels import attention
from tunesmith.model.families import FAMILIES
from tunesmith.model.forward import decoder_layers
from tunesmith.model.load import generation_attention
from tunesmith.recipe import Optim, Prefix, PTuningV2
from tunesmith.tuning.method import Hooks, Moments, ParameterGroup, Setting, TunedModel
from tunesmith.tuning.peft_alone import PrefixTuningConfig
from tunesmith.tuning.prompt import text_ids
from tunesmith.tuning.prompted import Made, Prompted, Table, make, prepared, read_prompt, save_prompt

_CACHES = ("past_key_values", "layer_past")  # what attention modules call their cache


@dataclass(frozen=True, slots=True)
class Shape:
    """Layers, heads of keys, and their size."""

    layers: int
    heads: int
    size: int

    @classmethod
    def of(cls, lm: Any) -> Shape:
        """That of a model."""
        config = lm.config
        grouped = FAMILIES[config.model_type].grouped
        heads = (grouped and getattr(config, "num_key_value_heads", None)) or config.num_attention_heads
        size = grouped and getattr(config, "head_dim", None)
        size = size or config.hidden_size // config.num_attention_heads
        return cls(config.num_hidden_layers, heads, size)

    @property
    def width(self) -> int:
        """Numbers of a virtual token in all layers."""
        return self.layers * 2 * self.heads * self.size


@dataclass(frozen=True, slots=True)
class PrefixTuning:
    """Learnt keys and values before those of a frozen model."""

    tuning: Prefix | PTuningV2

    def prepare(self, lm: nn.Module, setting: Setting) -> TunedModel:
        """Put the untrained prefix before it."""
        return prepared(lm, setting, lambda: before_keys(lm, self._begin(lm, setting), self.tuning.length))

    def _begin(self, lm: Any, setting: Setting) -> nn.Module:
        length, shape = self.tuning.length, Shape.of(lm)
        text = self.tuning.init_text if isinstance(self.tuning, PTuningV2) else None
        ids = (
            torch.randint(0, lm.config.vocab_size, (length,))
            if text is None
            else text_ids(text, length, setting)
        )
        values = keys_and_values(lm, torch.as_tensor(ids))
        if isinstance(self.tuning, PTuningV2) or not self.tuning.reparameterise:
            return Table(values)
        inner, hidden = shape.heads * shape.size, self.tuning.hidden
        network = nn.Sequential(nn.Linear(inner, hidden), nn.Tanh(), nn.Linear(hidden, shape.width))
        return Made(torch.randn(length, inner), network)

    def parameter_groups(self, tuned: TunedModel, optim: Optim) -> list[ParameterGroup]:
        """Nothing decays: a prefix has no reason to be near 0."""
        return [ParameterGroup(tuple(tuned.trainable.values()), 0.0)]

    def hooks(self, tuned: TunedModel, moments: Moments) -> Hooks:
        """None."""
        return Hooks()

    def save(self, tuned: TunedModel, folder: Path) -> None:
        """The keys and values, flattened, in PEFT's prefix-tuning format."""
        assert isinstance(tuned.model, Prompted)
        shape = Shape.of(tuned.model.lm)
        config = PrefixTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=tuned.model.virtual_tokens,
            token_dim=shape.heads * shape.size, num_attention_heads=shape.heads, num_layers=shape.layers,
            num_transformer_submodules=1, prefix_projection=False,
        )  # fmt: skip
        save_prompt(tuned.model, config, folder)

    def attach(self, lm: nn.Module, folder: Path) -> nn.Module:
        """The base with the saved prefix before it."""
        base: Any = lm
        values = read_prompt(folder, Shape.of(lm).width).to(base.device)
        return before_keys(lm, Table(values), len(values))

    def merge(self, model: nn.Module) -> nn.Module:
        """Refused before anything loads (methods.py)."""
        raise AssertionError("a prefix cannot be folded into weights")


def keys_and_values(lm: Any, ids: Tensor) -> Tensor:
    """What the model itself keeps of a text: Float[Tensor, "T 2Lk"], keys turned to positions 0..T-1."""
    from transformers import DynamicCache

    shape, cache = Shape.of(lm), DynamicCache()
    with generation_attention(lm), torch.no_grad():
        row = ids[None].to(lm.device)
        lm.base_model(
            input_ids=row, attention_mask=torch.ones_like(row), past_key_values=cache, use_cache=True
        )
    layers: list[Any] = cache.layers
    parts = [torch.stack((layer.keys[0], layer.values[0])) for layer in layers]  # [2 heads T size] each
    return torch.stack(parts).permute(3, 0, 1, 2, 4).reshape(-1, shape.width)


def before_keys(lm: Any, prompt: nn.Module, count: int) -> Prompted:
    """A model whose attention finds the keys and values that `prompt` makes before its own.

    Works with packing, with a key-value cache, and with activation checkpointing, where the layers' second
    pass finds the prefix of the first.
    """
    shape, name = Shape.of(lm), FAMILIES[lm.config.model_type].attention_out.rpartition(".")[0]
    made: list[Tensor] = []

    def begin(decoder: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        flat = make(prompt)
        made[:] = flat.view(1, count, shape.layers, 2, shape.heads, shape.size).permute(2, 3, 0, 4, 1, 5)
        return args, {**kwargs, "position_ids": _positions(args, kwargs) + count}

    lm.base_model.register_forward_pre_hook(begin, with_kwargs=True)
    for number, layer in enumerate(decoder_layers(lm)[1]):
        module = layer.get_submodule(name)
        known = inspect.signature(module.forward).parameters
        cache = next(word for word in _CACHES if word in known)
        module.register_forward_pre_hook(_attend_with(made, number, cache), with_kwargs=True)
    return Prompted(lm, prompt, count, in_the_row=False)


def _attend_with(made: Sequence[Tensor], layer: int, cache: str) -> Callable[..., Any]:
    """The hook of a layer's attention, whose cache is the keyword `cache`."""

    def attend(module: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        prefix = made[layer]
        changed: dict[str, Any] = {cache: _Before(kwargs.get(cache), prefix)}
        if module.config._attn_implementation != attention.NAME:
            hidden = args[0] if args else kwargs["hidden_states"]
            changed["attention_mask"] = _wider(kwargs.get("attention_mask"), hidden, prefix.shape[3])
        return args, {**kwargs, **changed}

    return attend


@dataclass(frozen=True, slots=True)
class _Before:
    """Stands in for a layer's cache (or for none): gives its keys and values with the prefix before them."""

    cache: Any
    prefix: Tensor  # Float[Tensor, "2 1 heads n size"]

    @property
    def asks_no_query(self) -> bool:
        """As the cache behind has it (model/last_layer.py)."""
        return getattr(self.cache, "asks_no_query", False)

    def update(self, key: Tensor, value: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """key, value: [B heads T size] -> [B heads n+T size]."""
        if self.cache is not None:
            key, value = self.cache.update(key, value, *args, **kwargs)
        pairs = zip(self.prefix, (key, value))
        key, value = (torch.cat([p.to(x.dtype).expand(len(x), -1, -1, -1), x], dim=2) for p, x in pairs)
        return key, value


def _positions(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
    """Those given; else the next ones after what is cached."""
    given = kwargs.get("position_ids")
    if given is not None:
        return given
    ids = next(x for x in (*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")) if x is not None)
    cache = kwargs.get("past_key_values")
    begin = 0 if cache is None else cache.get_seq_length()
    return torch.arange(begin, begin + ids.shape[1], device=ids.device)[None]


def _wider(mask: Tensor | None, hidden: Tensor, count: int) -> Tensor | None:
    """A mask [B 1 Q K] with `count` columns before it that every token sees; None where all is seen."""
    if mask is None:
        width = hidden.shape[1]
        if width == 1:
            return None
        mask = torch.ones(width, width, dtype=torch.bool, device=hidden.device).tril()[None, None]
    seen = True if mask.dtype == torch.bool else 0.0
    return nn.functional.pad(mask, (count, 0), value=seen)
