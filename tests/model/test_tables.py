"""A model whose embedding and head are held in few bits is the model with those numbers in plain tables."""

from dataclasses import replace

import pytest
import torch

from tests.tiny import random_samples, tiny_model
from tests.tuning.steps import BATCH
from tunesmith.data.loader import collate
from tunesmith.kernels.tables import Table
from tunesmith.model.forward import causal_lm, learnt
from tunesmith.model.generate import last_logits, ready_to_answer
from tunesmith.model.quantised import Held, hold
from tunesmith.model.tables import HeldEmbedding, HeldHead
from tunesmith.model.trunk import DEPTH, digest, entering
from tunesmith.objectives.language_modelling import summed_loss, token_losses
from tunesmith.recipe import Lora
from tunesmith.tuning.build import build
from tunesmith.tuning.method import Setting

FAMILIES = ("llama", "qwen3", "gemma2", "phi", "gpt2", "granite", "cohere2")


def rounded(lm, bits):
    """The same model, its tables plain and holding what the codes say."""
    with torch.no_grad():
        tables = [lm.get_input_embeddings(), lm.get_output_embeddings()]
        for module in tables[: 1 if tables[0].weight is tables[1].weight else 2]:
            table = Table.of(module.weight, bits)
            module.weight.copy_(torch.cat([table.rows(piece, torch.float32) for piece in table.pieces()]))
    return lm


def gradients(lm):
    torch.manual_seed(3)
    tuned = build(Lora(method="lora", rank=3)).prepare(lm, Setting())
    with torch.no_grad():
        for parameter in tuned.trainable.values():
            parameter.normal_(0, 0.1)
    tuned.model.train()
    loss = summed_loss(tuned.model, BATCH)
    loss.backward()
    return tuned, loss.detach(), {name: p.grad for name, p in tuned.trainable.items()}


# mutation tried: Gemma's scale left out of the look-up; the head's bias left out
@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_gradients_and_answers_are_those_of_its_own_numbers(family, bits):
    held, loss, ours = gradients(hold(tiny_model(family), Held(None, tables=bits)))
    plain, expected, theirs = gradients(rounded(tiny_model(family), bits))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=0)
    for name, gradient in ours.items():
        assert (gradient - theirs[name]).norm() <= 1e-5 * theirs[name].norm() + 1e-9, name
    held.model.eval(), plain.model.eval()
    torch.testing.assert_close(
        token_losses(held.model, BATCH), token_losses(plain.model, BATCH), rtol=1e-4, atol=1e-4
    )
    answers = []
    for tuned in (held, plain):
        with ready_to_answer(tuned.model):
            answers.append(last_logits(tuned.model, [[5, 6, 7, 8], [9, 10]], 2, pad_id=0))
    torch.testing.assert_close(*answers, rtol=1e-4, atol=1e-4)


def test_a_tied_table_is_stored_once():
    lm = hold(tiny_model("gemma2"), Held(None, tables=8))
    embedding, head = lm.get_input_embeddings(), lm.get_output_embeddings()
    assert isinstance(embedding, HeldEmbedding)
    assert isinstance(head, HeldHead)
    assert embedding.table is head.table
    untied = hold(tiny_model("llama"), Held(None, tables=8))
    assert untied.get_input_embeddings().table is not untied.get_output_embeddings().table


def test_a_model_that_changes_its_dtype_takes_rows_along_and_leaves_scales_as_they_were():
    lm = hold(tiny_model(), Held("nf4", tables=4)).to(torch.bfloat16)
    embedding = lm.get_input_embeddings()
    assert embedding(torch.tensor([[1, 2]])).dtype == torch.bfloat16
    assert embedding.table.scales.dtype == torch.float32
    hidden = learnt(lm, collate(list(random_samples(2)), packing=True)).hidden
    assert hidden.dtype == torch.bfloat16


def test_nothing_wide_is_left_of_either_table():
    lm = causal_lm(hold(tiny_model(), Held("nf4", tables=8)))
    wide = [t for t in (*lm.parameters(), *lm.buffers()) if t.is_floating_point() and 97 in t.shape]
    assert wide == []


def test_kept_states_of_frozen_layers_are_those_of_the_table_they_were_made_with():
    # mutation tried: the table left out of the digest
    found = [digest(hold(tiny_model(), Held(None, tables=bits)), 1) for bits in (16, 8, 8, 4)]
    assert found[1] == found[2]
    assert len(set(found)) == 3
    other = tiny_model()
    with torch.no_grad():
        other.get_input_embeddings().weight[5] *= 1.5
    assert digest(hold(other, Held(None, tables=8)), 1) != found[1]


def test_frozen_layers_may_stand_on_a_table_in_few_bits():
    lm = hold(tiny_model(), Held(None, tables=4))
    samples = list(random_samples(4))
    setattr(lm, DEPTH, 1)
    kept = [replace(s, states=entering(lm, collate([s], True), 1)[0].numpy()) for s in samples]
    every = learnt(lm, collate(samples, True)).hidden
    torch.testing.assert_close(learnt(lm, collate(kept, True)).hidden, every, rtol=1e-5, atol=1e-5)
