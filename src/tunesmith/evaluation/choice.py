"""Multiple choice: which letter does the model find most likely where its answer begins?

user       question, "A. ..", "B. ..", ..., "Answer:"
assistant  ^ log-likelihood of each letter here, cut into tokens as the chat template renders it
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy import ndarray

from tunesmith.data.records import Chat, Choice, Message
from tunesmith.data.render import Drop, render
from tunesmith.errors import TemplateError
from tunesmith.evaluation.scores import Measured
from tunesmith.evaluation.tasks import LETTERS, Item
from tunesmith.model.generate import batches_of_like_length, context_length, last_logits, ready_to_answer

if TYPE_CHECKING:
    from torch import nn

    from tunesmith.data.template import ChatTemplate
    from tunesmith.recipe import Task

Progress = Callable[[int], None]

_ENGLISH = ("Answer the multiple choice question with the letter of the correct option.", "Answer:")
_CHINESE = ("以下是单项选择题，请直接给出正确答案的选项。", "答案是：")


def score_choices(
    model: nn.Module,
    template: ChatTemplate,
    task: Task,
    items: Sequence[Item],
    micro_tokens: int,
    pad_id: int,
    progress: Progress = lambda done: None,
) -> tuple[Measured, list[dict[str, Any]]]:
    """Accuracy of the most likely letter, and each item's log-likelihoods (nats)."""
    options = max(len(_choice(item).options) for item in items)
    letters = [letter_ids(template, items[0], letter) for letter in LETTERS[:options]]
    longest = max(map(len, letters))
    prompts, left_out = zip(*(fitting_prompt(template, i, context_length(model) - longest) for i in items))
    scores = option_scores(model, prompts, letters, micro_tokens, pad_id, progress)
    records, right = [], []
    for item, row, ids in zip(items, scores, prompts):
        choice = _choice(item)
        row = row[: len(choice.options)]
        # a question that does not fit is not cut; it counts as wrong
        chosen = int(np.argmax(row)) if ids else None
        right.append(chosen == choice.answer)
        records.append(_answer(task.name, item, row, chosen))
    measured = Measured(
        metric="accuracy",
        group=task.group,
        signature=f"accuracy|letter log-likelihood|template:{template.name}|shots:{task.shots}|prompt:1",
        addresses=tuple(item.address for item in items),
        numbers=tuple((float(value), 1.0) for value in right),
        notes=_notes(prompts, left_out),
    )
    return measured, records


def _choice(item: Item) -> Choice:
    assert isinstance(item.record, Choice)
    return item.record


def _answer(name: str, item: Item, row: ndarray, chosen: int | None) -> dict[str, Any]:
    choice = _choice(item)
    return {
        "task": name,
        "address": item.address,
        "question": choice.question,
        "options": list(choice.options),
        "log_likelihoods": None if chosen is None else dict(zip(LETTERS, map(float, row))),
        "chosen": None if chosen is None else LETTERS[chosen],
        "answer": LETTERS[choice.answer],
        "right": chosen == choice.answer,
    }


def _notes(prompts: Sequence[list[int]], left_out: Sequence[int]) -> tuple[str, ...]:
    too_long = sum(not prompt for prompt in prompts)
    said = [
        (too_long, f"{too_long} questions are longer than the model's context and count as wrong"),
        (sum(left_out), f"{sum(left_out)} shots were left out, the first ones, to fit the model's context"),
    ]
    return tuple(text for count, text in said if count)


def question_text(choice: Choice) -> str:
    """The user turn of a question, in the question's own language."""
    chinese = any("\u3400" <= letter <= "\u9fff" for letter in choice.question)
    ask, answer = _CHINESE if chinese else _ENGLISH
    lines = [f"{letter}. {option}" for letter, option in zip(LETTERS, choice.options)]
    return "\n".join([ask, "", choice.question, *lines, answer])


def turns_of(item: Item, shots: int | None = None) -> tuple[Message, ...]:
    """Solved examples as earlier turns (the last `shots` of them), then the question."""
    solved = item.shots if shots is None else item.shots[len(item.shots) - shots :]
    turns: list[Message] = []
    for shot in solved:
        assert isinstance(shot, Choice)
        turns += [Message("user", question_text(shot)), Message("assistant", LETTERS[shot.answer])]
    return (*turns, Message("user", question_text(_choice(item))))


def fitting_prompt(template: ChatTemplate, item: Item, limit: int) -> tuple[list[int], int]:
    """(ids, shots left out from the left to fit `limit`); no ids where the question alone does not fit."""
    for shots in range(len(item.shots), -1, -1):
        ids = template.prompt_ids(turns_of(item, shots))
        if len(ids) <= limit:
            return list(ids), len(item.shots) - shots
    return [], len(item.shots)


def letter_ids(template: ChatTemplate, item: Item, letter: str) -> list[int]:
    """The letter as the template would render it as an answer, without the stop token."""
    chat = Chat((*turns_of(item, 0), Message("assistant", letter)))
    rendered = render(chat, item.address, template, "sft", 2**31 - 1, "drop")
    if isinstance(rendered, Drop):
        raise TemplateError.at(
            item.address, f"{rendered.reason}: {rendered.detail}", "use data.template: plain"
        )
    rendering = rendered.renderings[-1]
    learnt = rendering.ids[rendering.learnt].tolist()
    return [int(token) for token in learnt[:-1]]


def option_scores(
    model: nn.Module,
    prompts: Sequence[Sequence[int]],
    letters: Sequence[Sequence[int]],
    micro_tokens: int,
    pad_id: int,
    progress: Progress = lambda done: None,
) -> ndarray:
    """Log-likelihood in nats of each letter after each prompt: Float[ndarray, "prompts letters"].

    Every token of a letter counts. An empty prompt (nothing fitted) scores nothing.
    """
    scores = np.full((len(prompts), len(letters)), -np.inf)
    known = [at for at, prompt in enumerate(prompts) if prompt]
    longest = max(map(len, letters))
    done = 0
    with ready_to_answer(model):
        for batch in batches_of_like_length([len(prompts[at]) + longest for at in known], micro_tokens):
            rows = [known[at] for at in batch]
            scores[rows] = _score_batch(model, [list(prompts[at]) for at in rows], letters, pad_id)
            done += len(rows)
            progress(done)
    return scores


def _score_batch(
    model: Any, prompts: list[list[int]], letters: Sequence[Sequence[int]], pad_id: int
) -> ndarray:
    if all(len(letter) == 1 for letter in letters):  # one pass tells all letters
        logits = last_logits(model, prompts, 1, pad_id)
        shares = torch.log_softmax(logits[:, -1].float(), dim=-1)
        return shares[:, [letter[0] for letter in letters]].double().cpu().numpy()
    columns = []
    for letter in letters:
        rows = [[*prompt, *letter[:-1]] for prompt in prompts]
        logits = last_logits(model, rows, len(letter), pad_id)
        shares = torch.log_softmax(logits.float(), dim=-1)
        wanted = torch.tensor(letter, device=logits.device).view(1, -1, 1).expand(len(rows), -1, 1)
        columns.append(shares.gather(2, wanted)[..., 0].sum(dim=1).double().cpu().numpy())
    return np.stack(columns, axis=1)
