"""Embedding and head in 8 or 4 bits: what the codes say, and a head that multiplies with exactly that."""

import pytest
import torch

from tunesmith.kernels import chunks, head
from tunesmith.kernels.tables import NF4, Table

WEIGHT = (
    torch.randn(500, 128, generator=torch.Generator().manual_seed(0)) * torch.linspace(0.1, 3, 500)[:, None]
)


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Seven pieces of the vocabulary, chunks of 16 rows."""
    monkeypatch.setattr("tunesmith.kernels.tables.PIECE_ELEMENTS", 128 * 80)
    monkeypatch.setattr(chunks, "CHUNK_ROWS", 16)
    monkeypatch.setattr(chunks, "CHUNK_ELEMENTS", 0)


def wide(table, dtype=torch.float32):
    return torch.cat([table.rows(piece, dtype) for piece in table.pieces()])


def test_four_bits_are_those_of_bitsandbytes_bit_for_bit():
    # mutation tried: nibbles swapped; a level of the table changed
    from bitsandbytes.functional import dequantize_4bit, get_4bit_type, quantize_4bit

    codes, state = quantize_4bit(WEIGHT, blocksize=64, quant_type="nf4")
    table = Table.of(WEIGHT, 4)
    assert get_4bit_type("nf4", device="cpu").tolist() == list(NF4)
    assert torch.equal(table.codes.view(-1), codes.view(-1))
    assert torch.equal(wide(table), dequantize_4bit(codes, state))


def test_eight_bits_are_off_by_half_a_step_of_their_block_at_most():
    table = Table.of(WEIGHT, 8)
    step = WEIGHT.view(500, 2, 64).abs().amax(2, keepdim=True) / 127
    assert ((wide(table) - WEIGHT).view(500, 2, 64).abs() <= 0.5001 * step).all()
    assert wide(table, torch.bfloat16).equal(wide(table).bfloat16())


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("width", [128, 24])
def test_rows_looked_up_are_those_of_the_whole(bits, width):
    table = Table.of(WEIGHT[:, :width], bits)
    ids = torch.tensor([3, 499, 0, 3])
    assert torch.equal(table.take(ids, torch.float32), wide(table)[ids])
    assert table.take(ids[:0], torch.float32).shape == (0, width)


def test_a_row_of_zeros_stays_one():
    weight = torch.zeros(3, 64)
    assert all(torch.equal(wide(Table.of(weight, bits)), weight) for bits in (8, 4))


# mutation tried: a piece's logits put in the place of the one before; one piece left out of the gradient
@pytest.mark.parametrize("softcap", [None, 2.5])
@pytest.mark.parametrize("bits", [8, 4])
def test_loss_and_gradients_are_those_of_the_wide_weight_in_float64(bits, softcap):
    torch.manual_seed(0)
    table = Table.of(WEIGHT, bits)
    hidden = torch.randn(37, 128, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(500, dtype=torch.float64, requires_grad=True)
    targets, weights = torch.randint(0, 500, (37,)), torch.rand(37, dtype=torch.float64)
    ours = head.summed_loss(hidden, head.Head(table, bias, softcap=softcap), targets, weights, z_loss=0.01)
    plain = head.Head(wide(table).double(), bias, softcap=softcap)
    logits = plain.logits(hidden)
    norm = logits.logsumexp(1)
    losses = torch.nn.functional.cross_entropy(logits, targets, reduction="none")
    theirs = ((losses + 0.01 * norm**2) * weights).sum()
    torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=0)
    for mine, other in zip(
        *(torch.autograd.grad(loss, (hidden, bias), retain_graph=True) for loss in (ours, theirs))
    ):
        assert (mine - other).norm() <= 1e-12 * other.norm()
    torch.testing.assert_close(
        head.token_losses(hidden, head.Head(table, bias, 1.0, softcap), targets), losses.detach()
    )
    each = head.log_probabilities(hidden, head.Head(table, bias.detach(), 1.0, softcap), targets)
    (mine,) = torch.autograd.grad((each * weights).sum(), hidden)
    (other,) = torch.autograd.grad((-losses * weights).sum(), hidden)
    assert (mine - other).norm() <= 1e-12 * other.norm()


@pytest.mark.parametrize("bits", [8, 4])
def test_bf16_is_no_worse_than_the_wide_weight_in_bf16(bits):
    torch.manual_seed(1)
    table, targets = Table.of(WEIGHT, bits), torch.randint(0, 500, (64,))
    hidden = torch.randn(64, 128) / 4

    def gradient(weight, dtype):
        x = hidden.to(dtype).requires_grad_()
        head.summed_loss(x, weight, targets).backward()
        return x.grad.double()

    exact = gradient(wide(table).double(), torch.float64)
    apart = [(gradient(w, torch.bfloat16) - exact).norm() for w in (table, wide(table, torch.bfloat16))]
    assert apart[0] <= 1.05 * apart[1]
