"""What is handed to torch's kernel for documents of any length; the kernel itself runs on CUDA alone."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tunesmith.kernels import varlen
from tunesmith.kernels.attention import packed_attention
from tunesmith.kernels.documents import group_documents

SEGMENTS = torch.tensor([[0, 0, 0, 0, 0, 1, 1, 2, 2, 2], [0, 0, 0, 1, 1, 1, 1, 1, -1, -1]])


def by_the_book(q, k, v, cu_q, cu_k, max_q, max_k, *, scale, window_size, enable_gqa=False):  # type: ignore[no-untyped-def]
    """What the documentation of varlen_attn says it does, document by document."""
    assert cu_q.dtype == cu_k.dtype == torch.int32
    assert max_q == max_k == int(cu_q.diff().max())
    left, right = window_size
    assert right == 0
    if enable_gqa:
        k, v = (x.repeat_interleave(q.shape[1] // k.shape[1], 1) for x in (k, v))
    out = torch.zeros_like(q)
    for begin, end in zip(cu_q.tolist(), cu_q.tolist()[1:]):
        at = torch.arange(end - begin)
        apart = at[:, None] - at
        seen = (apart >= 0) & ((apart <= left) if left >= 0 else True)
        parts = (x[begin:end].transpose(0, 1)[None] for x in (q, k, v))
        found = torch.nn.functional.scaled_dot_product_attention(*parts, attn_mask=seen, scale=scale)
        out = torch.cat([out[:begin], found[0].transpose(0, 1), out[end:]])
    return out


# mutations tried: window_size (window, 0); padding left as it comes; enable_gqa False
@pytest.mark.parametrize("window", [None, 2, 3])
@pytest.mark.parametrize("kv_heads", [4, 2])
def test_values_and_gradients_are_those_of_the_groups(
    window: int | None, kv_heads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    made = [torch.randn(2, heads, 10, 8, dtype=torch.float64) for heads in (4, kv_heads, kv_heads)]
    grad = torch.randn(2, 10, 4, 8, dtype=torch.float64)
    documents = group_documents(SEGMENTS)
    results: list[list[Any]] = []
    for kernel in (False, True):
        if kernel:
            monkeypatch.setattr(varlen, "usable", lambda *_, **__: True)
            monkeypatch.setattr(varlen, "_kernel", lambda: by_the_book)
        qkv = [x.clone().requires_grad_() for x in made]
        out, _ = packed_attention(
            torch.nn.Module(), *qkv, None, documents=documents, scaling=0.3, sliding_window=window
        )
        out.backward(grad)
        results.append([out.detach(), *(x.grad for x in qkv)])
    for plain, ours in zip(*results):
        torch.testing.assert_close(ours, plain, rtol=1e-10, atol=1e-12)


# mutations tried: not causal; documents of one row taken as one; the window forgotten
@pytest.mark.parametrize(("rows", "each"), [(1, 2), (2, 1), (2, 3)])
def test_equal_documents_are_those_of_the_groups_too(
    rows: int, each: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(1)
    tokens = each * varlen.EVEN
    documents = group_documents(torch.arange(each).repeat_interleave(varlen.EVEN).expand(rows, -1))
    made = [torch.randn(rows, heads, tokens, 8) for heads in (4, 2, 2)]
    grad = torch.randn(rows, tokens, 4, 8)

    def found(window: int | None = None) -> list[Any]:
        qkv = [x.clone().requires_grad_() for x in made]
        out, _ = packed_attention(
            torch.nn.Module(), *qkv, None, documents=documents, scaling=0.3, sliding_window=window
        )
        out.backward(grad)
        return [out.detach(), *(x.grad for x in qkv)]

    plain = found()
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: False)
    monkeypatch.setattr(varlen, "usable", lambda *_, **__: True)
    monkeypatch.setattr(varlen, "_kernel", lambda: pytest.fail("the kernel for documents of any length"))
    for ours, theirs in zip(found(), plain):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    with pytest.raises(pytest.fail.Exception):
        found(window=100)  # which only that kernel knows
    monkeypatch.setattr(torch, "are_deterministic_algorithms_enabled", lambda: True)
    with pytest.raises(pytest.fail.Exception):
        found()  # cuDNN adds up in any order


def test_what_the_kernel_cannot_do_goes_by_groups() -> None:
    documents = group_documents(SEGMENTS)
    query = torch.zeros(2, 4, 10, 8, dtype=torch.bfloat16)
    asked: dict[str, Any] = {"prefix": 0, "dropout": 0.0, "softcap": None}
    assert not varlen.usable(query, documents, **asked)  # no CUDA
