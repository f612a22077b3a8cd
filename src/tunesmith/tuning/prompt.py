"""Soft prompts: learnt embeddings before each document, x = [P; E(text)]; positions 0..n-1, the text from n.

prompt     P is free (Lester et al. 2021, arXiv:2104.08691)
p_tuning   P = network(E), an MLP or two LSTM layers and an MLP (Liu et al. 2021, arXiv:2103.10385)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from tunesmith.errors import RecipeError
from tunesmith.recipe import Optim, Prompt, PTuning
from tunesmith.tuning.method import Hooks, Moments, ParameterGroup, Setting, TunedModel
from tunesmith.tuning.peft_alone import PromptTuningConfig
from tunesmith.tuning.prompted import Made, Prompted, Table, make, prepared, read_prompt, save_prompt


class _TwoWays(nn.Module):
    """Two LSTM layers that read from both ends: [n, inputs] -> [n, 2 hidden]."""

    def __init__(self, inputs: int, hidden: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(inputs, hidden, num_layers=2, bidirectional=True)

    def forward(self, x: Tensor) -> Tensor:
        """What they say of each place."""
        out: Tensor = self.lstm(x)[0]
        return out


def _mlp(width: int, hidden: int) -> nn.Module:
    inner = nn.Linear(hidden, hidden)
    return nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), inner, nn.ReLU(), nn.Linear(hidden, width))


def _lstm(width: int, hidden: int) -> nn.Module:
    inner = nn.Linear(2 * hidden, 2 * hidden)
    return nn.Sequential(_TwoWays(width, hidden), inner, nn.ReLU(), nn.Linear(2 * hidden, width))


@dataclass(frozen=True, slots=True)
class SoftPromptTuning:
    """Learnt embeddings before a frozen model."""

    tuning: Prompt | PTuning

    def prepare(self, lm: nn.Module, setting: Setting) -> TunedModel:
        """Put the untrained prompt before it."""
        return prepared(lm, setting, lambda: in_the_row(lm, self._begin(lm, setting), self.tuning.length))

    def _begin(self, lm: Any, setting: Setting) -> nn.Module:
        table = lm.get_input_embeddings()
        drawn = torch.randint(0, table.weight.shape[0], (self.tuning.length,), device=table.weight.device)
        match self.tuning:
            case PTuning(encoder=encoder, hidden=hidden):
                network = (_mlp if encoder == "mlp" else _lstm)(table.weight.shape[1], hidden)
                return Made(table(drawn), network)
            case Prompt(init="random"):
                like = table(drawn).float()
                return Table(torch.randn_like(like) * like.std())
            case Prompt(init_text=str(text)):
                ids = text_ids(text, self.tuning.length, setting)
                return Table(table(torch.tensor(ids, device=drawn.device)))
        return Table(table(drawn))

    def parameter_groups(self, tuned: TunedModel, optim: Optim) -> list[ParameterGroup]:
        """Nothing decays: a prompt has no reason to be near 0."""
        return [ParameterGroup(tuple(tuned.trainable.values()), 0.0)]

    def hooks(self, tuned: TunedModel, moments: Moments) -> Hooks:
        """None."""
        return Hooks()

    def save(self, tuned: TunedModel, folder: Path) -> None:
        """The prompt, in PEFT's prompt-tuning format."""
        assert isinstance(tuned.model, Prompted)
        table = tuned.model.get_input_embeddings().weight
        config = PromptTuningConfig(
            task_type="CAUSAL_LM", num_virtual_tokens=tuned.model.virtual_tokens, token_dim=table.shape[1],
            num_transformer_submodules=1, prompt_tuning_init="RANDOM",
        )  # fmt: skip
        save_prompt(tuned.model, config, folder)

    def attach(self, lm: nn.Module, folder: Path) -> nn.Module:
        """The base with the saved prompt before it."""
        base: Any = lm
        values = read_prompt(folder, base.get_input_embeddings().weight.shape[1]).to(base.device)
        return in_the_row(lm, Table(values), len(values))

    def merge(self, model: nn.Module) -> nn.Module:
        """Refused before anything loads (methods.py)."""
        raise AssertionError("a prompt cannot be folded into weights")


def in_the_row(lm: Any, prompt: nn.Module, count: int) -> Prompted:
    """A model that reads ids -1 .. -n as the virtual tokens that `prompt` makes.

    They stand where the embedding's output does, as in PEFT: behind a scaling inside it (Gemma), before one
    that follows it (Granite), before learnt positions are added (GPT-2).
    """

    def embed(decoder: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        ids = args[0] if args else kwargs.get("input_ids")
        if ids is None or not bool((ids < 0).any()):
            return None
        virtual = ids < 0
        hidden = decoder.get_input_embeddings()(ids.clamp(min=0))
        chosen = nn.functional.embedding(-1 - ids[virtual], make(prompt))
        hidden = hidden.index_put((virtual,), chosen.to(hidden.dtype))
        rest = {name: value for name, value in kwargs.items() if name != "input_ids"}
        return (None, *args[1:]) if args else (), {**rest, "inputs_embeds": hidden}

    lm.base_model.register_forward_pre_hook(embed, with_kwargs=True)
    return Prompted(lm, prompt, count, in_the_row=True)


def text_ids(text: str, count: int, setting: Setting) -> list[int]:
    """The tokens of a text, repeated or cut to `count`. Raises RecipeError where it has none."""
    ids = list(setting.words(text))
    if not ids:
        what = f"{text!r} has no tokens"
        raise RecipeError.at("tuning.init_text", what, "write a text that says what the task is")
    return (ids * -(-count // len(ids)))[:count]
