"""The head on a processor: blocks of words give the loss and gradients of all logits at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.kernels import chunks, head, running
from tunesmith.kernels.tables import Table


@pytest.fixture(scope="module", autouse=True)
def seven_words_and_sixteen_rows_a_block():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "RUNNING_WORDS", 7)
        patch.setattr(chunks, "RUNNING_ELEMENTS", 7 * 16)
        yield


def _plain(hidden, made, targets, weights, z_loss):
    logits = made.logits(hidden)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    return ((losses + z_loss * logits.logsumexp(1) ** 2) * weights).sum()


# mutation tried: what was summed not faded to a higher maximum; the target left in the sum as well; hit taken from
# the next block; the cap's slope left out for the target, or for the others; `more` without its 2
@given(
    st.integers(0, 40),
    st.integers(3, 60),
    st.booleans(),
    st.sampled_from([None, 2.5]),
    st.sampled_from([0, 0.01]),
)
@settings(max_examples=60, deadline=None)
def test_loss_and_gradient_equal_cross_entropy_in_float64(rows, vocabulary, biased, softcap, z_loss):
    torch.manual_seed(rows)
    hidden = (3 * torch.randn(rows, 8, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(vocabulary, 8, dtype=torch.float64)
    bias = torch.randn(vocabulary, dtype=torch.float64) if biased else None
    targets, weights = torch.randint(0, vocabulary, (rows,)), torch.rand(rows, dtype=torch.float64)
    made = head.Head(weight, bias, 0.3, softcap)
    plain = _plain(hidden, made, targets, weights, z_loss)
    [theirs] = torch.autograd.grad(plain, hidden)
    ours = head.summed_loss(hidden, made, targets, weights, z_loss=z_loss)
    torch.testing.assert_close(ours, plain)
    [mine] = torch.autograd.grad(ours, hidden)
    assert (mine - theirs).norm() <= 1e-12 * theirs.norm()
    each = torch.nn.functional.cross_entropy(made.logits(hidden), targets, reduction="none")
    torch.testing.assert_close(head.token_losses(hidden.detach(), made, targets), each.detach())


# mutation tried: the weight's gradient put before the bias', whose exponentials stand there; `place` for later chunks;
# the block's memory taken as long as the gradient's, not as the logits are wide
@given(
    st.integers(0, 40),
    st.integers(3, 60),
    st.sampled_from([3, 8, 24, 50]),
    st.booleans(),
    st.sampled_from([None, 2.5]),
    st.sampled_from([0, 0.01]),
)
@settings(max_examples=100, deadline=None)
def test_a_head_that_trains_gets_the_gradients_of_cross_entropy_in_float64(
    rows, vocabulary, width, biased, softcap, z_loss
):
    torch.manual_seed(rows)
    hidden = (3 * torch.randn(rows, width, dtype=torch.float64)).requires_grad_()
    weight = torch.randn(vocabulary, width, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(vocabulary, dtype=torch.float64, requires_grad=True) if biased else None
    targets, weights = torch.randint(0, vocabulary, (rows,)), torch.rand(rows, dtype=torch.float64)
    made, learnt = head.Head(weight, bias, 0.3, softcap), [x for x in (hidden, weight, bias) if x is not None]
    plain = _plain(hidden, made, targets, weights, z_loss)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_ELEMENTS", 0)
        patch.setattr(chunks, "MOST_ELEMENTS", 16 * vocabulary)  # 16 rows in each chunk after the first
        ours = head.summed_loss(hidden, made, targets, weights, z_loss)
    torch.testing.assert_close(ours, plain)
    for mine, theirs in zip(torch.autograd.grad(ours, learnt), torch.autograd.grad(plain, learnt)):
        assert (mine - theirs).norm() <= 1e-12 * theirs.norm()


# mutation tried: never in place; in place whatever the number of rows
@pytest.mark.parametrize(("rows", "width", "there"), [(12, 12, True), (12, 16, True), (12, 11, False)])
def test_exponentials_wait_where_the_gradient_will_be_if_it_is_as_wide(rows, width, there, monkeypatch):
    asked, add = [], running._add

    def seen(held, *others):
        asked.append(held[1].untyped_storage().data_ptr())
        add(held, *others)

    monkeypatch.setattr(running, "_add", seen)
    weight = torch.randn(40, width, requires_grad=True)
    hidden, targets = torch.randn(rows, width), torch.randint(0, 40, (rows,))
    [gradient] = torch.autograd.grad(head.summed_loss(hidden, head.Head(weight), targets), weight)
    assert len(asked) == 6
    assert all((place == gradient.untyped_storage().data_ptr()) == there for place in asked)


@pytest.mark.parametrize("bits", [8, 4])
def test_a_head_in_few_bits_is_made_wide_block_by_block(bits):
    # mutation tried: the whole piece of a table taken for the block
    torch.manual_seed(0)
    table = Table.of(torch.randn(50, 64), bits)
    hidden, targets = torch.randn(20, 64, requires_grad=True), torch.randint(0, 50, (20,))
    loss = head.summed_loss(hidden, head.Head(table), targets)
    [mine] = torch.autograd.grad(loss, hidden)
    wide = table.rows(slice(0, 50), torch.float32)
    plain = torch.nn.functional.cross_entropy(hidden @ wide.T, targets, reduction="sum")
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(mine, torch.autograd.grad(plain, hidden)[0], rtol=1e-5, atol=1e-5)


def test_a_token_that_is_all_but_certain_keeps_its_gradient_in_16_bits():
    # mutation tried: the target summed with the others (8 bits of p leave nothing of 1 - p: 35% off)
    torch.manual_seed(0)
    weight = torch.randn(300, 64)
    targets = torch.arange(40)
    hidden = weight[targets] * 0.25
    exact, rounded = hidden.double().requires_grad_(), hidden.clone().requires_grad_()
    head.summed_loss(exact, weight.bfloat16().double(), targets).backward()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        head.summed_loss(rounded, weight, targets).backward()
    plain = hidden.clone().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = torch.nn.functional.linear(plain, weight).float()
        torch.nn.functional.cross_entropy(logits, targets, reduction="sum").backward()
    off = [float((x.grad.double() - exact.grad).norm() / exact.grad.norm()) for x in (rounded, plain)]
    assert off[0] <= 1.1 * off[1], off


def test_no_more_logits_than_a_block_exist(monkeypatch):
    # mutation tried: the head that trains taken for this one too
    made = []
    product = running.mm

    def counted(*given, **more):
        found = product(*given, **more)
        made.append(found.numel())
        return found

    monkeypatch.setattr(running, "mm", counted)
    hidden = torch.randn(33, 8, requires_grad=True)
    head.summed_loss(hidden, torch.randn(50, 8), torch.zeros(33, dtype=torch.long)).backward()
    assert max(made) == 7 * 16
    assert len(made) == 3 * 8
