"""AdamW in 8 bits: how near it stays to the one in 32, what it weighs, and that it goes on where it stopped."""

import hypothesis
import pytest
import torch
from hypothesis import strategies as st

from tests.engine.adam_steps import loss_of_a_small_problem, straight_and_resumed
from tunesmith.engine.adam8 import AdamW8bit, nearest, one_of_two, signed_codes, square_codes
from tunesmith.engine.optim import make_optimizer, set_rate
from tunesmith.tuning.method import ParameterGroup


def both(shape, kinds=("adamw", "adamw_8bit"), decay=0.0, seed=0):
    torch.manual_seed(seed)
    begin = torch.randn(shape)
    made = []
    for kind in kinds:
        parameter = torch.nn.Parameter(begin.clone())
        made.append((parameter, make_optimizer([ParameterGroup((parameter,), decay)], (0.9, 0.999), kind)))
    return made


def test_codes_are_256_ascending_numbers():
    for codes, least in ((signed_codes(), -1.0), (square_codes(), 0.0)):
        assert len(codes) == 256
        assert bool((codes[1:] > codes[:-1]).all())
        assert codes[0] >= least
        assert codes[-1] == 1.0
        assert bool((codes == 0).any())


@hypothesis.settings(deadline=None)
@hypothesis.given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=50))
def test_the_nearest_code_is_nearest(values):
    given, codes = torch.tensor(values), signed_codes()
    found = codes[nearest(given, codes).int()]
    torch.testing.assert_close((found - given).abs(), (codes[:, None] - given).abs().amin(dim=0))


@hypothesis.settings(deadline=None, max_examples=20)
@hypothesis.given(st.floats(2.0**-50, 1, width=32))
def test_one_of_two_codes_has_the_value_as_its_mean_and_is_never_0(value):
    # mutation tried: the nearest of the two; no smallest code
    codes, chance = square_codes(), (torch.arange(20000) + 0.5) / 20000
    found = codes[one_of_two(torch.full((20000,), value), codes, chance).int()]
    assert float(found.min()) > 0
    assert float(found.mean()) == pytest.approx(max(value, float(codes[1])), rel=1e-3)
    assert len(found.unique()) <= 2


def test_moments_follow_gradients_that_fall_in_part_of_a_block():
    # mutation tried: v to its nearest code: the root stays 1.7 times too large
    (_, wide), (_, narrow) = both((1, 4096))
    falls = torch.arange(4096) % 2 == 0
    for step in range(1000):
        gradient = torch.randn(1, 4096) * torch.where(falls & (step >= 200), 0.2, 1.0)
        for optimizer in (wide, narrow):
            optimizer.param_groups[0]["params"][0].grad = gradient.clone()
            optimizer.step()
    [exact], [coded] = (list(optimizer.state.values()) for optimizer in (wide, narrow))
    found = square_codes()[coded["v_codes"].int()] * coded["v_scales"][:, None]
    ratio = (found.view(1, 4096) / exact["exp_avg_sq"]).sqrt()[:, falls]
    assert float(ratio.median()) == pytest.approx(1.0, abs=0.08)
    assert float(ratio.log().std()) < 0.2


def test_weights_of_a_small_problem_go_where_those_of_fp32_go():
    # mutation tried: the scale of m's blocks left at 1
    wide, narrow = loss_of_a_small_problem("adamw"), loss_of_a_small_problem("adamw_8bit")
    assert narrow == pytest.approx(wide, rel=0.02)
    assert wide < 0.5


def test_a_step_from_equal_gradients_is_the_step_of_fp32():
    """The first step has no coded history: equal to rounding; later ones are apart by the codes' noise."""
    (wide, first), (narrow, second) = both((100, 90), decay=0.1)  # 9000 numbers: the last block is not full
    set_rate(first, 1e-3)
    set_rate(second, 1e-3)
    wide.grad, narrow.grad = torch.randn(2, 100, 90)[0], None
    narrow.grad = wide.grad.clone()
    first.step()
    second.step()
    torch.testing.assert_close(narrow, wide, rtol=1e-6, atol=1e-8)


def test_small_tensors_are_as_in_fp32():
    (wide, first), (narrow, second) = both((63, 65))
    for optimizer in (first, second):
        set_rate(optimizer, 1e-2)
    for _ in range(20):
        gradient = torch.randn(63, 65)
        wide.grad, narrow.grad = gradient, gradient.clone()
        first.step()
        second.step()
    torch.testing.assert_close(narrow, wide, rtol=1e-5, atol=1e-6)


def test_two_bytes_a_parameter():
    parameter = torch.nn.Parameter(torch.randn(512, 512))
    optimizer = AdamW8bit([{"params": [parameter]}], (0.9, 0.999), 1e-8)
    parameter.grad = torch.randn(512, 512)
    optimizer.step()
    held = sum(tensor.numel() * tensor.element_size() for tensor in optimizer.state[parameter].values())
    assert held / parameter.numel() == pytest.approx(2 + 2 * 4 / 256, abs=1e-4)


@pytest.mark.filterwarnings("ignore:Paged optimizers")
@pytest.mark.parametrize("kind", ["adamw_8bit", "paged_adamw", "paged_adamw_8bit"])
def test_it_goes_on_bit_for_bit_from_a_checkpoints_tensors(kind):
    # mutation tried: draws from torch's own random state
    (straight, _), (resumed, _) = straight_and_resumed(kind)
    assert torch.equal(resumed, straight)
