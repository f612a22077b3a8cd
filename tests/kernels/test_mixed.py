"""What trains in fp32 and computes in bf16: the node of a card, here on a processor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn.functional import gelu, silu

from tests.kernels.test_product import far_from
from tests.model.test_lean import TUNINGS, gradients
from tests.tiny import tiny_model
from tunesmith.kernels import mixed, product
from tunesmith.kernels.gate import Act, gate
from tunesmith.kernels.norm import Spelling, rms_norm
from tunesmith.model.lean import lean
from tunesmith.model.load import without_dropout


def on_card(patch: pytest.MonkeyPatch) -> None:
    """Take a weight that trains under a processor's autocast as a card takes its own."""

    def is_mixed(x: Tensor, weight: Tensor) -> bool:
        trains = weight.requires_grad and weight.dtype == torch.float32
        return trains and torch.is_autocast_enabled("cpu")

    patch.setattr(product, "is_mixed", is_mixed)


def of_a_pass(layer: Any, x: Tensor, weight: Tensor, bias: Tensor | None, slope: Tensor) -> list[Tensor]:
    """Output, and gradients of x, weight and bias."""
    given = [None if t is None else t.clone().requires_grad_() for t in (x, weight, bias)]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = layer(*given)
    assert out.dtype == torch.bfloat16
    out.backward(slope.to(out.dtype))
    return [out.detach(), *(t.grad for t in given if t is not None and t.grad is not None)]


# mutation tried: dW made in bf16 and copied wide; W16' for W16; the bias's gradient left out
@pytest.mark.parametrize("narrow", [False, True], ids=["fp32 input", "bf16 input"])
@pytest.mark.parametrize("with_bias", [False, True], ids=["no bias", "bias"])
def test_gradients_are_those_of_autocast_and_closer_to_the_truth(narrow: bool, with_bias: bool) -> None:
    torch.manual_seed(0)
    x, weight, slope = torch.randn(5, 40, 24), torch.randn(32, 24), torch.randn(5, 40, 32).bfloat16()
    x, bias = x.bfloat16() if narrow else x, torch.randn(32) if with_bias else None
    rounded = [x.bfloat16().double(), weight.bfloat16().double()]
    wide = slope.double().flatten(0, 1)
    truth = [(slope.double() @ rounded[1]), wide.t() @ rounded[0].flatten(0, 1), wide.sum(0)]
    plain = of_a_pass(torch.nn.functional.linear, x, weight, bias, slope)
    ours = of_a_pass(lambda *given: mixed.mixed_linear(*given, torch.bfloat16), x, weight, bias, slope)
    assert [t.dtype for t in ours] == [t.dtype for t in plain]
    assert far_from(ours[0], plain[0].double()) < 1e-6
    for found, other, exact in zip(ours[1:], plain[1:], truth):
        assert far_from(found, exact) <= 1.01 * far_from(other, exact) + 1e-7
    assert far_from(ours[2], truth[1]) < 1e-6 < 1e-4 < far_from(plain[2], truth[1])


# mutation tried: h remade without up; dW made in bf16 and copied wide; the gradient of up for that of gates
@pytest.mark.parametrize("halves", [False, True], ids=["apart", "halves"])
@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh"])
def test_a_layer_behind_a_gate_keeps_no_input(
    act: Act, halves: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_card(monkeypatch)
    torch.manual_seed(0)
    both, weight, bias = torch.randn(5, 8, 2 * 24).bfloat16(), torch.randn(32, 24), torch.randn(32)
    slope, kept = torch.randn(5, 8, 32).bfloat16(), list[tuple[int, ...]]()

    def node(gates: Tensor, up: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return product.gated_linear(gates, up, act, weight, bias)

    def plain(gates: Tensor, up: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        acts = {"silu": silu, "gelu": gelu, "gelu_tanh": lambda x: gelu(x, approximate="tanh")}
        return torch.nn.functional.linear(acts[act](gates) * up, weight, bias)

    def found(way: Any, kind: torch.dtype) -> list[Tensor]:
        given = [
            t.detach().clone().to(kind if kind == torch.float64 else t.dtype).requires_grad_()
            for t in (both, weight, bias)
        ]
        gates, up = given[0].chunk(2, -1) if halves else (t.contiguous() for t in given[0].chunk(2, -1))
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=kind != torch.float64):
            out = way(gates, up, *given[1:])
        out.backward(slope.to(out.dtype))
        return [out.detach(), *(t.grad for t in given if t.grad is not None)]

    truth = found(plain, torch.float64)
    ours, theirs = found(node, torch.bfloat16), found(plain, torch.bfloat16)
    assert [t.dtype for t in ours] == [t.dtype for t in theirs]
    for mine, other, exact in zip(ours, theirs, truth, strict=True):
        assert far_from(mine, exact) <= 1.01 * far_from(other, exact) + 1e-7
    hidden = gate(*(t.flatten(0, 1).contiguous() for t in both.detach().chunk(2, -1)), act)
    of_weight = slope.double().flatten(0, 1).t() @ hidden.double()
    assert far_from(ours[2], of_weight) < 1e-6 < 1e-4 < far_from(theirs[2], of_weight)
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(tuple(t.shape)) or t, lambda t: t)
    with torch.autocast("cpu", dtype=torch.bfloat16), hooks:
        node(*(t.requires_grad_() for t in (both[..., :24], both[..., 24:], weight, bias)))
    assert kept == [(5, 8, 24), (5, 8, 24), (32, 24)]


def test_what_trains_in_fp32_on_a_card_under_autocast_goes_that_way(monkeypatch: pytest.MonkeyPatch) -> None:
    class OnCard(Tensor):
        is_cuda = True  # type: ignore[assignment]

    there, weight = torch.randn(3, 4).as_subclass(OnCard), torch.randn(4, 4).requires_grad_()
    assert not mixed.is_mixed(there, weight)  # no autocast
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda device: device == "cuda")
    assert mixed.is_mixed(there, weight)
    assert not mixed.is_mixed(torch.randn(3, 4), weight)
    assert not any(mixed.is_mixed(there, other) for other in (weight.detach(), weight.bfloat16()))
    made: list[Any] = []
    monkeypatch.setattr(product, "mixed_linear", lambda *given: made.append(given))
    product.linear(there, weight)
    assert made[0][1] is weight


# mutation tried: dW a hundredth too large
@pytest.mark.parametrize("checkpointing", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("family", ["llama", "qwen2", "gemma2"])
def test_a_whole_model_learns_what_it_learns_by_autocast(
    family: str, checkpointing: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_ONEDNN", "1")  # or its layers would not ask kernels/product.py
    kinds: dict[str, dict[str, Tensor]] = {}
    taken: list[Tensor] = []

    def node(x: Tensor, weight: Tensor, bias: Tensor | None, _: torch.dtype) -> Tensor:
        taken.append(weight)
        return mixed.mixed_linear(x, weight, bias, torch.bfloat16)

    monkeypatch.setattr(product, "mixed_linear", node)
    for kind in ("truth", "autocast", "node"):
        if kind == "node":  # the head is no such layer: it has its own way, without autocast
            on_card(monkeypatch)
        lm = tiny_model(family, hidden_size=64, intermediate_size=160)
        lm = lean(without_dropout(lm.double() if kind == "truth" else lm))
        kinds[kind] = gradients(lm, TUNINGS["full"], kind != "truth", checkpointing)
    assert len({id(weight) for weight in taken}) == 7 * lm.config.num_hidden_layers

    def off(kind: str) -> float:
        return sum(far_from(kinds[kind][name], t.double()) for name, t in kinds["truth"].items())

    assert off("node") <= 1.02 * off("autocast")


@pytest.mark.parametrize("spelling", ["rms", "scaled", "offset"])
def test_under_autocast_a_norm_gives_what_linear_layers_would_make_of_it(spelling: Spelling) -> None:
    torch.manual_seed(1)
    x, weight = torch.randn(7, 96), torch.randn(96)
    wide = rms_norm(x, weight, 1e-5, spelling)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        narrow = rms_norm(x, weight, 1e-5, spelling)
        again = rms_norm(x, weight, 1e-5, spelling)
    assert wide.dtype == torch.float32
    assert torch.equal(narrow, wide.bfloat16())
    assert torch.equal(narrow, again)  # the input is as it was
