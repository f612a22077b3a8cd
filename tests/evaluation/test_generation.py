"""Generation tasks: what is asked, what is kept, how it is scored."""

from __future__ import annotations

import torch

from tests.evaluation.bench import bench
from tunesmith.data.records import Chat, Message
from tunesmith.evaluation.generation import answer_probes, prompt_turns, score_generations
from tunesmith.evaluation.tasks import Item
from tunesmith.recipe import Task


def one_by_one(model, prompt, tokens, stops):
    """The plainest greedy decoding: no batch, no padding, no cache."""
    before = model.config._attn_implementation
    model.config._attn_implementation = "eager"
    ids = list(prompt)
    for _ in range(tokens):
        with torch.inference_mode():
            token = int(model(torch.tensor([ids]), use_cache=False).logits[0, -1].argmax())
        if token in stops:
            break
        ids.append(token)
    model.config._attn_implementation = before
    return ids[len(prompt) :]


def chat(*texts, system=None):
    turns = [Message("system", system)] if system else []
    return Chat((*turns, *(Message(("user", "assistant")[n % 2], text) for n, text in enumerate(texts))))


# mutation tried: leaving the last answer in the prompt
def test_the_last_answer_is_the_reference_and_earlier_turns_are_given():
    item = Item("a:1", chat("q1", "a1", "q2", "a2", system="be brief"), (chat("s", "t", system="other"),))
    assert [f"{turn.role}: {turn.content}" for turn in prompt_turns(item)] == [
        "system: be brief", "user: s", "assistant: t", "user: q1", "assistant: a1", "user: q2",
    ]  # fmt: skip


def test_a_model_that_says_the_reference_scores_one():
    model, tokenizer, template = bench()
    questions = [chat(f"question {n}", "?") for n in range(5)]
    said = []
    for question in questions:
        ids = one_by_one(model, template.prompt_ids(question.messages[:-1]), 8, template.stop_ids)
        said.append(tokenizer.decode(ids, skip_special_tokens=True))
    items = [
        Item(f"a:{n}", chat(f"question {n}", f"  {text} " if n else "no")) for n, text in enumerate(said)
    ]
    task = Task(name="gen", kind="generate", path="-", max_new_tokens=8)
    measured, records = score_generations(model, tokenizer, template, task, items, 4096)
    assert [record["output"] for record in records] == said
    assert measured.value == 0.8
    assert [record["right"] for record in records] == [False, True, True, True, True]
    assert "max_new_tokens:8" in measured.signature


def test_a_prompt_that_does_not_fit_has_an_empty_answer_and_is_counted():
    model, tokenizer, template = bench(max_position_embeddings=64)
    items = [Item("a:1", chat("q", "a")), Item("a:2", chat("q" * 100, "a"))]
    task = Task(name="gen", kind="generate", path="-", max_new_tokens=4)
    measured, records = score_generations(model, tokenizer, template, task, items, 4096)
    assert records[1]["output"] == ""
    assert "1 prompts are longer" in measured.notes[0]


def test_chinese_is_scored_with_its_own_cut():
    model, tokenizer, template = bench()
    items = [Item("a:1", chat("你好", "你好，世界")), Item("a:2", chat("再见", "再见"))]
    task = Task(name="gen", kind="generate", path="-", max_new_tokens=4, metric="bleu")
    assert "tok:zh" in score_generations(model, tokenizer, template, task, items, 4096)[0].signature


def test_probes_are_answered_by_themselves():
    model, tokenizer, template = bench()
    probes = answer_probes(model, tokenizer, template, ["one", "another question"], 5, 4096)
    assert [probe.id for probe in probes] == ["probe-1", "probe-2"]
    alone = answer_probes(model, tokenizer, template, ["another question"], 5, 4096)
    assert probes[1].answer == alone[0].answer
    assert answer_probes(model, tokenizer, template, [], 5, 4096) == ()
