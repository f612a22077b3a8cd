"""LoRA-drop: LoRA that keeps its own updates only where the output moves most (Zhou et al. 2024, arXiv:2402.07721).

    1  train LoRA everywhere for `sample` steps; in the later half of them sum |s B A x|^2 over all tokens
    2  for each kind of linear layer: I_l = sum_l / sum, keep the fewest layers with I >= threshold
    3  begin anew, as the paper does: kept layers with an update of their own, the others of a kind share one

The kept file is a plain LoRA, with the shared update written out in each layer.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import RecipeError
from tunesmith.model.forward import causal_lm, decoder_layers
from tunesmith.model.last_layer import WATCHED
from tunesmith.recipe import Lora, LoraDrop, Optim
from tunesmith.tuning.joined import Update, adapter_state, join, write_adapter
from tunesmith.tuning.lengths import length_problems, sample_steps
from tunesmith.tuning.lora import LoraTuning
from tunesmith.tuning.lora_layers import DEFAULT, lora_layers
from tunesmith.tuning.method import Hooks, Moments, ParameterGroup, Schedule, Setting, TunedModel

SHARING = "tunesmith_sharing.json"
Choice = Mapping[str, list[str]]  # kind -> names of its layers that keep an update of their own


def choose(importance: Mapping[str, float], threshold: float) -> list[str]:
    """The fewest names whose importance makes up `threshold` of the whole, the largest first; ties by order."""
    if threshold >= 1:
        return list(importance)
    total, held = sum(importance.values()), 0.0
    kept: list[str] = []
    for name in sorted(importance, key=lambda name: -importance[name]):
        if kept and held >= threshold * total:
            break
        kept.append(name)
        held += importance[name]
    return [name for name in importance if name in kept]


class Sharing:
    """Which layers have an update of their own, which share one; and what their outputs amounted to."""

    def __init__(self, model: nn.Module, section: LoraDrop, seed: int, sample: int) -> None:
        self.section, self.seed, self.sample = section, seed, sample
        self.layers: dict[str, Any] = dict(lora_layers(model))
        self.own = {name: (m.lora_A[DEFAULT], m.lora_B[DEFAULT]) for name, m in self.layers.items()}
        self.kinds = _kinds(model, self.layers)
        self.moved: dict[str, float] = dict.fromkeys(self.layers, 0.0)
        self.choice: Choice | None = None
        self._now: dict[str, Tensor] = {}
        self._real: Tensor | None = None
        self._handles: list[Any] = []
        self._lm = causal_lm(model)
        self._decoder = self._lm.base_model

    # --- looking on ---------------------------------------------------------------------------------------

    def watch(self, step: int) -> None:
        """Before a step: sum the outputs of the updates, or no longer."""
        self._now = {}
        wanted = self.choice is None and step > self.sample // 2
        if wanted and not self._handles:
            self._handles = [
                self._decoder.register_forward_pre_hook(self._see_padding, with_kwargs=True),
                *(m.register_forward_hook(self._seen(name)) for name, m in self.layers.items()),
            ]
            setattr(self._lm, WATCHED, True)  # each layer sees all tokens
        if not wanted:
            self.look_away()

    def look_away(self) -> None:
        """No hook stays on the model."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        setattr(self._lm, WATCHED, False)

    def _see_padding(self, module: nn.Module, args: Any, kwargs: dict[str, Any]) -> None:
        self._real = getattr(kwargs.get("documents"), "real", None)

    def _seen(self, name: str) -> Any:
        @torch.no_grad()
        def hook(layer: Any, args: tuple[Tensor, ...], output: Tensor) -> None:
            if not layer.training:
                return
            a, b = layer.lora_A[DEFAULT].weight, layer.lora_B[DEFAULT].weight
            with torch.autocast(a.device.type, enabled=False):
                inner = args[0].detach().reshape(-1, a.shape[1]).to(a.dtype) @ a.t()
                squares = ((inner @ (b.t() @ b)) * inner).sum(-1) * layer.scaling[DEFAULT] ** 2
            if self._real is not None and len(self._real) == len(squares):
                squares = squares * self._real.to(squares.device)
            self._now[name] = self._now.get(name, torch.zeros((), device=a.device)) + squares.sum()

        return hook

    def forget(self) -> None:
        """What was seen of this step is computed again."""
        self._now = {}

    def count(self) -> None:
        """After a step that was finite: what it saw is kept."""
        for name, moved in self._now.items():
            self.moved[name] += float(moved)
        self._now = {}

    def importance(self) -> dict[str, dict[str, float]]:
        """Kind -> layer -> its share of what all updates of the kind moved; equal where none moved anything."""
        found = {}
        for kind, names in self.kinds.items():
            total = sum(self.moved[name] for name in names)
            found[kind] = {n: self.moved[n] / total if total else 1 / len(names) for n in names}
        return found

    # --- the choice ---------------------------------------------------------------------------------------

    @torch.no_grad()
    def begin_anew(self) -> None:
        """Choose, and draw A again; B is 0, so the function is the base's."""
        self.look_away()
        threshold = self.section.threshold
        self.apply({kind: choose(shares, threshold) for kind, shares in self.importance().items()})
        draw = torch.Generator().manual_seed((self.seed + 1) * 1_000_003)
        for a, b in self.own.values():
            bound = 1 / math.sqrt(a.weight.shape[1])
            a.weight.copy_(torch.empty(a.weight.shape).uniform_(-bound, bound, generator=draw))
            b.weight.zero_()

    def apply(self, choice: Choice | None) -> None:
        """Give each layer the update that the choice says; None: each its own."""
        self.choice = choice
        for kind, names in self.kinds.items():
            kept = set(names if choice is None else choice[kind])
            first = next((name for name in names if name not in kept), None)
            for name in names:
                a, b = self.own[name if name in kept else str(first)]
                layer, alone = self.layers[name], name in kept
                layer.lora_A[DEFAULT], layer.lora_B[DEFAULT] = a, b
                layer._disable_adapters = not alone and self.section.rest == "dropped"

    def learning(self) -> set[int]:
        """Ids of the A and B that are in use."""
        used = [m for m in self.layers.values() if not m.disable_adapters]
        return {id(part[DEFAULT].weight) for m in used for part in (m.lora_A, m.lora_B)}


def _said(sharing: Sharing) -> dict[str, Any]:
    """The choice and what it was made from, by the base's own names."""
    shares = {kind: {_base(n): share for n, share in of.items()} for kind, of in sharing.importance().items()}
    own = {kind: [_base(name) for name in names] for kind, names in (sharing.choice or {}).items()}
    return {"own": own, "importance": shares}


def _base(name: str) -> str:
    return name.removeprefix("base_model.model.")


def _kinds(model: nn.Module, layers: Iterable[str]) -> dict[str, list[str]]:
    """Linear layers that stand at the same place of each decoder layer, and have the same shape."""
    where = decoder_layers(causal_lm(model))[0]
    modules = dict(model.named_modules())
    kinds: dict[str, list[str]] = {}
    for name in layers:
        module: Any = modules[name]
        before, _, after = name.rpartition(f".{where}.") if where else ("", "", name)
        place = after.partition(".")[2] if before else name
        kinds.setdefault(f"{place} {module.out_features}x{module.in_features}", []).append(name)
    return kinds


@dataclass(frozen=True, slots=True)
class SharedModel(TunedModel):
    """A prepared model that knows which updates are shared."""

    sharing: Sharing
    all_trainable: Mapping[str, nn.Parameter]

    def follow(self) -> list[nn.Parameter]:
        """Bring `trainable` in line with the choice; returns what no longer trains."""
        used, own = (
            self.sharing.learning(),
            {id(p) for ab in self.sharing.own.values() for m in ab for p in m.parameters()},
        )
        gone = []
        self.trainable.clear()
        for name, parameter in self.all_trainable.items():
            learns = id(parameter) in used or id(parameter) not in own
            parameter.requires_grad_(learns)
            if learns:
                self.trainable[name] = parameter
            else:
                parameter.grad = None
                gone.append(parameter)
        return gone


@dataclass(frozen=True, slots=True)
class DropTuning:
    """Low-rank updates, own ones where they matter."""

    section: LoraDrop

    def prepare(self, lm: nn.Module, setting: Setting) -> SharedModel:
        """Wrap the targets; the function is unchanged (B = 0)."""
        if problems := length_problems(self.section, setting.steps):
            raise RecipeError(problems)
        tuned = self._plain().prepare(lm, setting)
        sharing = Sharing(tuned.model, self.section, setting.seed, sample_steps(self.section, setting.steps))
        return SharedModel(tuned.model, tuned.trainable, sharing, dict(tuned.trainable))

    def parameter_groups(self, tuned: TunedModel, optim: Optim) -> list[ParameterGroup]:
        """A and B decay alike."""
        return self._plain().parameter_groups(tuned, optim)

    def hooks(self, tuned: TunedModel, moments: Moments) -> Hooks:
        """Look on, choose, begin anew; the rate has a schedule before and one after."""
        assert isinstance(tuned, SharedModel)
        sharing, model = tuned.sharing, tuned

        def rate(step: int, steps: int, schedule: Schedule) -> float:
            sharing.watch(step)
            sample = sharing.sample
            return schedule(step, sample) if step <= sample else schedule(step - sample, steps - sample)

        def after_step(step: int) -> None:
            if sharing.choice is not None:
                return
            sharing.count()
            if step >= sharing.sample:  # a step that was not finite is not heard of
                sharing.begin_anew()
                model.follow()
                moments.forget(list(model.all_trainable.values()))

        def load(state: dict[str, Any]) -> None:
            sharing.moved |= state["moved"]
            sharing.apply(state["choice"])
            model.follow()

        return Hooks(
            rate=rate,
            forget_step=sharing.forget,
            after_step=after_step,
            on_end=sharing.look_away,
            state_dict=lambda: {"moved": dict(sharing.moved), "choice": sharing.choice},
            load_state_dict=load,
        )

    def save(self, tuned: TunedModel, folder: Path) -> None:
        """A plain LoRA, and which of its updates are one and the same."""
        assert isinstance(tuned, SharedModel)
        model: Any = tuned.model
        sharing = tuned.sharing
        used = [name for name, layer in sharing.layers.items() if not layer.disable_adapters]
        without = tuple(f"{name}." for name in sharing.layers if name not in used)
        tensors = {k: t for k, t in adapter_state(model, DEFAULT).items() if not k.startswith(without)}
        config: Any = model.peft_config[DEFAULT]
        before, config.target_modules = (
            config.target_modules,
            [_base(name) for name in used],
        )
        write_adapter(folder, config, *join([Update(tensors, config.lora_alpha / config.r)]))
        config.target_modules = before
        info = {"schema": 1, "rest": self.section.rest, **_said(sharing)}
        (folder / SHARING).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")

    def attach(self, lm: nn.Module, folder: Path) -> nn.Module:
        """The base with the plain LoRA on it."""
        return self._plain().attach(lm, folder)

    def merge(self, model: nn.Module) -> nn.Module:
        """W + s B A, in fp32; the caller rounds once."""
        return self._plain().merge(model)

    def _plain(self) -> LoraTuning:
        section = self.section
        return LoraTuning(
            Lora(method="lora", rank=section.rank, alpha=section.scale_alpha, targets=section.targets)
        )
