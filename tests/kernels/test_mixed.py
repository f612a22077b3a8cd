"""What trains in fp32 and computes in bf16: the node of a card, here on a processor."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from tests.kernels.test_product import far_from
from tunesmith.kernels import mixed, product
from tunesmith.kernels.norm import Spelling, rms_norm


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
