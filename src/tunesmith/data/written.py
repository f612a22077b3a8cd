"""Write dialogues quickly: a template that never looks into a content writes a form, and each row fills its gaps.

form of (user, assistant)   [151644] | "user\\n" GAP | [151645] .. "assistant\\n" | GAP | [151645] | [198]
                                                                           learnt ------->
What is the same in every row is encoded once; only contents are, many rows at a time. The result is the one of
render.py, token by token: where that is not certain a row gets None, and is rendered.
"""

from __future__ import annotations

import itertools
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

from tunesmith.data.control import Turn
from tunesmith.data.jinja import TemplateRefusal
from tunesmith.data.label_rules import learnt_spans
from tunesmith.data.records import Chat, Message, Record, Text
from tunesmith.data.samples import Rendering
from tunesmith.data.template import Answer, ChatTemplate, borders_in
from tunesmith.data.template_turns import Refused
from tunesmith.data.watched import Watch, gaps_in
from tunesmith.recipe import ObjectiveKind

_MOST_FORMS = 512  # a form a shape: roles and weights; a data set of other shapes is rendered row by row
Shape = tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True)
class Quick:
    """A row as one sample: all its ids, [start, end) of what is learnt, the weight of each of these."""

    ids: list[int]
    spans: list[tuple[int, int]]
    weights: list[float] | None = None

    def equals(self, rendering: Rendering) -> bool:
        """Whether rendering the row gave the same."""
        starts, ends = learnt_spans(rendering.learnt)
        same = self.ids == rendering.ids.tolist() and self.spans == list(zip(starts.tolist(), ends.tolist()))
        weights = None if self.weights is None else [rendering.weights[a] for a in starts]  # type: ignore[index]
        return same and (rendering.weights is None) == (weights is None) and weights in (None, self.weights)


@dataclass(frozen=True, slots=True)
class Gap:
    """Where the content of a turn stands, and how it was trimmed."""

    turn: int
    trims: tuple[tuple[str, str | None], ...]

    def of(self, message: Message) -> str:
        """The content as it stands there."""
        text = message.content
        for how, characters in self.trims:
            text = getattr(text, how)(characters)
        return text


@dataclass(frozen=True, slots=True)
class Form:
    """Stretches, each with its ids or with gaps; which of them are learnt, from and up to and with; their weights."""

    stretches: tuple[list[int] | tuple[str | Gap, ...], ...]
    learnt: tuple[tuple[int, int], ...]
    weights: list[float] | None
    begin_answers: tuple[int, ...]
    """Turns whose content stands right behind a border."""

    def texts(self, messages: Sequence[Message]) -> list[str]:
        """What is to be encoded of a row."""
        return [
            "".join([part if isinstance(part, str) else part.of(messages[part.turn]) for part in stretch])
            for stretch in self.stretches
            if isinstance(stretch, tuple)
        ]

    def fill(self, encoded: Sequence[list[int]]) -> Quick:
        """The row, with what was encoded."""
        ids: list[int] = []
        starts: list[int] = []
        given = iter(encoded)
        for stretch in self.stretches:
            starts.append(len(ids))
            ids += next(given) if isinstance(stretch, tuple) else stretch
        starts.append(len(ids))
        return Quick(ids, [(starts[first], starts[last + 1]) for first, last in self.learnt], self.weights)


@final
class Written:
    """Writes many rows at once with one template."""

    def __init__(self, template: ChatTemplate, objective: ObjectiveKind) -> None:
        self._template, self._objective = template, objective
        self._forms: dict[Shape, Form | None] = {}
        self._control = template.control.pattern()
        self._control_ids = frozenset(template.control.by_text.values())
        # of chats under pretrain every token is learnt, across all borders: they are rendered
        self._can = objective == "sft" and template.coder.has_free_stretches

    def write(self, records: Sequence[Record]) -> list[Quick | None]:
        """Each row as one sample, however long; None where it must be rendered."""
        found: list[Quick | None] = [None] * len(records)
        forms: list[tuple[int, Form, int]] = []
        texts: list[str] = []
        for number, record in enumerate(records):
            form = self._form_of(record) if self._can and isinstance(record, Chat) else None
            if form is not None and isinstance(record, Chat):
                parts = form.texts(record.messages)
                forms.append((number, form, len(parts)))
                texts += parts
        encoded = self._template.coder.encode_all(texts)
        at = 0
        for number, form, count in forms:
            parts_of = encoded[at : at + count]
            at += count
            # a content that became a control token by itself is for render.py to look at
            if all(map(self._control_ids.isdisjoint, parts_of)):
                quick = form.fill(parts_of)
                if quick.spans[-1][1] > quick.spans[-1][0]:
                    found[number] = quick
        self._documents(records, found)
        return found

    def _documents(self, records: Sequence[Record], found: list[Quick | None]) -> None:
        """Documents: every token but the first is learnt."""
        if self._objective != "pretrain":
            return
        texts = [(number, record.text) for number, record in enumerate(records) if isinstance(record, Text)]
        encoded = self._template.coder.encode_all([text for _, text in texts], with_special=True)
        for (number, _), ids in zip(texts, encoded):
            if not ids or ids[-1] != self._template.eos_id:
                ids.append(self._template.eos_id)
            if len(ids) > 1:
                found[number] = Quick(ids, [(1, len(ids))])

    def _form_of(self, record: Chat) -> Form | None:
        """The form of a row; None where it is not certain that it has one."""
        if record.tools:
            return None
        apart = self._template.keeps_thoughts_apart
        for message in record.messages:
            content = message.content
            if message.calls or message.reasoning is not None or not content or content.isspace():
                return None
            if self._control.search(content) or (apart and "think>" in content):
                return None
        shape = tuple([(message.role, message.weight) for message in record.messages])
        if shape not in self._forms:
            if len(self._forms) >= _MOST_FORMS:
                return None
            self._forms[shape] = self._make_form(shape)
        form = self._forms[shape]
        if form is None or any(_composes(record.messages[turn].content) for turn in form.begin_answers):
            return None
        return form

    def _make_form(self, shape: Shape) -> Form | None:
        watch, template = Watch(), self._template
        told = template.watching(watch)
        if told is None:
            return None
        nonce = next(n for n in range(10**9) if f"x{n}g" not in template.source)
        turns: list[Turn] = [
            {"role": role, "content": f"x{nonce}g{number}x", **({} if weight == 1 else {"weight": weight})}
            for number, (role, weight) in enumerate(shape)
        ]
        try:
            answers = told.answers(turns)
            if not answers or not any(answer.learnt for answer in answers):
                return None
            text = answers[-1].text
            told.check_kept(turns, text)
        except (Refused, TemplateRefusal):
            return None
        stable = all(text.startswith(each.text[: each.end]) for each in answers)
        if watch.looked or not stable:
            return None
        return _cut(template, text, turns, answers, watch)


def _composes(content: str) -> bool:
    """Whether the first letter may melt into the one before it (NFC)."""
    return content[0] > "\u02ff" and unicodedata.combining(content[0]) != 0


def _cut(
    template: ChatTemplate, text: str, turns: Sequence[Turn], answers: Sequence[Answer], watch: Watch
) -> Form | None:
    """A written form, cut at control tokens and borders."""
    tokens = template.coder.encode(text)
    controls = {tokens.span(index): int(tokens.ids[index]) for index in tokens.controls}
    borders = borders_in(text, answers)
    chosen = [answer for answer in answers if answer.learnt]
    edges = sorted({0, len(text), *borders, *(edge for span in controls for edge in span)})
    gaps = gaps_in(text, watch)
    stretches: list[list[int] | tuple[str | Gap, ...]] = []
    for start, end in itertools.pairwise(edges):
        inside = [gap for gap in gaps if start <= gap[0] and gap[1] <= end]
        if any(gap[0] < end < gap[1] for gap in gaps):
            return None
        if (start, end) in controls:
            stretches.append([controls[start, end]])
        elif inside:
            stretches.append(_with_gaps(text, start, end, inside, turns, watch))
        else:
            stretches.append(template.coder.encode(text[start:end]).ids.tolist())
    first = {edge: number for number, edge in enumerate(edges)}
    learnt = []
    for answer in chosen:
        stop = min((span for span in controls if span[1] >= answer.end), default=None)
        if stop is None or controls[stop] != answer.stop_id or answer.start not in borders:
            return None
        learnt.append((first[answer.start], first[stop[0]]))
    weights = [float(turns[answer.turn].get("weight", 1.0)) for answer in chosen]
    return Form(
        tuple(stretches),
        tuple(learnt),
        None if all(weight == 1 for weight in weights) else weights,
        tuple(int(turn) for turn in range(len(turns)) if turns[turn]["role"] == "assistant"),
    )


def _with_gaps(
    text: str,
    start: int,
    end: int,
    gaps: Sequence[tuple[int, int, str]],
    turns: Sequence[Turn],
    watch: Watch,
) -> tuple[str | Gap, ...]:
    names = [turn["content"] for turn in turns]
    parts: list[str | Gap] = []
    at = start
    for first, last, name in gaps:
        content, trims = watch.gaps[name]
        parts += [text[at:first], Gap(names.index(content), trims)]
        at = last
    return tuple(part for part in [*parts, text[at:end]] if part != "")
