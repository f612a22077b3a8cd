"""Products by oneDNN equal MKL's, wherever they are asked for."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.model.test_lean import TUNINGS, far, gradients
from tests.tiny import DENSE, tiny_model
from tunesmith.bench.cell import peak_of
from tunesmith.kernels import processor, product
from tunesmith.kernels.head import Head, summed_loss
from tunesmith.model import lean
from tunesmith.model.load import without_dropout

pytestmark = pytest.mark.skipif(
    product._onednn is None, reason="this torch is built without oneDNN's products"
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """oneDNN is asked for every product in fp32; shapes of what it made."""
    made: list[tuple[int, ...]] = []
    ask = product._asked

    def heard(*given: Any) -> Tensor:
        made.append(tuple((out := ask(*given)).shape))
        return out

    monkeypatch.setattr(product, "_asked", heard)
    monkeypatch.setattr(product, "LEAST", 0)
    monkeypatch.setenv("TUNESMITH_ONEDNN", "1")
    return made


def far_from(found: Tensor, truth: Tensor) -> float:
    return float((found.double() - truth).norm() / truth.norm())


# mutation tried: b as it is in the place of b.t(); the last piece of a sum left out
def test_each_way_to_multiply_is_the_product(asked: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    a, b, place = torch.randn(37, 24), torch.randn(24, 50), torch.zeros(37, 50)
    turned, sliced = torch.randn(24, 37).t(), torch.randn(24, 90)[:, 7:57]
    for left, right in ((a, b), (turned, b), (a, sliced), (a, torch.randn(50, 24).t())):
        truth = left.double() @ right.double()
        assert far_from(product.mm(left, right), truth) < 1e-6
        with torch.backends.mkldnn.flags(enabled=False):
            assert product.mm(left, right, out=place) is place
        assert far_from(place, truth) < 1e-6
        for piece in (10**6, 500):
            monkeypatch.setattr(product, "PIECE", piece)
            total = torch.ones(37, 50)
            assert product.add_mm(total, left, right) is total
            assert far_from(total, truth + 1) < 1e-6
    assert max(rows * width for rows, width in asked[-4:]) <= 500


# mutation tried: the gradient of W not turned; that of the bias summed over the wrong side
@pytest.mark.parametrize("learns", [(1, 0, 0), (0, 1, 0), (1, 1, 1), (0, 0, 1)])
def test_gradients_of_a_linear_layer_are_those_of_float64(learns: tuple[int, ...], asked: list[Any]) -> None:
    given = torch.randn(2, 9, 24), torch.randn(50, 24), torch.randn(50)
    ours = [x.clone().requires_grad_(bool(one)) for x, one in zip(given, learns)]
    theirs = [x.double().requires_grad_(bool(one)) for x, one in zip(given, learns)]
    found, truth = product.linear(*ours), torch.nn.functional.linear(*theirs)
    assert far_from(found, truth.detach()) < 1e-6
    toward = torch.randn(2, 9, 50)
    found.backward(toward)
    truth.backward(toward.double())
    for one, other in zip(ours, theirs):
        assert (one.grad is None) == (other.grad is None)
        assert one.grad is None or far_from(one.grad, other.grad) < 1e-6
    assert len(asked) == 1 + learns[0] + learns[1]


# mutations tried: h remade without up; the gradient of up for that of gates; W's gradient not turned
@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
@pytest.mark.parametrize("learns", [(1, 1, 1), (1, 0, 1), (0, 1, 0)], ids=str)
def test_a_layer_behind_a_gate_makes_its_input_again(
    learns: tuple[int, ...], kind: torch.dtype, asked: list[Any]
) -> None:
    both, weight, bias = (
        torch.randn(2, 9, 48).to(kind),
        torch.randn(50, 24).to(kind),
        torch.randn(50).to(kind),
    )
    toward, kept = torch.randn(2, 9, 50).to(kind), list[tuple[int, ...]]()

    def found(way: Any, dtype: torch.dtype) -> list[Tensor | None]:
        given = [
            x.to(dtype).requires_grad_(bool(one))
            for x, one in zip((both.clone(), weight.clone(), bias.clone()), learns)
        ]
        out = way(*given[0].chunk(2, -1), *given[1:])
        out.backward(toward.to(dtype))
        return [out.detach(), *(x.grad for x in given)]

    def plain(gates: Tensor, up: Tensor, *layer: Tensor) -> Tensor:
        return torch.nn.functional.linear(torch.nn.functional.silu(gates) * up, *layer)

    def node(gates: Tensor, up: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t: kept.append(tuple(t.shape)) or t, lambda t: t
        ):
            return product.gated_linear(gates, up, "silu", weight, bias)

    for mine, truth in zip(found(node, kind), found(plain, torch.float64)):
        assert (mine is None) == (truth is None)
        assert (
            mine is None
            or truth is None
            or far_from(mine, truth) < (1e-6 if kind == torch.float32 else 1e-14)
        )
    assert kept == [(2, 9, 24), (2, 9, 24), (50, 24)]
    assert len(asked) == (2 + learns[1] if kind == torch.float32 else 0)


def test_an_input_is_made_again_only_where_nothing_is_cast() -> None:
    up, weight = torch.randn(3, 4), torch.randn(4, 4).requires_grad_()
    assert product.remakes_input(up, weight)
    assert product.remakes_input(up.double(), weight.detach().double().requires_grad_())
    for other in (
        (up, weight.detach()),
        (up.double(), weight),
        (up.bfloat16(), weight.detach().bfloat16().requires_grad_()),
    ):
        assert not product.remakes_input(*other)
    with torch.autocast("cpu", torch.bfloat16):
        assert not product.remakes_input(up, weight)


def test_what_is_small_wide_traced_or_switched_off_is_left_to_torch(
    asked: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b = torch.randn(16, 16), torch.randn(16, 16)
    product.mm(a.double(), b.double())
    product.linear(a.bfloat16(), b.bfloat16())
    with torch.autocast("cpu", torch.bfloat16):
        assert product.linear(a, b).dtype == torch.bfloat16
    with torch.backends.mkldnn.flags(enabled=False):
        product.mm(a, b)
    product.mm(a.to("meta"), b.to("meta"))
    monkeypatch.setattr(product, "LEAST", 16**3 + 1)
    product.mm(a, b)
    assert not asked
    monkeypatch.setattr(product, "LEAST", 16**3)
    product.mm(a, b)
    assert asked == [(16, 16)]


# mutation tried: W' for W in what a LoRA node sends back
@pytest.mark.parametrize("tuning", ["lora", "dropout", "full"])
@pytest.mark.parametrize("family", DENSE)
def test_loss_and_gradients_are_the_plain_models(family: str, tuning: str, asked: list[Any]) -> None:
    plain, swapped = (without_dropout(tiny_model(family)) for _ in range(2))
    ours = gradients(lean.lean(swapped), TUNINGS[tuning])
    assert asked
    with torch.backends.mkldnn.flags(enabled=False):
        theirs = gradients(plain, TUNINGS[tuning])
    assert far(ours, theirs) < 1e-5


@pytest.mark.parametrize("trains", [False, True])
def test_the_head_has_the_same_loss_and_gradients(trains: bool, asked: list[Any]) -> None:
    hidden, weight, targets = torch.randn(40, 16), torch.randn(5000, 16), torch.arange(40) * 100

    def graded() -> list[Tensor]:
        h, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_(trains)
        loss = summed_loss(h, Head(w), targets)
        loss.backward()
        return [loss.detach(), *(x.grad for x in (h, w) if x.grad is not None)]

    ours = graded()
    assert asked
    with torch.backends.mkldnn.flags(enabled=False):
        theirs = graded()
    assert len(ours) == 2 + trains
    for one, other in zip(ours, theirs):
        assert far_from(one, other.double()) < 1e-6


# mutation tried: all rows of the sum at once; a product kept while the next one is made
@pytest.mark.parametrize("columns", [False, True])
def test_a_product_that_is_added_takes_a_piece(columns: bool, asked: list[Any]) -> None:
    n, i, o = 256, 512, 8192
    left = torch.randn(i, o).t() if columns else torch.randn(o, i)
    right, total = torch.randn(i, n), torch.zeros(o, n)
    scratch = 2**19  # oneDNN's own, where it packs
    assert peak_of(lambda: product.add_mm(total, left, right)) <= 4 * processor.PIECE + scratch
    copied = left.numel() * 4 if columns else 0
    assert peak_of(lambda: product.mm(left, right)) <= (total.numel() + scratch) * 4 + copied
    assert len(asked) > 1


@pytest.mark.parametrize(
    ("about", "quicker"),
    [
        ("vendor_id : AuthenticAMD\nflags : fpu avx2 avx512f\n", True),
        ("vendor_id : AuthenticAMD\nflags : fpu avx2\n", False),
        ("vendor_id : GenuineIntel\nflags : fpu avx2 avx512f\n", False),
        (None, False),
    ],
)
def test_the_processor_decides(
    about: str | None, quicker: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "CPUINFO", tmp_path / "cpuinfo")
    monkeypatch.delenv("TUNESMITH_ONEDNN", raising=False)
    if about is not None:
        (tmp_path / "cpuinfo").write_text(about)
    processor._mkl_leaves_half.cache_clear()
    assert processor.onednn_is_quicker() is quicker
    processor._mkl_leaves_half.cache_clear()
    for told in (True, False):
        monkeypatch.setenv("TUNESMITH_ONEDNN", str(int(told)))
        assert processor.onednn_is_quicker() is told
