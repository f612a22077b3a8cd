"""Packed attention: no document sees another, and packed equals alone, in logits and gradients."""

import pytest
import torch

from tests.tiny import DENSE, random_samples, tiny_model
from tunesmith.data.loader import collate
from tunesmith.kernels import documents as documents_module
from tunesmith.kernels.attention import NAME
from tunesmith.kernels.documents import group_documents
from tunesmith.model.families import FAMILIES
from tunesmith.model.forward import learnt, output_head, own_forward, packed_hidden
from tunesmith.objectives.language_modelling import summed_loss


def _logits(model, batch):
    return output_head(model).logits(packed_hidden(model, batch))


def _alone(model, sample):
    """What the model's own forward, with its own attention, says of one document: Float[T V]."""
    model.set_attn_implementation("sdpa" if model._supports_sdpa else "eager")
    try:
        return model(torch.from_numpy(sample.input_ids).long()[None]).logits[0]
    finally:
        model.set_attn_implementation(NAME)


def test_every_family_of_the_table_is_tested_here():
    assert set(DENSE) == set(FAMILIES)


def test_every_token_stands_in_exactly_one_slot():
    segments = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 2, -1], [3, 4, 4, 4, 4, -1, -1, -1, -1]])
    documents = group_documents(segments)
    real = documents.query_real
    slots = documents.queries if real is None else documents.queries[real]
    assert sorted(slots.tolist()) == torch.nonzero(segments.reshape(-1) >= 0)[:, 0].tolist()


@pytest.mark.parametrize("family", DENSE)
@pytest.mark.parametrize("packing", [True, False])
def test_packed_logits_equal_each_document_alone_through_the_models_own_attention(
    family, packing, monkeypatch
):
    # mutation tried: `starts` of _runs off by one; is_causal=False; SHORTEST_IN_GROUP masks left out
    # and: the soft cap, a window, a family's logit scale left out; Family.layers of another family
    monkeypatch.setattr(documents_module, "APART_FROM", 1)  # of those without padding, where they stand
    model = tiny_model(family)
    assert not own_forward(model)
    samples = list(random_samples(7))
    packed = _logits(model, collate(samples, packing))
    rows = collate(samples, packing).segments
    for number, sample in enumerate(samples):
        alone = _alone(model, sample)
        torch.testing.assert_close(packed[rows == number], alone, atol=1e-5, rtol=1e-5)


def test_a_changed_token_moves_no_logit_of_another_document():
    model = tiny_model()
    batch = collate(list(random_samples(5)), packing=True)
    before = _logits(model, batch)
    batch.input_ids[batch.segments == 2] = 5
    after = _logits(model, batch)
    others = batch.segments != 2
    assert torch.equal(before[others], after[others])
    assert not torch.equal(before[~others], after[~others])


@pytest.mark.parametrize("family", DENSE)
def test_packed_gradients_equal_those_of_documents_alone(family):
    model = tiny_model(family, dtype=torch.float64)
    samples = list(random_samples(7))
    summed_loss(model, collate(samples, packing=True)).backward()
    packed = {name: p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad()
    for sample in samples:
        logits = _alone(model, sample)
        labels = torch.from_numpy(sample.labels).long()
        torch.nn.functional.cross_entropy(logits, labels, ignore_index=-100, reduction="sum").backward()
    # transformers computes in fp32 even then: Gemma's and Cohere's norms, the softmax of Gemma 2
    close = {"gemma": 1e-6, "gemma2": 1e-5, "gemma3_text": 1e-6, "cohere": 1e-6, "cohere2": 1e-6}.get(
        family, 1e-10
    )
    for name, parameter in model.named_parameters():
        assert (packed[name] - parameter.grad).norm() <= close * parameter.grad.norm() + 1e-14, name


def test_a_sliding_window_is_kept_within_a_packed_document():
    model = tiny_model("mistral", sliding_window=4)
    samples = list(random_samples(4))
    batch = collate(samples, packing=True)
    packed = _logits(model, batch)
    for number, sample in enumerate(samples):
        alone = _alone(model, sample)
        torch.testing.assert_close(packed[batch.segments == number], alone, atol=1e-5, rtol=1e-5)


def test_hidden_states_are_gathered_in_the_order_of_the_labels():
    model = tiny_model()
    batch = collate(list(random_samples(3)), packing=True)
    found = learnt(model, batch)
    flat = batch.labels.reshape(-1)
    assert torch.equal(found.targets, flat[flat >= 0])
    torch.testing.assert_close(
        found.head.logits(found.hidden), _logits(model, batch).reshape(-1, 97)[flat >= 0]
    )


def test_longer_documents_are_attended_where_they_stand():
    segments = torch.repeat_interleave(torch.arange(3), torch.tensor([30, 50, 40]))[None]
    there = group_documents(segments, calls_are_cheap=True)
    assert there.in_place
    assert there.queries.tolist() == list(range(120))
    assert not group_documents(segments).in_place
    padded = torch.cat([segments, torch.full((1, 5), -1)], 1)
    assert not group_documents(padded, calls_are_cheap=True).in_place
    short = torch.arange(40).repeat_interleave(3)[None]
    assert not group_documents(short, calls_are_cheap=True).in_place


@pytest.mark.parametrize("family", DENSE)
def test_documents_attended_where_they_stand_equal_those_laid_in_groups(family, monkeypatch):
    model = tiny_model(family)
    batch = collate(list(random_samples(6)), packing=True)
    results = []
    for least in (1, 10_000):
        monkeypatch.setattr(documents_module, "APART_FROM", least)
        model.zero_grad()
        loss = summed_loss(model, batch)
        loss.backward()
        results.append((loss.detach(), [p.grad.clone() for p in model.parameters() if p.grad is not None]))
    (one, grads), (other, others) = results
    torch.testing.assert_close(one, other, rtol=1e-5, atol=0)
    for a, b in zip(grads, others):
        assert (a - b).norm() <= 1e-5 * b.norm() + 1e-9
