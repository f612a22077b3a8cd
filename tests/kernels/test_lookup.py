"""An embedding that trains: the same gradient as torch's own, in one table, whatever else has left its part there."""

import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM

from tests.plan.test_memory import peak_of
from tunesmith.model.lean import lean

SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "head_dim": 8,
    "num_attention_heads": 4, "num_key_value_heads": 2, "pad_token_id": 7, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def _pair(family, tied):
    torch.manual_seed(0)
    plain = AutoModelForCausalLM.from_config(
        AutoConfig.for_model(family, tie_word_embeddings=tied, **SHAPE), dtype=torch.float64
    ).eval()
    return plain, lean(copy.deepcopy(plain))


def _gradient(model, batches):
    model.zero_grad(set_to_none=True)
    for ids in batches:
        model(input_ids=ids).logits.square().sum().backward()
    return model.get_input_embeddings().weight.grad


# mutation tried: the padding's gradient kept; weight.grad written over; a first micro-batch forgotten
@pytest.mark.parametrize("family", ["llama", "gemma2"])
@pytest.mark.parametrize("tied", [True, False])
@given(batches=st.lists(st.lists(st.integers(0, 12), min_size=1, max_size=9), min_size=1, max_size=3))
@settings(max_examples=15, deadline=None)
def test_the_gradient_is_torch_s_own(family, tied, batches):
    plain, ours = _pair(family, tied)
    given_ids = [torch.tensor([ids]) for ids in batches]
    theirs, mine = _gradient(plain, given_ids), _gradient(ours, given_ids)
    assert (mine - theirs).norm() <= 1e-5 * theirs.norm()  # transformers' own norms compute in fp32


def test_a_tied_table_has_one_gradient_and_no_second_beside_it():
    # mutation tried: torch's own look-up
    weight = nn.Parameter(torch.randn(5000, 16))
    embedding = nn.Embedding(5000, 16, _weight=weight.data)
    embedding.weight = weight

    class Model(nn.Module):
        config = type("Config", (), {"model_type": "none"})()

        def get_input_embeddings(self):
            return embedding

    lean(Model())
    ids = torch.arange(50)

    def step():
        hidden = embedding(ids)
        (hidden.detach() @ weight.t()).sum().backward()
        hidden.sum().backward()

    assert peak_of(step) < 1.3 * weight.nbytes + 50 * 5000 * 4 * 2
    weight.grad = None
    hidden = embedding(ids)
    assert peak_of(lambda: hidden.sum().backward()) < 1.1 * weight.nbytes


def test_what_does_not_train_or_is_special_is_looked_up_as_ever():
    plain, ours = _pair("llama", False)
    ids = torch.tensor([[3, 4, 5]])
    table = ours.get_input_embeddings()
    assert isinstance(table, nn.Embedding)
    assert not table(ids).grad_fn.name().startswith("Embedding")
    table.weight.requires_grad_(False)
    assert torch.equal(table(ids), plain.get_input_embeddings()(ids))
    assert table(ids).grad_fn is None
    table.weight.requires_grad_()
    table.max_norm = 1.0
    assert table(ids).grad_fn.name().startswith("Embedding")
    assert type(copy.deepcopy(ours).get_input_embeddings()) is type(table)
    assert type(lean(ours).get_input_embeddings()) is type(table)
