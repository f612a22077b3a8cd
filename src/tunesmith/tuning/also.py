"""Beside any method: weights of named modules train where they are, or only the rows of new tokens in their tables.

    method's own part  +  embed_tokens, lm_head, ...     whole weights, fp32 in place; tied ones stay tied
                       +  rows of new tokens             new_tokens_only: all other rows stay bit for bit
On disk in PEFT's words where the method's config knows them: modules_to_save, trainable_token_indices; else as
also.NAME and rows.NAME in our own format (saved.py). PEFT's wrappers are taken off again: the weights go in place.
"""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.model.adapted import CONFIG, WEIGHTS
from tunesmith.model.forward import causal_lm
from tunesmith.recipe import Optim, Tuning
from tunesmith.tuning import saved
from tunesmith.tuning.full import in_fp32, modules_named, put_weights
from tunesmith.tuning.method import (
    Hooks,
    Method,
    Moments,
    ParameterGroup,
    Setting,
    TunedModel,
    decay_matrices,
)
from tunesmith.tuning.precision import narrow
from tunesmith.tuning.table import also_scale
from tunesmith.tuning.token_rows import give_rows, take_out_rows

KIND = "also"
_PEFT = "base_model.model."
_ALSO, _ROWS = saved.BESIDE
_DELTA = "token_adapter.trainable_tokens_delta"


@dataclass(frozen=True, slots=True)
class AlsoTuned(TunedModel):
    """What the method prepared, and what trains beside it, by the base's own names."""

    inner: TunedModel
    beside: Mapping[str, nn.Parameter]


@dataclass(frozen=True, slots=True)
class AlsoTuning:
    """A method, and weights of the model that train beside its own part."""

    inner: Method
    tuning: Tuning

    def prepare(self, lm: nn.Module, setting: Setting) -> TunedModel:
        """The method first, on the model as it is; then what of the named weights it left frozen."""
        wanted = self._weights(lm)
        inner = self.inner.prepare(lm, setting)
        beside = {name: parameter for name, parameter in wanted.items() if not parameter.requires_grad}
        if self.tuning.new_tokens_only:
            beside = give_rows(causal_lm(inner.model), beside, setting.new_tokens)
        else:
            in_fp32(causal_lm(inner.model), beside)
        for parameter in beside.values():
            parameter.requires_grad_(True)
        names = {id(parameter): name for name, parameter in inner.model.named_parameters()}
        own = {names[id(parameter)]: parameter for parameter in beside.values()}
        # a view, since a method may change what is in its own
        return AlsoTuned(inner.model, ChainMap(inner.trainable, own), inner, beside)

    def _weights(self, lm: Any) -> dict[str, nn.Parameter]:
        """The parameters of the named modules; of new tokens, only the tables'."""
        modules = modules_named(lm, self.tuning.also_train, "tuning.also_train").values()
        ids = {id(parameter) for module in modules for parameter in module.parameters()}
        if self.tuning.new_tokens_only:
            tables = (lm.get_input_embeddings(), lm.get_output_embeddings())
            ids &= {id(table.weight) for table in tables if table is not None}
        return {name: parameter for name, parameter in lm.named_parameters() if id(parameter) in ids}

    def parameter_groups(self, tuned: TunedModel, optim: Optim) -> list[ParameterGroup]:
        """The method's own; beside it matrices decay, embeddings and rows do not."""
        assert isinstance(tuned, AlsoTuned)
        beside = TunedModel(tuned.model, dict(tuned.beside))
        decay = 0.0 if self.tuning.new_tokens_only else optim.weight_decay
        scale = also_scale(self.tuning)
        groups = decay_matrices(beside, decay)
        return [
            *self.inner.parameter_groups(tuned.inner, optim),
            *(ParameterGroup(group.parameters, group.weight_decay, scale) for group in groups),
        ]

    def hooks(self, tuned: TunedModel, moments: Moments) -> Hooks:
        """The method's own."""
        assert isinstance(tuned, AlsoTuned)
        return self.inner.hooks(tuned.inner, moments)

    def save(self, tuned: TunedModel, folder: Path) -> None:
        """What the method saves, and the rest in the same files where its format has a word for it."""
        assert isinstance(tuned, AlsoTuned)
        self.inner.save(tuned.inner, folder)
        lm: Any = causal_lm(tuned.model)
        if not tuned.beside:
            return
        config = json.loads((folder / CONFIG).read_text("utf-8")) if (folder / CONFIG).is_file() else {}
        if "modules_to_save" not in config:
            _save_apart(tuned.beside, self._ids(lm), folder)
            return
        if self.tuning.new_tokens_only and "trainable_token_indices" in config and not _head_bias(lm):
            words, tensors = _as_rows(lm, tuned.beside, self._ids(lm) or [])
        else:
            words, tensors = _as_modules(lm, tuned.beside)
            if "ensure_weight_tying" in config:
                words["ensure_weight_tying"] = _tied(lm, tuned.beside)
        (folder / CONFIG).write_text(json.dumps(config | words, indent=2) + "\n", encoding="utf-8")
        _write_tensors(folder, {**load_file(folder / WEIGHTS), **tensors})

    def _ids(self, lm: Any) -> list[int] | None:
        if not self.tuning.new_tokens_only:
            return None
        modules = (lm.get_input_embeddings(), lm.get_output_embeddings())
        return next(module.ids.tolist() for module in modules if hasattr(module, "ids"))

    def attach(self, lm: nn.Module, folder: Path) -> nn.Module:
        """What the method attaches, and the rest in place."""
        model = self.inner.attach(lm, folder)
        unwrap(model)
        put_beside(causal_lm(model), folder)
        return model

    def merge(self, model: nn.Module) -> nn.Module:
        """What the method merges; the rest is in place."""
        narrow(model)
        return take_out_rows(self.inner.merge(model))


def unwrap(model: Any) -> None:
    """Take off PEFT's wrappers of whole modules and of rows: their weights go into the model's own modules."""
    from peft.utils.other import AuxiliaryTrainingWrapper

    for name, module in list(model.named_modules()):
        if isinstance(module, AuxiliaryTrainingWrapper):
            model.set_submodule(name, module.original_module)


def put_beside(lm: Any, folder: Path) -> None:
    """Put the weights and rows of a folder in place. Raises ModelError where they do not fit."""
    if (folder / saved.INFO).is_file():
        kept = saved.read(folder)
        whole = {name.removeprefix(_ALSO): t for name, t in kept.beside.items() if name.startswith(_ALSO)}
        put_weights(lm, folder, whole)
        for name, rows in kept.beside.items():
            if name.startswith(_ROWS):
                _put_rows(lm, folder, name.removeprefix(_ROWS), kept.info["rows"], rows)
    if not (folder / CONFIG).is_file():
        return
    config, tensors = json.loads((folder / CONFIG).read_text("utf-8")), load_file(folder / WEIGHTS)
    own = {name for name, _ in lm.named_parameters()}
    for module in config.get("modules_to_save") or ():
        start = f"{_PEFT}{module}."
        whole = {n.removeprefix(_PEFT): t for n, t in tensors.items() if n.startswith(start)}
        # the second name of a tied weight is no parameter of its own
        put_weights(lm, folder, {n: t for n, t in whole.items() if n in own or not _names_tied(lm, n)})
    for module, ids in (config.get("trainable_token_indices") or {}).items():
        _put_rows(lm, folder, f"{module}.weight", ids, tensors[f"{_PEFT}{module}.{_DELTA}"])


def _put_rows(lm: Any, folder: Path, name: str, ids: list[int], rows: Tensor) -> None:
    table = dict(lm.named_parameters()).get(name)
    if table is None or table.shape[1:] != rows.shape[1:] or max(ids) >= len(table):
        raise saved.does_not_fit(folder, name)
    table.data[ids] = rows.to(table.device, table.dtype)


def _names_tied(lm: Any, name: str) -> bool:
    """Whether a name is another one of the embedding's weight."""
    module, _, part = name.rpartition(".")
    return getattr(lm.get_submodule(module), part, None) is lm.get_input_embeddings().weight


def _tied(lm: Any, beside: Mapping[str, Any]) -> bool:
    """Whether what trains is embedding and head at once."""
    head, embedding = lm.get_output_embeddings(), lm.get_input_embeddings()
    return head is not None and head.weight is embedding.weight and _name_of(lm, embedding) in beside


def _name_of(lm: Any, module: nn.Module) -> str:
    """The base's own name of a table's weight."""
    return next(name for name, found in lm.named_modules() if found is module) + ".weight"


def _head_bias(lm: Any) -> bool:
    head = lm.get_output_embeddings()
    return head is not None and head.bias is not None  # PEFT's rows would lose it


def _as_rows(
    lm: Any, beside: Mapping[str, Tensor], ids: list[int]
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors as PEFT's trainable tokens."""
    modules = {name.removesuffix(".weight"): rows for name, rows in beside.items()}
    words = {"trainable_token_indices": dict.fromkeys(modules, ids)}
    return words, {f"{_PEFT}{module}.{_DELTA}": rows for module, rows in modules.items()}


def _as_modules(lm: Any, beside: Mapping[str, Tensor]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Config and tensors as PEFT's modules_to_save: each module whole, a tied head under its own name as well."""
    names = sorted({name.rpartition(".")[0] for name in beside})
    if _tied(lm, beside):
        names.append(_name_of(lm, lm.get_output_embeddings()).removesuffix(".weight"))
    tensors = {}
    for name in names:
        module = lm.get_submodule(name)
        for part, tensor in getattr(module, "table", module).state_dict().items():
            weight = module.weight if part == "weight" else tensor  # with its rows, where only those train
            tensors[f"{_PEFT}{name}.{part}"] = weight
    return {"modules_to_save": names}, tensors


def _save_apart(beside: Mapping[str, Tensor], ids: list[int] | None, folder: Path) -> None:
    """In our own format, beside what is there."""
    kept = saved.read(folder) if (folder / saved.INFO).is_file() else saved.Saved(KIND, {})
    start = _ALSO if ids is None else _ROWS
    more = {f"{start}{name}": tensor for name, tensor in beside.items()}
    info = {**kept.info, **({} if ids is None else {"rows": ids})}
    saved.write(folder, saved.Saved(kept.kind, kept.tensors, info, more))


def _write_tensors(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    plain = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
