"""Generation tasks: the model answers each chat's last question; its words are kept and scored.

chat [system, user, assistant, user, assistant*]  -> prompt: all but *; reference: *
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from tunesmith.data.records import Chat, Message
from tunesmith.evaluation.metrics import exact_match, normalise, text_overlap
from tunesmith.evaluation.scores import Measured, Probe
from tunesmith.evaluation.tasks import Item
from tunesmith.model.generate import context_length, generate

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.template import ChatTemplate
    from tunesmith.recipe import Task

Progress = Callable[[int], None]


def score_generations(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    task: Task,
    items: Sequence[Item],
    batch_tokens: int,
    progress: Progress = lambda done: None,
) -> tuple[Measured, list[dict[str, Any]]]:
    """The task's metric over greedy answers, and every raw answer; empty where a prompt does not fit."""
    prompts = [template.prompt_ids(prompt_turns(item)) for item in items]
    outputs = answer_all(model, tokenizer, template, prompts, task.max_new_tokens, batch_tokens, progress)
    references = [_last(item) for item in items]
    metric = "exact_match" if task.metric == "auto" else task.metric
    if metric == "exact_match":
        numbers, signature = (
            exact_match(outputs, references),
            "exact_match|NFC, white space collapsed, case kept",
        )
    else:
        numbers, signature = text_overlap(metric, outputs, references)
    asked = f"|greedy|max_new_tokens:{task.max_new_tokens}|template:{template.name}|shots:{task.shots}"
    too_long = sum(len(prompt) >= context_length(model) for prompt in prompts)
    measured = Measured(
        metric=metric,
        group=task.group,
        signature=signature + asked,
        addresses=tuple(item.address for item in items),
        numbers=tuple(tuple(row) for row in numbers.tolist()),
        notes=(f"{too_long} prompts are longer than the model's context; their answers are empty",)
        * bool(too_long),
    )
    records = [
        {
            "task": task.name,
            "address": item.address,
            "prompt": [{"role": turn.role, "content": turn.content} for turn in prompt_turns(item)],
            "reference": reference,
            "output": output,
            "right": normalise(output) == normalise(reference),
        }
        for item, reference, output in zip(items, references, outputs)
    ]
    return measured, records


def _last(item: Item) -> str:
    assert isinstance(item.record, Chat)
    return item.record.messages[-1].content


def prompt_turns(item: Item) -> tuple[Message, ...]:
    """System turn, solved examples as earlier turns, then the dialogue up to its last answer."""
    assert isinstance(item.record, Chat)
    own = item.record.messages[:-1]
    system = tuple(turn for turn in own if turn.role == "system")
    shots = [turn for shot in item.shots if isinstance(shot, Chat) for turn in shot.messages]
    return (*system, *(t for t in shots if t.role != "system"), *(t for t in own if t.role != "system"))


def answer_all(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    prompts: Sequence[Sequence[int]],
    max_new_tokens: int,
    batch_tokens: int,
    progress: Progress = lambda done: None,
) -> list[str]:
    """Greedy answers as text, special tokens left out; empty where the prompt fills the context."""
    fitting = [at for at, prompt in enumerate(prompts) if 0 < len(prompt) < context_length(model)]
    begun: set[int] = set()

    def on_token(row: int, _: int) -> None:
        if row not in begun:
            begun.add(row)
            progress(len(begun))

    answers = generate(
        model,
        [prompts[at] for at in fitting],
        max_new_tokens,
        template.stop_ids,
        pad_id=pad_id_of(tokenizer, template),
        on_token=on_token,
        batch_tokens=batch_tokens,
    )
    texts = [""] * len(prompts)
    for at, ids in zip(fitting, answers):
        texts[at] = str(tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))
    return texts


def pad_id_of(tokenizer: PreTrainedTokenizerFast, template: ChatTemplate) -> int:
    """Any token does, for it is masked; a tokenizer without a pad token lends its stop token."""
    return int(tokenizer.pad_token_id if tokenizer.pad_token_id is not None else template.stop_id)


def answer_probes(
    model: nn.Module,
    tokenizer: PreTrainedTokenizerFast,
    template: ChatTemplate,
    questions: Sequence[str],
    max_new_tokens: int,
    batch_tokens: int,
) -> tuple[Probe, ...]:
    """Each question as a dialogue of its own."""
    prompts = [template.prompt_ids((Message("user", question),)) for question in questions]
    answers = answer_all(model, tokenizer, template, prompts, max_new_tokens, batch_tokens)
    return tuple(
        Probe(f"probe-{number}", question, answer)
        for number, (question, answer) in enumerate(zip(questions, answers), 1)
    )
