"""Letters are scored where the answer begins, as the template would write them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.evaluation.bench import bench, next_log_shares
from tunesmith.data.records import Choice
from tunesmith.data.template import ChatTemplate
from tunesmith.evaluation.choice import (
    fitting_prompt,
    letter_ids,
    option_scores,
    question_text,
    score_choices,
)
from tunesmith.evaluation.tasks import Item
from tunesmith.recipe import Task

QUESTIONS = [
    Choice("What is two and two?", ("three", "four", "five", "six"), 1),
    Choice("肝脏在哪里？", ("胸腔", "腹腔", "颅腔", "盆腔"), 1),
    Choice("A long question that needs more room than the others do, does it not?", ("yes", "no"), 0),
]
ITEMS = [Item(f"q.jsonl:{n + 1}", question) for n, question in enumerate(QUESTIONS)]
TASK = Task(name="mc", kind="choice", path="q.jsonl")


def test_scores_equal_plain_forward_passes():
    model, tokenizer, template = bench()
    _, records = score_choices(model, template, TASK, ITEMS, 4096, 0)
    for item, record in zip(ITEMS, records, strict=True):
        prompt, _ = fitting_prompt(template, item, 10**6)
        shares = next_log_shares(model, prompt)
        plain = {
            letter: float(shares[tokenizer.convert_tokens_to_ids(letter)])
            for letter in record["log_likelihoods"]
        }
        assert record["log_likelihoods"] == pytest.approx(plain, abs=1e-4)
        assert record["chosen"] == max(plain, key=plain.get)
        assert len(plain) == len(item.record.options)


def test_letters_of_several_tokens_count_every_token():
    model, _, _ = bench()
    prompts, letters = [[10, 11, 12], [20, 21]], [[30], [31, 32], [33, 34, 35]]
    scores = option_scores(model, prompts, letters, 4096, 0)
    for row, prompt in enumerate(prompts):
        for column, letter in enumerate(letters):
            plain = sum(
                float(next_log_shares(model, prompt + letter[:at])[token]) for at, token in enumerate(letter)
            )
            assert scores[row, column] == pytest.approx(plain, abs=1e-4)


def test_a_letter_is_cut_as_the_template_writes_it():
    _, tokenizer, template = bench()
    assert letter_ids(template, ITEMS[0], "B") == [tokenizer.convert_tokens_to_ids("B")]
    thinking = (
        "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{% if m['role'] == 'assistant' %}-> {% endif %}"
        "{{ m['content'] }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer.chat_template = thinking
    ids = letter_ids(ChatTemplate.of(tokenizer), ITEMS[0], "B")
    assert tokenizer.decode(ids) == "-> B"


def test_small_batches_change_nothing():
    model, _, template = bench()
    big = score_choices(model, template, TASK, ITEMS, 4096, 0)[1]
    small = score_choices(model, template, TASK, ITEMS, 1, 0)[1]
    for one, other in zip(big, small, strict=True):
        assert one["log_likelihoods"] == pytest.approx(other["log_likelihoods"], abs=1e-4)


def test_shots_are_earlier_turns_and_leave_from_the_left_when_too_long():
    _, tokenizer, template = bench()
    item = Item("q:3", QUESTIONS[2], (QUESTIONS[0], QUESTIONS[1]))
    whole, left_out = fitting_prompt(template, item, 10**6)
    text = tokenizer.decode(whole)
    assert left_out == 0
    assert text.count("<|im_start|>assistant\nB<|im_end|>") == 2
    assert text.index("two and two") < text.index("肝脏") < text.index("A long question")
    shorter, left_out = fitting_prompt(template, item, len(whole) - 1)
    assert left_out == 1
    assert "two and two" not in tokenizer.decode(shorter)
    assert "肝脏" in tokenizer.decode(shorter)
    assert fitting_prompt(template, item, 20) == ([], 2)


def test_a_question_that_does_not_fit_is_wrong_and_said():
    model, _, template = bench(max_position_embeddings=250)
    long = Item("q:9", Choice("why? " * 100, ("a", "b"), 0))
    measured, records = score_choices(model, template, TASK, [ITEMS[0], long], 4096, 0)
    assert measured.numbers[1] == (0.0, 1.0)
    assert records[1]["chosen"] is None
    assert "1 questions are longer" in measured.notes[0]


def test_the_question_speaks_its_own_language():
    assert question_text(QUESTIONS[1]).endswith("答案是：")
    assert question_text(QUESTIONS[0]).splitlines()[-5:] == [
        "A. three",
        "B. four",
        "C. five",
        "D. six",
        "Answer:",
    ]


def test_a_random_model_is_near_chance():
    model, _, template = bench()
    draw = np.random.default_rng(0)
    items = [
        Item(f"q:{n}", Choice(f"Which is {n}?", ("a", "b", "c", "d"), int(draw.integers(4))))
        for n in range(80)
    ]
    score = score_choices(model, template, TASK, items, 8192, 0)[0].to_score()
    assert 0.1 < score["value"] < 0.45
    assert score["stderr"] == pytest.approx((score["value"] * (1 - score["value"]) / 79) ** 0.5)
    assert score["n"] == 80
