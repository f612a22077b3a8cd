"""LoRA's nodes equal PEFT's layer by layer form, in value and in every gradient."""

import itertools
import weakref

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.nn.functional import gelu, silu

from tests.tiny import FAMILIES, random_samples, tiny_model
from tunesmith.data.loader import collate
from tunesmith.kernels import mlp
from tunesmith.kernels.dropout import Dropout
from tunesmith.kernels.gate import gated
from tunesmith.kernels.lora import Layers, Part, add_to_update, lora_linear, lora_linears
from tunesmith.kernels.mlp import lora_mlp
from tunesmith.model.last_layer import WATCHED
from tunesmith.model.lean import lean
from tunesmith.objectives.language_modelling import summed_loss
from tunesmith.recipe import Lora
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Setting

TARGETS = [("q_proj",), ("v_proj", "o_proj"), ("gate_proj", "up_proj", "down_proj"), "all_linear"]


@pytest.mark.parametrize("with_bias", [True, False])
def test_gradients_are_right_in_float64(with_bias):
    # mutation tried: scaling left out of grad_b
    torch.manual_seed(0)
    x = torch.randn(2, 5, 7, dtype=torch.float64, requires_grad=True)
    weight, bias = torch.randn(6, 7, dtype=torch.float64), torch.randn(6, dtype=torch.float64)
    a = torch.randn(3, 7, dtype=torch.float64, requires_grad=True)
    b = torch.randn(6, 3, dtype=torch.float64, requires_grad=True)
    chosen = bias if with_bias else None
    assert torch.autograd.gradcheck(lambda x, a, b: lora_linear(x, weight, chosen, a, b, 0.5), (x, a, b))
    plain = torch.nn.functional.linear(x, weight, chosen) + 0.5 * (x @ a.T @ b.T)
    torch.testing.assert_close(lora_linear(x, weight, chosen, a, b, 0.5), plain)


@pytest.mark.parametrize("with_bias", [True, False])
def test_the_update_may_go_into_the_output_first(with_bias):
    # what a card does; mutation tried: beta left out, so that what stood in the output stays
    torch.manual_seed(0)
    out, x, inner = torch.full((5, 6), torch.nan, dtype=torch.float64), _wide(5, 7), _wide(5, 3)
    weight, b, bias = _wide(6, 7), _wide(6, 3), _wide(6) if with_bias else None
    add_to_update(out, x, weight, bias, inner, b)
    plain = torch.nn.functional.linear(x, weight, bias) + inner @ b.T
    torch.testing.assert_close(out, plain)


def _wide(*shape, learns=False):
    return torch.randn(*shape, dtype=torch.float64, requires_grad=learns)


# mutation tried: one grad_x of three left out
@pytest.mark.parametrize("ranks", [(3, 2, 1), (3, 0, 2), (0, 0, 2)], ids=str)
def test_several_layers_over_one_input_are_right_in_float64(ranks):
    torch.manual_seed(0)
    x = _wide(2, 5, 7, learns=True)
    outputs = (6, 4, 4)
    weights, biases = [_wide(o, 7) for o in outputs], [_wide(6), None, _wide(4)]
    factors = [(_wide(r, 7, learns=True), _wide(o, r, learns=True)) for r, o in zip(ranks, outputs) if r]

    def nodes(x, *flat):
        left = iter(zip(flat[::2], flat[1::2]))
        pairs = [next(left) if rank else (None, None) for rank in ranks]
        return lora_linears(x, [Part(w, c, a, b, 0.5) for w, c, (a, b) in zip(weights, biases, pairs)])

    flat = [factor for pair in factors for factor in pair]
    assert torch.autograd.gradcheck(nodes, (x, *flat))
    # gradcheck asks one output at a time: here their gradients meet
    assert torch.autograd.gradcheck(lambda *given: sum(out.cos().sum() for out in nodes(*given)), (x, *flat))
    left = iter(factors)
    for out, rank, weight, bias in zip(nodes(x, *flat), ranks, weights, biases):
        plain = torch.nn.functional.linear(x, weight, bias)
        if rank:
            a, b = next(left)
            plain = plain + 0.5 * (x @ a.T @ b.T)
        torch.testing.assert_close(out, plain)


def test_an_output_that_nobody_asks_for_costs_no_gradient():
    torch.manual_seed(0)
    x, parts = _wide(5, 7, learns=True), [Part(_wide(6, 7), None, _wide(2, 7), _wide(6, 2)) for _ in range(2)]
    lora_linears(x, parts)[1].sum().backward()
    plain = (parts[1].weight + parts[1].b @ parts[1].a).sum(0)
    torch.testing.assert_close(x.grad, plain.expand_as(x))


def test_a_frozen_layer_over_a_frozen_input_needs_no_gradient():
    parts = [Part(_wide(6, 7)), Part(_wide(6, 7), None, _wide(2, 7, learns=True), _wide(6, 2, learns=True))]
    assert [out.requires_grad for out in lora_linears(_wide(5, 7), parts)] == [False, True]


ACTS = {"silu": silu, "gelu": gelu, "gelu_tanh": lambda x: gelu(x, approximate="tanh")}


def _low(outputs, inputs, rank):
    return (_wide(rank, inputs, learns=True), _wide(outputs, rank, learns=True)) if rank else ()


def _updated(x, part, dropped=None):
    plain = torch.nn.functional.linear(x, part.weight, part.bias)
    seen = x if dropped is None else dropped
    return plain if part.a is None else plain + part.scaling * (seen @ part.a.T @ part.b.T)


# mutation tried: up's gradient without act; h of the wrong rows; the scale of A's gradient left out; gate's B for up's
@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh"])
@pytest.mark.parametrize("ranks", [(3, 2, 1), (0, 0, 2), (2, 0, 0), (3,), (2, 1), (0, 2)], ids=str)
def test_the_feed_forward_part_is_right_in_float64(act, ranks, monkeypatch):
    # two ranks or one: gate and up are one layer
    monkeypatch.setattr("tunesmith.kernels.chunks.CACHED_ELEMENTS", 12)  # three rows at a time
    torch.manual_seed(0)
    x, halves = _wide(2, 5, 7, learns=True), len(ranks) < 3
    shapes = [(8, 7), (6, 4)] if halves else [(4, 7), (4, 7), (6, 4)]
    ranks = (*ranks, 0) if len(ranks) == 1 else ranks
    low = [_low(*shape, rank) for shape, rank in zip(shapes, ranks)]
    frozen = [(_wide(*shape), _wide(shape[0]) if at else None) for at, shape in enumerate(shapes)]
    scales = [0.5, 0.5, 2.0] if act == "silu" else [0.5, 0.25, 2.0]

    def parts(flat):
        left = iter(flat)
        pairs = [(next(left), next(left)) if rank else (None, None) for rank in ranks]
        return [Part(*f, *pair, scaling=s) for f, pair, s in zip(frozen, pairs, scales)]

    def node(x, *flat):
        *inputs, down = parts(flat)
        return lora_mlp(x, inputs, act, down)

    flat = [factor for pair in low for factor in pair]
    assert torch.autograd.gradcheck(node, (x, *flat))
    *inputs, down = parts(flat)
    made = [_updated(x, part) for part in inputs]
    gates, up = made if len(made) == 2 else made[0].chunk(2, -1)
    torch.testing.assert_close(node(x, *flat), _updated(ACTS[act](gates) * up, down))
    torch.testing.assert_close(gated(gates, up, act), ACTS[act](gates) * up)


# mutation tried: A rounded before it is scaled by two thirds; its gradient scaled by 1
def test_in_bf16_the_feed_forward_part_is_no_further_from_float64_than_layer_by_layer():
    torch.manual_seed(0)
    shapes = ((96, 64), (96, 64), (64, 96))
    weights = [(torch.randn(o, i) / i**0.5).bfloat16() for o, i in shapes]
    low = [(torch.randn(8, i) / i**0.5, torch.randn(o, 8) / 8) for o, i in shapes]
    x, slope = torch.randn(2, 200, 64).bfloat16(), torch.randn(2, 200, 64)

    def found(kind, node):
        wide = kind == torch.float64
        given = x.detach().to(kind).requires_grad_()
        pairs = [
            [t.detach().clone().to(kind if wide else t.dtype).requires_grad_() for t in pair] for pair in low
        ]
        *inputs, down = [Part(w.to(kind), None, *pair, scaling=2 / 3) for w, pair in zip(weights, pairs)]
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=not wide):
            if node:
                out = lora_mlp(given, inputs, "silu", down)
            else:
                gates, up = (_updated(given, part) for part in inputs)
                out = _updated(silu(gates) * up, down)
        out.backward(slope.to(out.dtype))
        return [out.detach(), given.grad, *(t.grad for pair in pairs for t in pair)]

    exact = found(torch.float64, False)
    ours, theirs = found(torch.bfloat16, True), found(torch.bfloat16, False)
    for mine, other, true in zip(ours, theirs, exact, strict=True):
        off = [float((one.double() - true).norm() / true.norm()) for one in (mine, other)]
        assert off[0] < 1.05 * off[1], (tuple(true.shape), off)


# mutation tried: gate and up held until the output is there
def test_without_gradients_gate_and_up_are_gone_before_the_output_is_made(monkeypatch):
    parts = [Part(_wide(o, i), None, *_low(o, i, 2)) for o, i in ((9, 7), (9, 7), (7, 9))]
    seen, there = [], []
    gate, outputs = mlp.gate, Layers.outputs
    monkeypatch.setattr(mlp, "gate", lambda *given: seen.extend(map(weakref.ref, given[:2])) or gate(*given))

    def watched(*given):
        there.append([one() is not None for one in seen])
        return outputs(*given)

    monkeypatch.setattr(Layers, "outputs", watched)
    lora_mlp(_wide(5, 7), parts[:2], "silu", parts[2])
    with torch.no_grad():
        seen.clear()
        lora_mlp(_wide(5, 7), parts[:2], "silu", parts[2])
    assert there == [[], [True, True], [], [False, False]]


@pytest.mark.parametrize("act", ["silu", "gelu", "gelu_tanh"])
def test_the_gate_alone_is_right_in_float64(act, monkeypatch):
    monkeypatch.setattr("tunesmith.kernels.chunks.CACHED_ELEMENTS", 12)
    torch.manual_seed(0)
    given = _wide(2, 5, 4, learns=True), _wide(2, 5, 4, learns=True)
    assert torch.autograd.gradcheck(lambda gates, up: gated(gates, up, act), given)


# mutation tried: the mask left out of grad_a; out of grad_x; 1 / (1 - p) left out; the masks of gate and h exchanged
def test_dropout_within_a_node_is_dropout_before_it():
    torch.manual_seed(0)
    x = _wide(4, 7, learns=True)
    low = [_low(6, 7, 3), _low(6, 7, 3), _low(7, 6, 3)]
    parts = [
        Part(_wide(o, i), None, *pair, scaling=0.5, dropout=0.4)
        for (o, i), pair in zip(((6, 7), (6, 7), (7, 6)), low)
    ]

    def nodes():
        return [*lora_linears(x, parts[:2]), lora_mlp(x, parts[:2], "silu", parts[2])]

    def plain():
        dropping = Dropout(0.4)
        both = [[dropping(x) for _ in range(2)] for _ in range(2)]  # of either node, in its order
        outs = [_updated(x, part, dropped) for part, dropped in zip(parts, both[0])]
        gates, up = [_updated(x, part, dropped) for part, dropped in zip(parts, both[1])]
        hidden = silu(gates) * up
        return [*outs, _updated(hidden, parts[2], dropping(hidden))]

    flat, found = [factor for pair in low for factor in pair], []
    for make in (nodes, plain):
        torch.manual_seed(1)
        outs = make()
        found.append([*outs, *torch.autograd.grad([out.cos().sum() for out in outs], [x, *flat])])
    for ours, theirs in zip(*found):
        torch.testing.assert_close(ours, theirs)


SEVEN = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
SUBSETS = [s for n in range(1, 8) for s in itertools.combinations(SEVEN, n)]


def losses_and_gradients(family, targets, dropout=0.0):
    """Loss and gradients by name: ours on a lean model, PEFT's on the plain one."""
    batch = collate(list(random_samples(5)), packing=True)
    tuning = Lora(method="lora", rank=3, targets=targets, dropout=dropout)
    ours = build(tuning).prepare(lean(tiny_model(family)), Setting()).model
    names = "all-linear" if targets == "all_linear" else list(targets)
    config = LoraConfig(
        r=3, lora_alpha=6, lora_dropout=dropout, target_modules=names, task_type="CAUSAL_LM",
        fan_in_fan_out=family == "gpt2",
    )  # fmt: skip
    theirs = get_peft_model(tiny_model(family), config)
    for name, module in list(theirs.named_modules()):
        if type(module) is torch.nn.Dropout and "lora_dropout" in name:
            theirs.set_submodule(name, Dropout(module.p))  # other draws than torch's
    with torch.no_grad():
        for mine, other in zip(ours.parameters(), theirs.parameters()):
            if mine.requires_grad:
                other.copy_(mine.normal_(0, 0.1, generator=torch.Generator().manual_seed(mine.numel())))
    losses = []
    for model in (ours.train(), theirs.train()):
        # a lean last layer draws no noise for queries that are not asked
        setattr(model.get_base_model(), WATCHED, dropout > 0)
        torch.manual_seed(1)
        losses.append(summed_loss(model, batch))
        losses[-1].backward()
    return ours, theirs, losses


PHI3 = {"q_proj": "qkv_proj", "v_proj": "qkv_proj", "gate_proj": "gate_up_proj", "up_proj": "gate_up_proj"}


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.slow)])
def test_every_subset_of_targets_equals_pefts(every):
    for targets in SUBSETS[::every]:
        ours, theirs, losses = losses_and_gradients("llama", targets)
        torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0, msg=str(targets))
        for mine, other in zip(ours.parameters(), theirs.parameters()):
            if mine.requires_grad:
                assert (mine.grad - other.grad).norm() <= 1e-5 * other.grad.norm(), targets


@pytest.mark.parametrize("family", [*FAMILIES, "gemma2", "phi3", "olmo2", "granite"])
@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("targets", TARGETS, ids=str)
def test_a_model_with_fused_layers_equals_one_with_pefts(family, targets, dropout):
    if family == "phi3" and targets != "all_linear":
        targets = tuple(PHI3.get(target, target) for target in targets)
    ours, theirs, losses = losses_and_gradients(family, targets, dropout)
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-6, atol=0)
    for (name, mine), other in zip(ours.named_parameters(), theirs.parameters()):
        if mine.requires_grad:
            assert (mine.grad - other.grad).norm() <= 1e-5 * other.grad.norm(), name
