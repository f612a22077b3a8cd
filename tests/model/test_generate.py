"""Batched generation says what each prompt would get alone."""

from __future__ import annotations

import time

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tunesmith.errors import ModelError
from tunesmith.kernels import attention
from tunesmith.model.generate import generate, ready_to_answer
from tunesmith.model.lean import lean
from tunesmith.model.load import generation_attention, without_dropout

FAMILIES = {
    "llama": {},
    "mistral": {"sliding_window": 4},
    "qwen2": {},
    "qwen3": {"head_dim": 8},
}
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14, 15], [3, 4], [16, 17, 18], [60]]


def tiny(family: str = "llama", **values):
    """A random model of two layers with a wide spread of logits, so that greedy choices are clear."""
    shape = {
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        "eos_token_id": 2,
        "bos_token_id": 1,
        "tie_word_embeddings": False,
        "initializer_range": 0.3,
    }
    config = AutoConfig.for_model(family, **(shape | FAMILIES[family] | values))
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def one_by_one(model, prompts, tokens, stops):
    """The plainest greedy decoding: no batch, no padding, no cache."""
    answers = []
    for prompt in prompts:
        ids = list(prompt)
        for _ in range(tokens):
            with torch.inference_mode():
                token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
            if token in stops:
                break
            ids.append(token)
        answers.append(ids[len(prompt) :])
    return answers


# mutation tried: a mask of ones (padding is seen); a shift of all positions is no error: RoPE is relative
@pytest.mark.parametrize("family", FAMILIES)
def test_a_batch_says_what_each_prompt_gets_alone(family):
    model = tiny(family)
    assert generate(model, PROMPTS, 12, [], 0) == one_by_one(model, PROMPTS, 12, [])


# mutation tried: selecting other cache rows than those that live
def test_rows_that_stop_leave_without_a_trace():
    model = tiny()
    free = one_by_one(model, PROMPTS, 12, [])
    stops = [free[0][2], free[2][5]]
    expected = one_by_one(model, PROMPTS, 12, stops)
    assert len({len(answer) for answer in expected}) > 1
    assert generate(model, PROMPTS, 12, stops, 0) == expected


def test_small_batches_change_nothing():
    model = tiny()
    whole = generate(model, PROMPTS, 8, [2], 0)
    assert generate(model, PROMPTS, 8, [2], 0, batch_tokens=20) == whole


def test_sampling_depends_on_the_seed_and_not_on_the_batch():
    model = tiny()
    sampled = generate(model, PROMPTS, 8, [], 0, temperature=1.0, seed=3)
    assert sampled != generate(model, PROMPTS, 8, [], 0, temperature=1.0, seed=4)
    assert generate(model, PROMPTS, 8, [], 0, temperature=1.0, seed=3, batch_tokens=1) == sampled


def test_tokens_are_told_as_they_come():
    heard: dict[int, list[int]] = {}
    answers = generate(
        tiny(), PROMPTS, 5, [], 0, on_token=lambda row, token: heard.setdefault(row, []).append(token)
    )
    assert [heard[row] for row in range(len(PROMPTS))] == answers


def test_answers_end_where_the_context_ends():
    model = tiny(max_position_embeddings=10)
    assert [len(a) for a in generate(model, [[1] * 9, [1] * 4], 50, [], 0)] == [1, 6]
    with pytest.raises(ModelError, match="context holds 10"):
        generate(model, [[1] * 10], 5, [], 0)


def test_the_attention_of_training_and_its_mode_come_back():
    model = tiny()
    model.set_attn_implementation("tunesmith_packed")
    model.train()
    with ready_to_answer(model):
        assert model.config._attn_implementation == "sdpa"
        assert not model.training
    assert model.config._attn_implementation == "tunesmith_packed"
    assert model.training


def test_two_hundred_prompts_are_quick():
    model = tiny(max_position_embeddings=256, initializer_range=0.02)
    prompts = [[1 + (7 * row + at) % 60 for at in range(8 + row % 30)] for row in range(200)]
    begin = time.perf_counter()
    generate(model, prompts, 24, [], 0)
    assert time.perf_counter() - begin < 10


def test_answers_are_made_by_attention_that_knows_a_cache_in_every_layer():
    # mutation tried: lm.set_attn_implementation, which before transformers 5.20 leaves the layers' own config alone
    lm = lean(without_dropout(tiny()))
    lm.config._attn_implementation = attention.NAME
    configs = {id(module.config): module.config for module in lm.modules() if hasattr(module, "config")}
    for config in configs.values():
        config._attn_implementation = attention.NAME
    assert len(configs) == 2, "the model's own, and the one without dropout"
    with generation_attention(lm):
        assert {config._attn_implementation for config in configs.values()} == {"sdpa"}
    assert {config._attn_implementation for config in configs.values()} == {attention.NAME}


@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_a_model_whose_numbers_overflow_is_told(temperature):
    # mutation tried: no look at the logits
    lm = tiny()
    with torch.no_grad():
        lm.lm_head.weight.mul_(3e38)
    with pytest.raises(ModelError, match="no number"):
        generate(lm, [[1, 2, 3]], 3, [], 0, temperature=temperature)
