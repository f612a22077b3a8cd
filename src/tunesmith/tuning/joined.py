"""Several LoRA updates as one adapter file: sum_i w_i s_i B_i A_i, exactly, by laying them side by side.

A = [A1; A2]  B = [w1 s1 B1, w2 s2 B2]  rank r1 + r2, scale 1; a layer that one of them lacks is filled up with 0
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from tunesmith.tuning.peft_alone import LoraConfig, get_peft_model_state_dict

A, B = "lora_A.weight", "lora_B.weight"
WEIGHTS = "adapter_model.safetensors"


@dataclass(frozen=True, slots=True)
class Update:
    """An adapter's tensors as PEFT names them in its file, and the factor on B A: weight x scale."""

    tensors: Mapping[str, Tensor]
    factor: float

    @property
    def rank(self) -> int:
        """Of every layer."""
        return next(len(tensor) for name, tensor in self.tensors.items() if name.endswith(A))


def adapter_state(model: Any, name: str) -> dict[str, Tensor]:
    """An adapter of a live model as its file would hold it."""
    return {
        key: tensor.detach() for key, tensor in get_peft_model_state_dict(model, adapter_name=name).items()
    }


def join(updates: Sequence[Update]) -> tuple[dict[str, Tensor], int]:
    """One update of scale 1 that is their sum, and its rank. What is no A or B is the first one's."""
    found = {name: tensor for name, tensor in updates[0].tensors.items() if not name.endswith((A, B))}
    layers = {name.removesuffix(A): None for update in updates for name in update.tensors if name.endswith(A)}
    for layer in layers:
        pairs = [_pair(update, layer) for update in updates]
        like = next(pair for pair in pairs if pair)
        blocks = [pair or _nothing(update.rank, like) for update, pair in zip(updates, pairs)]
        found[layer + A] = torch.cat([a for a, _ in blocks]).contiguous()
        found[layer + B] = torch.cat([b for _, b in blocks], dim=1).contiguous()
    return found, sum(update.rank for update in updates)


def _pair(update: Update, layer: str) -> tuple[Tensor, Tensor] | None:
    if layer + A not in update.tensors:
        return None
    return update.tensors[layer + A].float(), update.tensors[layer + B].float() * update.factor


def _nothing(rank: int, like: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    a, b = like
    return a.new_zeros(rank, a.shape[1]), b.new_zeros(b.shape[0], rank)


def write_adapter(folder: Path, config: LoraConfig, tensors: Mapping[str, Tensor], rank: int) -> None:
    """adapter_config.json and adapter_model.safetensors, as PEFT loads them, of scale 1."""
    values = {
        key: value for key, value in config.to_dict().items() if key not in ("peft_type", "auto_mapping")
    }
    values |= {"r": rank, "lora_alpha": rank, "use_rslora": False, "inference_mode": True}
    folder.mkdir(parents=True, exist_ok=True)
    LoraConfig(**values).save_pretrained(str(folder))
    save_file({name: tensor.cpu() for name, tensor in tensors.items()}, folder / WEIGHTS)
