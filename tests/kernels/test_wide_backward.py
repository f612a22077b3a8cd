"""Attention in bf16 whose backward pass is fp32: nearer to the truth than torch's own, with nothing more kept."""

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from tunesmith.kernels import chunks, wide_backward


def _inputs(dtype: torch.dtype, length: int = 24) -> list[torch.Tensor]:
    torch.manual_seed(0)
    given = [torch.randn(3, 2, length, 16).to(torch.bfloat16) for _ in range(3)]
    return [x.to(dtype).requires_grad_() for x in given]


def _mask() -> torch.Tensor:
    """The last four tokens of each document ask: Bool[3 1 4 24]."""
    at, keys = torch.arange(20, 24), torch.arange(24)
    return (at[:, None] >= keys).expand(3, 1, 4, 24)


def _own(query, key, value, mask, scale):
    return scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale
    )


def _gradients(attend, dtype, mask):
    query, key, value = _inputs(dtype)
    out = attend(query if mask is None else query[:, :, 20:], key, value, mask, 0.3)
    weights = torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view_as(out)
    (out.double() * weights).sum().backward()
    return [out.detach().double(), *(x.grad.double() for x in (query, key, value))]


@pytest.mark.parametrize("mask", [None, _mask()], ids=["square", "few ask"])
def test_output_and_gradients_are_no_further_from_float64_than_torchs_own(mask, monkeypatch):
    # mutation tried: the mask left out of the backward pass; scale left out of it
    monkeypatch.setattr(wide_backward, "WIDE_TOKENS", 50)  # two documents, and one
    exact = _gradients(_own, torch.float64, mask)
    ours = _gradients(wide_backward.attend, torch.bfloat16, mask)
    torchs = _gradients(_own, torch.bfloat16, mask)
    for right, here, there in zip(exact, ours, torchs):
        assert (here - right).norm() <= 1.02 * (there - right).norm()


def test_as_many_bytes_are_kept_as_torchs_own_attention_keeps():
    kept = dict[str, int]()
    for name, attend in (("own", _own), ("wide", wide_backward.attend)):
        held = dict[int, int]()

        def pack(x, held=held):
            held[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            out = attend(*_inputs(torch.bfloat16), None, None)
        kept[name] = sum(held.values())
        del out
    assert kept["own"] == kept["wide"]


def test_it_is_for_short_documents_in_bf16_that_learn():
    query, key, _ = _inputs(torch.bfloat16)
    assert wide_backward.pays(query, key, 0.0)
    assert not wide_backward.pays(query, key, 0.1)
    assert not wide_backward.pays(*_inputs(torch.float32)[:2], 0.0)
    assert not wide_backward.pays(*_inputs(torch.bfloat16, chunks.WIDE_LONGEST + 1)[:2], 0.0)
    with torch.no_grad():
        assert not wide_backward.pays(query, key, 0.0)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert wide_backward.pays(*_inputs(torch.float32)[:2], 0.0)
