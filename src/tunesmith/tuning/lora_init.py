"""Where A and B of a LoRA begin, if not at random and 0. The function is the base's in each case.

pissa   the largest singular parts of W        (arXiv:2404.02948)    B0 A0 is subtracted beside the base, by a
olora   the first columns of its QR            (arXiv:2406.01775)    frozen twin adapter: W itself stays as it is
eva     A: principal directions of the inputs  (arXiv:2410.07170)    B = 0
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from tunesmith.model.forward import causal_lm, learnt, own_forward
from tunesmith.tuning.lora_layers import DEFAULT, FUSED, lora_layers
from tunesmith.tuning.peft_alone import LoraConfig

if TYPE_CHECKING:
    from tunesmith.data.loader import Batch
    from tunesmith.tuning.method import Setting

START = "start"  # the twin: A0 and B0, scaled by -s
WHOLE_SVD = 2048  # beyond, singular parts are found by random projections, which is tens of times faster
POWER_STEPS = 16  # of those, as PiSSA's own fast form takes
EVA_BATCHES = 16
EVA_TOKENS = 512  # of a micro-batch, evenly spread


def principal_parts(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """A [r, i] and B [o, r] with s B A the best approximation of W [o, i] of that rank."""
    if min(weight.shape) <= WHOLE_SVD:
        u, s, vt = torch.linalg.svd(weight, full_matrices=False)
    else:
        u, s, v = torch.svd_lowrank(weight, q=min(2 * rank, *weight.shape), niter=POWER_STEPS)
        vt = v.t()
    root = (s[:rank] / scaling).sqrt()
    return root[:, None] * vt[:rank], u[:, :rank] * root


def orthonormal_parts(weight: Tensor, rank: int, scaling: float) -> tuple[Tensor, Tensor]:
    """A and B from W = Q R: B the first columns of Q, A the first rows of R."""
    q, r = torch.linalg.qr(weight)
    return r[:rank].contiguous(), q[:, :rank].contiguous()


PARTS: Mapping[str, Callable[[Tensor, int, float], tuple[Tensor, Tensor]]] = {
    "pissa": principal_parts,
    "olora": orthonormal_parts,
}


def begin_with_parts(model: Any, kind: str, seed: int) -> None:
    """A and B begin with parts of W, and a frozen twin takes the same parts away.

    The base could be changed instead, as PEFT does; then disabling the adapter would not give the base back, a
    16-bit base would lose the difference by rounding, and a saved adapter would fit no base on disk.
    """
    config = model.peft_config[DEFAULT]
    model.add_adapter(START, _plain(config))
    with torch.no_grad(), torch.random.fork_rng():
        torch.manual_seed(seed)
        for _, layer in lora_layers(model):
            scaling = layer.scaling[DEFAULT]
            a, b = PARTS[kind](_weight(layer).float(), layer.r[DEFAULT], scaling)
            for name, sign in ((DEFAULT, 1), (START, -1)):
                layer.lora_A[name].weight.copy_(a)
                layer.lora_B[name].weight.copy_(b)
                layer.scaling[name] = sign * scaling
    model.base_model.set_adapter([DEFAULT, START])
    for parameter in start_tensors(model).values():
        parameter.requires_grad_(False)


def _plain(config: Any) -> Any:
    """The twin's config: same targets and rank, nothing that learns."""
    twin = LoraConfig(
        r=config.r, lora_alpha=config.lora_alpha, target_modules=config.target_modules, task_type=config.task_type,
        use_rslora=config.use_rslora, fan_in_fan_out=config.fan_in_fan_out, bias="none",
    )  # fmt: skip
    twin._register_custom_module(FUSED)
    return twin


def _weight(layer: Any) -> Tensor:
    """W as [outputs, inputs]."""
    weight: Tensor = layer.get_base_layer().weight
    return weight.t() if layer.fan_in_fan_out else weight


def start_tensors(model: nn.Module) -> dict[str, Tensor]:
    """The frozen parts by name; none where there is no twin."""
    return {name: p for name, p in model.named_parameters() if f".{START}." in name}


# --- EVA ----------------------------------------------------------------------------------------------------


class PrincipalDirections:
    """The first principal directions of a stream of vectors, by incremental PCA (Ross et al. 2008)."""

    def __init__(self, keep: int) -> None:
        self.keep = keep
        self.count, self.mean, self.scaled = 0, torch.zeros(()), torch.zeros(0)

    def see(self, x: Tensor) -> None:
        """x [n, i]: what is kept and what is new, decomposed together; n + keep numbers squared, not i."""
        x = x.double()
        new, mean, n = x - x.mean(0), x.mean(0), self.count
        rows = [new]
        if n:
            moved = (n * len(x) / (n + len(x))) ** 0.5 * (self.mean - mean)
            rows = [self.scaled, new, moved[None]]
            mean = (n * self.mean + len(x) * mean) / (n + len(x))
        stack = torch.cat(rows)
        values, vectors = torch.linalg.eigh(stack @ stack.t())
        first = vectors[:, values > 1e-10 * values.max().clamp(min=1e-30)][:, -self.keep :].flip(1)
        self.scaled, self.mean, self.count = first.t() @ stack, mean, n + len(x)

    def directions(self) -> Tensor:
        """Orthonormal rows, the strongest first, each with its largest number above 0: [<= keep, i]."""
        rows = torch.nn.functional.normalize(self.scaled)
        largest = rows.gather(1, rows.abs().argmax(1, keepdim=True))
        return rows * largest.sign()


def begin_with_inputs(model: Any, setting: Setting) -> None:
    """A begins with the principal directions of each layer's inputs over the first rows of the data.

    Directions that the rows do not have (fewer tokens than the rank) stay as they were drawn.
    """
    with torch.no_grad():
        for layer, seen in _watched(model, islice(setting.sample(), EVA_BATCHES)):
            a = layer.lora_A[DEFAULT].weight
            found = seen.directions()[: len(a)].to(a)
            a[: len(found)] = found


def _watched(model: Any, batches: Iterator[Batch]) -> list[tuple[Any, PrincipalDirections]]:
    """Each layer with the directions of its inputs; layers that read one tensor (q, k, v) share them."""
    lm, found, last = causal_lm(model), dict[Any, PrincipalDirections](), dict[str, Any]()
    whole = own_forward(lm)  # no padding there

    def watch(layer: Any, args: tuple[Tensor, ...]) -> None:
        if last.get("x") is not args[0]:
            kept = slice(None) if whole else last["real"]
            vectors = args[0].reshape(-1, args[0].shape[-1])[kept]
            few = torch.linspace(0, len(vectors) - 1, min(EVA_TOKENS, len(vectors)), device=vectors.device)
            # twice the rank is followed, so that what is weak at first is not lost
            seen = found.get(layer) or PrincipalDirections(2 * layer.r[DEFAULT])
            seen.see(vectors[few.long()])
            last.update(x=args[0], seen=seen)
        found[layer] = last["seen"]

    with ExitStack() as stack:
        for _, layer in lora_layers(model):
            stack.callback(layer.register_forward_pre_hook(watch).remove)
        for batch in batches:
            last["real"] = batch.segments.reshape(-1).to(lm.device) >= 0
            learnt(model, batch, everywhere=True)
    return list(found.items())
