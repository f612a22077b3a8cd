"""AdamW with bf16 moments: rounding with the right mean, nothing that stands still, and the same bits when resumed."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn

from tests.engine import adam_steps
from tests.engine.adam_steps import BETAS, loss_of_a_small_problem, straight_and_resumed, take
from tunesmith.engine.adam16 import one_of_two
from tunesmith.engine.optim import make_optimizer, set_rate
from tunesmith.tuning.method import ParameterGroup

made = functools.partial(adam_steps.made, kind="adamw_bf16")


# mutation tried: the nearest of the two
@pytest.mark.parametrize("value", [1.001, -1.001, 3.14159, -2.5e-30, 1.9999, 6e-39, 1e-41, 0.0, 1.5, -1.0])
def test_over_all_draws_the_mean_is_the_value(value: float) -> None:
    given = torch.full((65536,), value)
    found = one_of_two(given, torch.arange(65536, dtype=torch.int32))
    assert found.dtype == torch.bfloat16
    assert found.double().mean().item() == given[0].double().item()  # every draw once: exact
    assert len(found.unique()) == (1 if given.bfloat16()[0] == given[0] else 2)


# mutation tried: to the nearest; the same draws at each step (the root is then 1.6 times too large)
def test_moments_follow_gradients_that_fall_over_2000_steps() -> None:
    torch.manual_seed(0)
    begin = torch.zeros(1, 1024)
    wide, exact = made(begin, kind="adamw")
    narrow, held = made(begin)
    for step in range(2200):
        gradient = torch.randn(1, 1024) * (1.0 if step < 200 else 0.2)
        take(wide, exact, [gradient])
        take(narrow, held, [gradient])
    [one], [other] = exact.state.values(), held.state.values()
    root = (other["exp_avg_sq"].float() / one["exp_avg_sq"]).sqrt()
    assert root.mean().item() == pytest.approx(1.0, abs=0.003)
    assert root.std().item() < 0.035
    apart = other["exp_avg"].float() - one["exp_avg"]
    assert apart.mean().abs() < 1e-4 * one["exp_avg"].std() * 10
    assert apart.std() < 0.01 * one["exp_avg"].std()


def test_the_first_step_is_that_of_fp32_and_later_ones_differ_by_the_rounding() -> None:
    """With weight decay. After 50 steps a weight is off by 0.3% of its way (standard deviation), the mean by less."""
    torch.manual_seed(1)
    begin, gradients = torch.randn(100, 90), [torch.randn(100, 90) + 1 for _ in range(50)]
    wide, exact = made(begin, kind="adamw", decay=0.1, lr=1e-3)
    narrow, held = made(begin, decay=0.1, lr=1e-3)
    take(wide, exact, gradients[:1])
    take(narrow, held, gradients[:1])
    torch.testing.assert_close(narrow, wide, rtol=1e-6, atol=1e-8)
    take(wide, exact, gradients[1:])
    take(narrow, held, gradients[1:])
    moved, apart = (wide - begin).detach(), (narrow - wide).detach()
    assert apart.std() < 0.01 * moved.abs().mean()
    assert apart.mean().abs() < 5e-4 * moved.abs().mean()


def test_weights_of_a_small_problem_go_where_those_of_fp32_go() -> None:
    wide, narrow = loss_of_a_small_problem("adamw"), loss_of_a_small_problem("adamw_bf16")
    assert narrow == pytest.approx(wide, rel=0.01)
    assert wide < 0.5


def test_four_bytes_a_parameter_of_any_size() -> None:
    for shape in ((512, 512), (3,)):
        parameter, optimizer = made(torch.randn(shape))
        take(parameter, optimizer, [torch.randn(shape)])
        state = optimizer.state[parameter]
        assert sum(state[name].nbytes for name in ("exp_avg", "exp_avg_sq")) == 4 * parameter.numel()
        assert set(state) == {"step", "exp_avg", "exp_avg_sq"}


def test_groups_have_rates_and_decay_of_their_own() -> None:
    """As LoRA+ asks for; a parameter without a gradient stays where it is."""
    torch.manual_seed(2)
    first, second, third = (nn.Parameter(torch.ones(8, 8)) for _ in range(3))
    groups = [ParameterGroup((first, third), 0.0), ParameterGroup((second,), 0.5, lr_scale=16.0)]
    optimizer = make_optimizer(groups, BETAS, "adamw_bf16")
    set_rate(optimizer, 1e-3)
    first.grad, second.grad = torch.ones(8, 8), torch.ones(8, 8)
    optimizer.step()
    torch.testing.assert_close(first.data, torch.full((8, 8), 1 - 1e-3))
    torch.testing.assert_close(second.data, torch.full((8, 8), 1 - 16e-3 * 0.5 - 16e-3))
    assert torch.equal(third.data, torch.ones(8, 8))


def test_a_piece_after_the_other_is_the_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    # mutation tried: every piece begins at 0
    torch.manual_seed(3)
    begin, gradients = torch.randn(40, 50), [torch.randn(40, 50) for _ in range(5)]
    whole, one = made(begin)
    take(whole, one, gradients)
    monkeypatch.setattr("tunesmith.engine.small_adam.PIECE", 512)
    pieces, other = made(begin)
    take(pieces, other, gradients)
    torch.testing.assert_close(pieces, whole, rtol=0.02, atol=2e-3)


def test_it_goes_on_bit_for_bit_and_draws_nothing_from_torch() -> None:
    # mutation tried: draws from torch's own random state
    (straight, whole), (resumed, after) = straight_and_resumed("adamw_bf16")
    assert torch.equal(resumed, straight)
    for name, value in whole.state[straight].items():
        assert torch.equal(after.state[resumed][name], value)


def test_each_parameter_has_draws_of_its_own() -> None:
    # mutation tried: seeds without the place
    begin, gradient = torch.zeros(64, 64), torch.full((64, 64), 1.001)
    first, second = nn.Parameter(begin.clone()), nn.Parameter(begin.clone())
    optimizer = make_optimizer([ParameterGroup((first, second), 0.0)], BETAS, "adamw_bf16")
    first.grad, second.grad = gradient.clone(), gradient.clone()
    optimizer.step()
    one, other = (optimizer.state[p]["exp_avg_sq"] for p in (first, second))
    assert not torch.equal(one, other)
