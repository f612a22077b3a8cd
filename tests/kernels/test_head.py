"""The chunked head: loss and gradient are those of the plain cross-entropy, without all logits."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.kernels import chunks, head


def _plain(hidden, weight, targets):
    return torch.nn.functional.cross_entropy(hidden @ weight.T, targets, reduction="sum")


@pytest.fixture(scope="module", autouse=True)
def sixteen_rows_a_chunk():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "CHUNK_ROWS", 16)
        patch.setattr(chunks, "CHUNK_ELEMENTS", 0)
        yield


@given(st.integers(1, 40), st.integers(0, 9))
@settings(max_examples=20, deadline=None)
def test_loss_and_gradients_equal_cross_entropy_in_float64(rows, seed):
    # mutation tried: onehot not subtracted; chunk offset left out; grad not scaled by the incoming one
    torch.manual_seed(seed)
    hidden = torch.randn(rows, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20_000, 8, dtype=torch.float64, requires_grad=True)  # 16 rows a chunk
    targets = torch.randint(0, 20_000, (rows,))
    (head.summed_loss(hidden, weight, targets) / 7).backward()
    ours = hidden.grad.clone(), weight.grad.clone()
    hidden.grad = weight.grad = None
    plain = _plain(hidden, weight, targets)
    (plain / 7).backward()
    for mine, theirs in zip(ours, (hidden.grad, weight.grad)):
        assert (mine - theirs).norm() <= 1e-12 * theirs.norm()
    torch.testing.assert_close(head.token_losses(hidden, weight, targets).sum(), plain.detach())


def test_the_head_s_gradient_is_made_once_and_given_away():
    # mutation tried: scaled beside the one that was kept
    hidden = torch.randn(5, 8, requires_grad=True)
    weight = torch.randn(1000, 8, requires_grad=True)
    loss = head.summed_loss(hidden, weight, torch.arange(5))
    [made] = [t.data_ptr() for t in loss.grad_fn.saved_tensors if t is not None and t.shape == weight.shape]
    loss.backward(retain_graph=True)
    assert weight.grad.data_ptr() != made  # for a second pass it would be kept
    with pytest.raises(RuntimeError, match="once for a forward pass"):
        loss.backward()
    weight.grad = None
    loss = head.summed_loss(hidden, weight, torch.arange(5))
    [made] = [t.data_ptr() for t in loss.grad_fn.saved_tensors if t is not None and t.shape == weight.shape]
    loss.backward()
    assert weight.grad.data_ptr() == made


def test_a_frozen_head_gets_no_gradient():
    hidden, weight = torch.randn(5, 8, requires_grad=True), torch.randn(11, 8)
    head.summed_loss(hidden, weight, torch.arange(5)).backward()
    assert hidden.grad is not None
    assert weight.grad is None


@pytest.mark.parametrize("vocabulary", [32_000, 152_000])
def test_logits_of_one_chunk_only_are_held(vocabulary):
    assert chunks.rows_per_chunk(vocabulary, None, 4) * vocabulary <= chunks.MOST_ELEMENTS


def test_bf16_autocast_is_no_worse_than_the_plain_bf16_path():
    torch.manual_seed(0)
    hidden, weight = torch.randn(64, 32), torch.randn(500, 32)
    targets = torch.randint(0, 500, (64,))
    exact = _plain(hidden.double(), weight.double(), targets)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours = head.summed_loss(hidden.requires_grad_(), weight, targets)
        plain = torch.nn.functional.cross_entropy(
            torch.nn.functional.linear(hidden, weight).float(), targets, reduction="sum"
        )
    assert abs(ours - exact) <= 1.1 * abs(plain - exact) + 1e-2


def test_no_target_gives_a_loss_of_zero():
    hidden = torch.zeros(0, 8, requires_grad=True)
    loss = head.summed_loss(hidden, torch.randn(11, 8), torch.zeros(0, dtype=torch.long))
    assert loss == 0


# mutation tried: memory as it is found, whatever the number of targets
@pytest.mark.parametrize("targets", [0, 20])
def test_a_trained_weight_s_gradient_holds_nothing_of_the_memory_it_is_made_in(targets, monkeypatch):
    monkeypatch.setattr(
        head, "empty", lambda shape, dtype, device: torch.full((*shape,), torch.nan, dtype=dtype)
    )
    hidden = torch.randn(targets, 8, requires_grad=True)
    weight, bias = torch.randn(3000, 8, requires_grad=True), torch.randn(3000, requires_grad=True)
    head.summed_loss(hidden, head.Head(weight, bias), torch.arange(targets)).backward()
    assert torch.isfinite(weight.grad).all()
    assert torch.isfinite(bias.grad).all()
    assert bool(weight.grad.any()) == bool(targets)


# mutation tried: the cap's slope left out; the scale not applied to the gradient; the bias not added
@pytest.mark.parametrize("softcap", [None, 2.5])
@pytest.mark.parametrize("scale", [1.0, 0.3])
@pytest.mark.parametrize("biased", [False, True])
def test_a_familys_scale_cap_and_bias_are_those_of_the_plain_formula_in_float64(softcap, scale, biased):
    torch.manual_seed(0)
    hidden = torch.randn(33, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20_000, 8, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(20_000, dtype=torch.float64, requires_grad=True) if biased else None
    targets = torch.randint(0, 20_000, (33,))
    (head.summed_loss(hidden, head.Head(weight, bias, scale, softcap), targets) / 7).backward()
    tensors = [x for x in (hidden, weight, bias) if x is not None]
    ours = [x.grad.clone() for x in tensors]
    for tensor in tensors:
        tensor.grad = None
    logits = torch.nn.functional.linear(hidden, weight, bias) * scale
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    plain = torch.nn.functional.cross_entropy(logits, targets, reduction="sum")
    (plain / 7).backward()
    for mine, tensor in zip(ours, tensors):
        assert (mine - tensor.grad).norm() <= 1e-12 * tensor.grad.norm()
    again = head.token_losses(hidden, head.Head(weight, bias, scale, softcap), targets).sum()
    torch.testing.assert_close(again, plain.detach())


# mutation tried: the gradient not weighted; weights of the first chunk used for all; the loss not weighted
@pytest.mark.parametrize("softcap", [None, 2.5])
@pytest.mark.parametrize("rows", [1, 20, 33])
def test_weighted_loss_and_gradients_are_those_of_the_plain_formula_in_float64(softcap, rows):
    torch.manual_seed(rows)
    hidden = torch.randn(rows, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(20_000, 8, dtype=torch.float64, requires_grad=True)  # 16 rows a chunk
    bias = torch.randn(20_000, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(0, 20_000, (rows,)), torch.rand(rows) * 3
    loss = head.summed_loss(hidden, head.Head(weight, bias, 0.3, softcap), targets, weights)
    (loss / 7).backward()
    ours = [x.grad.clone() for x in (hidden, weight, bias)]
    hidden.grad = weight.grad = bias.grad = None
    logits = torch.nn.functional.linear(hidden, weight, bias) * 0.3
    logits = logits if softcap is None else softcap * torch.tanh(logits / softcap)
    plain = (torch.nn.functional.cross_entropy(logits, targets, reduction="none") * weights.double()).sum()
    (plain / 7).backward()
    for mine, tensor in zip(ours, (hidden, weight, bias)):
        assert (mine - tensor.grad).norm() <= 1e-12 * tensor.grad.norm()
    with torch.no_grad():
        again = head.summed_loss(hidden, head.Head(weight, bias, 0.3, softcap), targets, weights)
    torch.testing.assert_close(again, plain.detach())
    torch.testing.assert_close(loss.detach(), plain.detach())


def test_weights_of_one_are_bit_for_bit_no_weights():
    torch.manual_seed(0)
    targets = torch.randint(0, 20_000, (33,))
    found = []
    for weights in (None, torch.ones(33)):
        torch.manual_seed(1)
        hidden, weight = torch.randn(33, 8, requires_grad=True), torch.randn(20_000, 8, requires_grad=True)
        loss = head.summed_loss(hidden, weight, targets, weights)
        loss.backward()
        found.append((loss.detach(), hidden.grad, weight.grad))
    assert all(torch.equal(one, other) for one, other in zip(*found))


# mutation tried: `taken` left at `total`; `more` without its 2
@pytest.mark.parametrize("softcap", [None, 2.5])
def test_z_loss_and_its_gradients_are_those_of_the_plain_formula_in_float64(softcap):
    torch.manual_seed(0)
    hidden = torch.randn(33, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(500, 8, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(0, 500, (33,)), torch.rand(33, dtype=torch.float64)
    loss = head.summed_loss(hidden, head.Head(weight, softcap=softcap), targets, weights, z_loss=0.01)
    ours = torch.autograd.grad(loss, (hidden, weight))
    logits = head.Head(weight, softcap=softcap).logits(hidden)
    norm = logits.logsumexp(1)
    plain = (
        (torch.nn.functional.cross_entropy(logits, targets, reduction="none") + 0.01 * norm**2) * weights
    ).sum()
    torch.testing.assert_close(loss, plain)
    for mine, theirs in zip(ours, torch.autograd.grad(plain, (hidden, weight))):
        assert (mine - theirs).norm() <= 1e-12 * theirs.norm()


# mutation tried: the incoming factor left out for the hidden states; summed_loss without `factors`
@pytest.mark.parametrize("trains", [False, True])
def test_log_probabilities_carry_a_gradient_of_their_own_each_in_float64(trains):
    torch.manual_seed(0)
    hidden = torch.randn(33, 8, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(500, 8, dtype=torch.float64, requires_grad=trains)
    bias = torch.randn(500, dtype=torch.float64, requires_grad=trains)
    targets, factors = torch.randint(0, 500, (33,)), torch.randn(33, dtype=torch.float64)
    wanted = (hidden, weight, bias) if trains else (hidden,)
    found = head.log_probabilities(hidden, head.Head(weight, bias, 0.3, 2.5), targets)
    ours = torch.autograd.grad((found * factors).sum(), wanted)
    logits = head.Head(weight, bias, 0.3, 2.5).logits(hidden)
    plain = torch.log_softmax(logits, 1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found, plain)
    for mine, theirs in zip(ours, torch.autograd.grad((plain * factors).sum(), wanted)):
        assert (mine - theirs).norm() <= 1e-12 * theirs.norm()
