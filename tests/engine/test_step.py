"""One step: how often it waits for the device."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import random_samples, tiny_model
from tunesmith.engine.step import Stepper
from tunesmith.model.quantised import Held, hold
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.recipe import Optim, parse
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Moments, Setting

SAMPLES = random_samples(9, seed=5)


class ReadsOf(TorchDispatchMode):
    """Counts what is brought from the `meta` device, which holds no numbers: nothing else could know of one."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        there = next((x for x in args if isinstance(x, torch.Tensor) and x.is_meta), None)
        to = (kwargs or {}).get("device")
        if there is None or func is not torch.ops.aten._to_copy.default or to is None or to.type == "meta":
            return func(*args, **(kwargs or {}))
        self.count += 1
        return torch.ones(there.shape, dtype=kwargs.get("dtype") or there.dtype)


def stepper_on(device: str, tuning: dict, **model: object) -> Stepper:
    checked = parse({"model": "m", "data": {"train": "none.jsonl"}, "tuning": tuning}).tuning
    lm, method = tiny_model(**model), build(checked)
    if checked.base != "none":
        lm = hold(lm, Held(checked.base, checked.double_quant))
    tuned = method.prepare(lm, Setting())
    if device != "cpu":
        tuned.model.to(device)
        tuned.trainable.update({n: p for n, p in tuned.model.named_parameters() if p.requires_grad})
    tuned.model.train()
    groups = method.parameter_groups(tuned, Optim())
    # torch's fused AdamW does not run on meta; on a card it reads nothing either
    optimizer = torch.optim.SGD([{"params": list(group.parameters)} for group in groups], lr=0.1)
    hooks = method.hooks(tuned, Moments(optimizer))
    return Stepper(tuned, optimizer, hooks, summed_loss, packing=True, autocast=False, grad_clip=1.0)


# mutation tried: the loss brought over after each micro-batch, as it was before
@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2"])
@pytest.mark.parametrize(
    "tuning",
    [{"method": "full"}, {"method": "lora", "rank": 4}, {"method": "lora", "variant": "dora"}],
    ids=str,
)
def test_a_step_of_several_micro_batches_waits_for_the_device_once(tuning, family, monkeypatch):
    """On `meta` every other way to a number (item, nonzero, a mask as index) raises by itself."""
    # meta has no autocast to be asked about
    monkeypatch.setattr(torch, "autocast", lambda *args, **values: nullcontext())
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: False)
    stepper = stepper_on("meta", tuning, family=family)
    micro_batches = sum(1 for _ in stepper._cut(SAMPLES, 40))
    assert micro_batches >= 4
    with ReadsOf() as reads:
        result = stepper.take(1, SAMPLES, 30.0, 40)
    assert reads.count == 1
    assert (result.loss_nats, result.grad_norm) == (1.0, 1.0)
    assert result.judgement.verdict == "take"


class Items(TorchDispatchMode):
    """Counts numbers asked of tensors one by one, wherever they are."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


# mutation tried: int(total) after a micro-batch
@pytest.mark.parametrize("tuning", [{"method": "lora", "rank": 4}, {"method": "qlora", "rank": 4}], ids=str)
def test_no_number_is_asked_of_a_tensor_within_a_step(tuning):
    """4-bit weights do not exist on `meta`; here the one read of a step copies, and asks for nothing singly."""
    stepper = stepper_on("cpu", tuning)
    with Items() as items:
        stepper.take(1, SAMPLES, 30.0, 40)
    assert items.count == 0
