"""A frozen model with learnt virtual tokens before each document, and their file in PEFT's format.

    embeddings [n, d]            stand in the row (prompt.py)
    keys and values [n, 2 L k]   stand before those of each layer (prefix.py)

What a small network makes while training is saved as it comes out; training checkpoints hold the network.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import ModelError
from tunesmith.tuning.method import Setting, TunedModel
from tunesmith.tuning.peft_alone import PromptLearningConfig

FILE, TENSOR = "adapter_model.safetensors", "prompt_embeddings"


class Prompted(nn.Module):
    """A language model whose hooks put `prompt` before a text; `in_the_row`: at ids -1 .. -n (model/virtual.py)."""

    def __init__(self, lm: nn.Module, prompt: nn.Module, virtual_tokens: int, in_the_row: bool) -> None:
        super().__init__()
        self.lm, self.prompt = lm, prompt
        self.virtual_tokens, self.in_the_row = virtual_tokens, in_the_row
        self.train(lm.training)

    def get_base_model(self) -> nn.Module:
        """The model inside, as PEFT's wrappers name it."""
        return self.lm

    def get_input_embeddings(self) -> Any:
        """Those of the model inside."""
        lm: Any = self.lm
        return lm.get_input_embeddings()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The model inside."""
        return self.lm(*args, **kwargs)


class Table(nn.Module):
    """Virtual tokens as free numbers."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.embedding = nn.Parameter(values.detach().clone().float())

    def forward(self) -> Tensor:
        """Float32[Tensor, "n width"]."""
        return self.embedding


class Made(nn.Module):
    """Virtual tokens that a network makes of free numbers."""

    def __init__(self, values: Tensor, network: nn.Module) -> None:
        super().__init__()
        self.embedding = nn.Parameter(values.detach().clone().float())
        self.network = network

    def forward(self) -> Tensor:
        """Float32[Tensor, "n width"]."""
        made: Tensor = self.network(self.embedding)
        return made


def make(prompt: nn.Module) -> Tensor:
    """The virtual tokens, in fp32 also under autocast: the same in training as when they are saved."""
    with torch.autocast(next(prompt.parameters()).device.type, enabled=False):
        made: Tensor = prompt()
    return made


def prepared(lm: nn.Module, setting: Setting, begin: Callable[[], Prompted]) -> TunedModel:
    """`begin()` around a model that does not move; what it draws is a function of the seed."""
    for parameter in lm.parameters():
        parameter.requires_grad_(False)
    with torch.random.fork_rng():
        torch.manual_seed(setting.seed)
        model = begin()
    model.prompt.to(next(lm.parameters()).device)
    return TunedModel(model, {name: p for name, p in model.named_parameters() if p.requires_grad})


def save_prompt(model: Prompted, config: PromptLearningConfig, folder: Path) -> None:
    """adapter_config.json and adapter_model.safetensors, as PEFT loads them."""
    lm: Any = model.lm
    config.base_model_name_or_path = lm.name_or_path
    config.inference_mode = True
    config.save_pretrained(str(folder))
    with torch.inference_mode():
        values = make(model.prompt).detach().cpu().contiguous().clone()
    save_file({TENSOR: values}, folder / FILE, metadata={"format": "pt"})


def read_prompt(folder: Path, width: int) -> Tensor:
    """Saved virtual tokens, Float[Tensor, "n width"]. Raises ModelError where they do not fit."""
    try:
        values = load_file(folder / FILE)[TENSOR]
    except (OSError, KeyError, ValueError) as error:
        what = f"{FILE} holds no {TENSOR} that can be read"
        raise ModelError.at(str(folder), what, "copy the adapter again") from error
    if values.dim() != 2 or values.shape[1] != width:
        what = f"the virtual tokens {list(values.shape)} do not fit this base model, which needs [n, {width}]"
        raise ModelError.at(str(folder), what, "use the base it was trained on")
    return values
