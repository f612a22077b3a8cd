"""Nothing goes backward below the lowest layer that trains, and no frozen weight gets a gradient computed."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from tests.tiny import random_samples, tiny_model
from tunesmith.data.loader import collate
from tunesmith.model.forward import causal_lm, learnt
from tunesmith.model.load import checkpoint_layers
from tunesmith.recipe import Freeze, Lora
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Setting

BATCH = collate(list(random_samples(5)), packing=True)
TOP = {
    "freeze": Freeze(method="freeze", last_layers=1),
    "lora": Lora(method="lora", rank=3, targets=("layers.3.self_attn.v_proj", "layers.3.mlp.up_proj")),
}


class Shapes(TorchDispatchMode):
    """Shapes of everything that is computed."""

    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        if isinstance(out, torch.Tensor) and "mm" in function.__name__:
            self.seen.append(tuple(out.shape))
        return out


def _prepared(tuning):
    model = tiny_model(num_hidden_layers=4, hidden_size=40, intermediate_size=52, head_dim=10)
    return build(tuning).prepare(model, Setting())


# mutation tried: without disable_input_require_grads()
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", TOP)
def test_nothing_goes_backward_below_the_lowest_layer_that_trains(method, checkpointing):
    tuned = _prepared(TOP[method])
    lm = causal_lm(tuned.model.train())
    if checkpointing:
        checkpoint_layers(lm)
    needed, gone = [], []
    for number, layer in enumerate(lm.model.layers):
        layer.register_forward_hook(lambda m, i, out, n=number: needed.append((n, out.requires_grad)))
        layer.register_full_backward_hook(lambda m, i, o, n=number: gone.append(n))
    learnt(tuned.model, BATCH).summed_loss().backward()
    assert dict(needed) == {0: False, 1: False, 2: False, 3: True}
    assert set(gone) <= {3}


# mutation tried: W's gradient made in the LoRA node
def test_no_gradient_of_a_frozen_weight_is_computed():
    tuned = _prepared(Lora(method="lora", rank=3))
    loss = learnt(tuned.model, BATCH).summed_loss()
    with Shapes() as shapes:
        loss.backward()
    frozen = {tuple(p.shape) for p in tuned.model.parameters() if not p.requires_grad and p.dim() == 2}
    assert shapes.seen
    assert not frozen & {*shapes.seen, *(shape[::-1] for shape in shapes.seen)}


# mutation tried: the gradient of the head made whether it trains or not
def test_a_frozen_head_costs_no_weight_gradient_in_the_forward_pass():
    tuned = _prepared(Lora(method="lora", rank=3))
    with Shapes() as shapes:
        learnt(tuned.model, BATCH).summed_loss()
    assert (97, 40) not in shapes.seen
    assert (40, 97) not in shapes.seen
