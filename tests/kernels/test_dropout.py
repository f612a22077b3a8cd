"""Dropout by 16 bits a number: of the right share, of no pattern, with the mean kept, and torch's to autograd."""

from __future__ import annotations

import math

import pytest
import torch

from tunesmith.kernels.dropout import Dropout, draw_mask, kept_share

RATES = [1e-6, 0.05, 0.1, 0.3, 0.5, 0.9, 0.999]


@pytest.mark.parametrize("p", RATES)
def test_the_share_that_is_kept_is_the_one_that_was_asked(p: float) -> None:
    # mutation tried: bits < border without regard to their sign
    torch.manual_seed(0)
    mask = draw_mask(torch.empty(1000, 1003), p)
    assert mask.dtype == torch.int8
    assert set(mask.unique().tolist()) <= {0, 1}
    share, count = kept_share(p), mask.numel()
    assert abs(share - (1 - p)) <= 2**-16
    assert abs(mask.sum().item() / count - share) < 4 * math.sqrt(share * (1 - share) / count)


@pytest.mark.parametrize("p", RATES)
def test_of_all_bits_exactly_that_share_is_kept(p: float, monkeypatch: pytest.MonkeyPatch) -> None:
    # mutation tried: border one too high
    every = torch.arange(2**16, dtype=torch.int32).to(torch.int16).view(torch.int64)
    monkeypatch.setattr(torch.Tensor, "random_", lambda self, *_: self.copy_(every))
    assert draw_mask(torch.empty(2**16), p).sum() == kept_share(p) * 2**16


def test_what_is_dropped_has_no_pattern() -> None:
    # mutation tried: random_() without its bounds, whose every fourth number lacks the highest bit
    torch.manual_seed(1)
    mask = draw_mask(torch.empty(4096, 256), 0.5).double()
    noise = 4 / math.sqrt(mask.numel())
    for place in range(4):  # of the four numbers of one draw
        assert abs(mask.view(-1)[place::4].mean() - 0.5) < 2 * noise
    for lag in (1, 2, 3, 4, 5, 16, 256):
        flat = mask.view(-1) - 0.5
        assert abs((flat[:-lag] * flat[lag:]).mean() / 0.25) < noise
    assert not torch.equal(draw_mask(mask, 0.5).double(), mask)
    assert torch.equal(again(mask), again(mask))


def again(like: torch.Tensor) -> torch.Tensor:
    torch.manual_seed(2)
    return draw_mask(like, 0.5)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_it_is_a_mask_over_the_share_forward_and_backward(dtype: torch.dtype) -> None:
    x = torch.randn(37, 11, dtype=dtype, requires_grad=True)
    layer = Dropout(0.3)
    torch.manual_seed(3)
    out = layer(x)
    [grad] = torch.autograd.grad(out.sum(), x)
    torch.manual_seed(3)
    wanted = draw_mask(x, 0.3).to(dtype)
    assert out.dtype == dtype
    torch.testing.assert_close(out, x * wanted / kept_share(0.3))
    torch.testing.assert_close(grad, wanted / kept_share(0.3))


def test_nothing_is_dropped_where_it_does_not_train_or_at_a_rate_of_0() -> None:
    x = torch.randn(9, 4)
    assert Dropout(0.5).eval()(x) is x
    assert Dropout(0.0)(x) is x


@pytest.mark.parametrize("shape", [(0, 4), (1,), (3,), (5, 1)])
def test_any_count_will_do(shape: tuple[int, ...]) -> None:
    assert draw_mask(torch.empty(shape), 0.2).shape == shape
