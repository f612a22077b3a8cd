"""How a dialogue becomes text, in training, chat and evaluation alike, and where its answers stand.

<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\n    Hello<|im_end|>    \\n
                  generation prompt: given                  learnt           nothing after the stop
"""

from __future__ import annotations

import copy
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from tunesmith.data.choice import Choice, choose
from tunesmith.data.control import ControlGuard, Turn, has_control, inert
from tunesmith.data.encode import Coder, ControlTokens, Tokens
from tunesmith.data.jinja import JinjaTemplate, TemplateRefusal
from tunesmith.data.records import Message
from tunesmith.data.stop import PROBE, find_stops
from tunesmith.data.template_turns import Refused, check_calls, shape_of, turn_of

if TYPE_CHECKING:
    from collections.abc import Callable
    from datetime import date

    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerFast

    from tunesmith.data.watched import Watch

    Write = Callable[["ChatTemplate", Sequence[Turn]], str]

# What the popular templates begin an answer with, only to call them by a name people know.
_NAMES = {
    "[gMASK]": "glm",
    "<|im_start|>": "chatml",
    "<|start_header_id|>": "llama-3",
    "<start_of_turn>": "gemma",
    "[/INST]": "mistral",
    "<|assistant|>": "zephyr",
    "<｜Assistant｜>": "deepseek",
}
# Variables by which templates switch a thought on or off in the generation prompt.
_SWITCHES = ("enable_thinking", "open_thinking", "thinking")
_OPEN_THOUGHT = re.compile(r"<think>\s*\Z")


@dataclass(frozen=True, slots=True)
class Answer:
    """One assistant turn in a text: [start, end) is learnt, from after the prompt up to and with the stop."""

    turn: int
    text: str
    """The dialogue up to and with this turn, as at inference."""
    prompt_end: int
    start: int
    """Equal to prompt_end, but where {% generation %} begins later."""
    end: int
    learnt: bool
    """False where the template has {% generation %} and leaves this turn out."""
    stop_id: int


@dataclass(frozen=True, slots=True)
class Encoded:
    """Tokens of a text with borders at its answers: learnt are [first, last] of each."""

    tokens: Tokens
    learnt: tuple[tuple[int, int], ...]
    place: Callable[[int], int]
    """Where a character of the text stands in the coordinates of `tokens`."""


@final
class ChatTemplate:
    """A tokenizer's template (or the plain one), probed once: its stop token, its prompts, its texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast, choice: Choice) -> None:
        """Use `ChatTemplate.of`. Raises TemplateError where one cannot train on it."""
        from jinja2 import meta

        source = self.source = choice.source
        backend = tokenizer.backend_tokenizer
        unknown = model_unknown_id(tokenizer)
        self.control = ControlTokens.of(backend.get_added_tokens_decoder(), unknown)
        self.coder = Coder(backend, self.control.table(backend.get_vocab_size()))
        self._pattern = self.control.pattern()
        self._guard = ControlGuard(backend, self.control, self.coder)
        self._expected: dict[tuple[object, ...], list[int]] = {}
        self._tools: Sequence[Mapping[str, Any]] = ()
        try:
            self._jinja = JinjaTemplate(source, tokenizer.special_tokens_map)
            variables = meta.find_undeclared_variables(self._jinja.syntax_tree())
            self._switches = tuple(name for name in _SWITCHES if name in variables)
            prompt = self.prompt_text(PROBE[:1])
            self._opens_thought = bool(_OPEN_THOUGHT.search(prompt))
            self._knows_reasoning = self._jinja.mentions("reasoning_content") or bool(
                re.search(r"message(\.|\[['\"])thinking", source)
            )
            self.stop, self.call_stop = find_stops(self.text, self.coder, tokenizer)
            self._check_probe()
        except TemplateRefusal as refusal:
            raise choice.error(f"refuses the simplest dialogue: {refusal}") from refusal
        except Refused as refused:
            raise choice.error(refused.detail) from refused
        known = (name for mark, name in _NAMES.items() if choice.name == "own" and mark in prompt)
        self.name = next(known, choice.name)
        eos = tokenizer.eos_token_id
        ends = [self.stop.id, self.call_stop.id, *([] if eos is None else [int(eos)])]
        self.stop_id: int = self.stop.id
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys(ends))
        self.eos_id: int = ends[-1]
        self.choice = choice
        self._tokenizer = tokenizer

    @classmethod
    def of(cls, tokenizer: PreTrainedTokenizerFast, choice: str = "auto") -> ChatTemplate:
        """What `data.template` names: the tokenizer's own (plain where it has none), plain, a NAME, a FILE.jinja.

        Raises TemplateError where the template cannot be trained on.
        """
        return cls(tokenizer, choose(tokenizer, choice))

    def for_tools(self, tools: Sequence[Mapping[str, Any]]) -> ChatTemplate:
        """The same template, told of a dialogue's tools; itself where there are none."""
        if not tools:
            return self
        told = copy.copy(self)
        told._jinja, told._tools, told._expected = self._jinja.with_tools(tools), tools, {}
        return told

    def on(self, day: date) -> ChatTemplate:
        """The same template, as a program writes it that takes today's date for a template that asks for one."""
        told = copy.copy(self)
        told._jinja, told._expected = self._jinja.on(day), {}
        return told

    def watching(self, watch: Watch) -> ChatTemplate | None:
        """The same template, which tells whether it looks into a content; None where that could not be seen."""
        jinja = self._jinja.watching(watch)
        if jinja is None:
            return None
        told = copy.copy(self)
        told._jinja, told._expected = jinja, {}
        return told

    @property
    def keeps_thoughts_apart(self) -> bool:
        """Whether a leading <think> of an answer is taken out of its content."""
        return self._knows_reasoning or self._opens_thought

    @property
    def backend(self) -> Tokenizer:
        """The tokenizer's rules."""
        found: Tokenizer = self._tokenizer.backend_tokenizer
        return found

    def prompt_ids(
        self,
        messages: Sequence[Message],
        thinking: bool | None = None,
        tools: Sequence[Mapping[str, Any]] = (),
    ) -> list[int]:
        """Ids that stand before the next answer: the very ids that stand before it in training.

        `thinking` switches a thought on or off where the template can; None leaves it to the template.
        Raises TemplateError where the template refuses the messages.
        """
        turns = self.turns(messages)
        options = {} if thinking is None else dict.fromkeys(self._switches, thinking)

        def write(told: ChatTemplate, turns: Sequence[Turn]) -> str:
            return told.prompt_text(turns, **options)

        try:
            told = self.for_tools(tools)
            text = write(told, turns)
            told._check_tools(text)
            borders = borders_in(text, told._past_answers(turns))
            encoded = told.encode(text, turns, borders, (), write, f"prompt {thinking}")
        except TemplateRefusal as refusal:
            raise self.choice.error(f"refuses this dialogue: {refusal}") from refusal
        except Refused as refused:
            raise self.choice.error(refused.detail) from refused
        ids: list[int] = encoded.tokens.ids.tolist()
        return ids

    def _past_answers(self, turns: Sequence[Turn]) -> list[Answer]:
        """Answers already given; one that training would drop has no border, but may well be talked about."""
        found = []
        for number, turn in enumerate(turns):
            if turn["role"] == "assistant":
                with suppress(Refused):
                    found.append(self.answers_at(turns, number))
        return found

    def generation_eos(self, existing: Sequence[int]) -> list[int]:
        """generation_config.eos_token_id for saving: what it was, and the stops that were not among it."""
        return list(dict.fromkeys([*existing, self.stop_id, self.call_stop.id]))

    def document_ids(self, text: str) -> list[int]:
        """A document as ids: as the tokenizer writes it by itself (BOS where it adds one), and one EOS."""
        self.coder.settle()
        ids: list[int] = self._tokenizer.backend_tokenizer.encode(text).ids
        return ids if ids and ids[-1] == self.eos_id else [*ids, self.eos_id]

    def turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as templates take them; a leading <think> becomes reasoning where the template can."""
        return [turn_of(message, self.keeps_thoughts_apart) for message in messages]

    def text(self, turns: Sequence[Turn]) -> str:
        """The whole dialogue as text. Raises TemplateRefusal."""
        return self._jinja.write(turns, generation_prompt=False).text

    def prompt_text(self, turns: Sequence[Turn], **options: bool) -> str:
        """The dialogue with the generation prompt. Raises TemplateRefusal."""
        return self._jinja.write(turns, generation_prompt=True, **options).text

    def answers(self, turns: Sequence[Turn]) -> list[Answer]:
        """Each assistant turn as at inference. Raises Refused."""
        return [self.answers_at(turns, n) for n, turn in enumerate(turns) if turn["role"] == "assistant"]

    def answers_at(self, turns: Sequence[Turn], number: int) -> Answer:
        """One of `answers`. Raises Refused."""
        try:
            return self.answer(turns, number)
        except TemplateRefusal as refusal:
            raise Refused("template_refuses", str(refusal)) from refusal

    def answer(self, turns: Sequence[Turn], number: int) -> Answer:
        """Assistant turn `number` as at inference. Raises Refused, TemplateRefusal."""
        given, upto = turns[:number], turns[: number + 1]
        thinks = bool(turns[number].get("reasoning_content"))
        for options in self._variants(thinks):
            written = self._jinja.write(upto, generation_prompt=False, **options)
            prompt = self.prompt_text(given, **options)
            if written.text.startswith(prompt):
                text, spans, prompt_end = written.text, written.spans, len(prompt)
                break
        else:
            text, prompt_end = self._close_thought(turns, number)
            spans = ((prompt_end, len(text)),)
        stop = self.call_stop if turns[number].get("tool_calls") else self.stop
        text = stop.closed(text)
        end = stop.end(text, prompt_end)
        start, learnt = prompt_end, True
        if self._jinja.has_generation:
            inside = [first for first, last in spans if last > prompt_end and first < end]
            learnt = bool(inside)
            start = max(prompt_end, min(inside, default=prompt_end))
        self._check_answer_kept(turns[number], text, prompt_end)
        learnt = learnt and turns[number].get("weight", 1.0) > 0
        return Answer(number, text, prompt_end, start, end, learnt, stop.id)

    def _variants(self, thinks: bool) -> list[dict[str, bool]]:
        """How the template may be asked: as it likes, then with the thought switched as the turn has it."""
        if not self._switches:
            return [{}]
        return [{}, *(dict.fromkeys(self._switches, value) for value in (thinks, not thinks))]

    def _close_thought(self, turns: Sequence[Turn], number: int) -> tuple[str, int]:
        """DeepSeek-R1's kind: the prompt opens a thought that the written turn leaves out. Put it back."""
        prompt = self.prompt_text(turns[:number])
        written = self.text(turns[: number + 1])
        opened = _OPEN_THOUGHT.search(prompt)
        if opened is None or not written.startswith(prompt[: opened.start()]):
            raise Refused(
                "generation_prompt_mismatch",
                "what the template gives before an answer is not what it writes before it",
            )
        thought = turns[number].get("reasoning_content", "")
        return f"{prompt}{thought}\n</think>\n\n{written[opened.start() :]}", len(prompt)

    def _check_answer_kept(self, turn: Turn, text: str, prompt_end: int) -> None:
        """The answer and its thought stand behind the prompt as they were given."""
        for key in ("content", "reasoning_content"):
            if text.find(turn.get(key, "").strip(), prompt_end) < 0:
                raise Refused("content_lost", f"the template does not write the answer's {key} as it is")
        check_calls(turn, text[prompt_end:])
        self._check_tools(text[:prompt_end])

    def _check_tools(self, text: str) -> None:
        """A template may not swallow the tools in silence, nor may the prompt of a chat. Raises Refused."""
        if any(str(tool["function"]["name"]) not in text for tool in self._tools):
            raise Refused("tools_lost", "the template does not write the tools")

    def check_kept(self, turns: Sequence[Turn], text: str) -> None:
        """Whatever was said stands in the text: a template may not swallow a turn in silence. Raises Refused."""
        for turn in turns:
            if turn["content"].strip() not in text:
                what = f"the template does not write this {turn['role']} turn as it is"
                raise Refused("content_lost", what)
            check_calls(turn, text)

    def encode(
        self,
        text: str,
        turns: Sequence[Turn],
        borders: Sequence[int],
        answers: Sequence[Answer],
        write: Write,
        kind: str,
    ) -> Encoded:
        """Exact tokens of `text`, which `write(self, turns)` gave; no token reaches over the borders.

        `borders` are characters, rising; those where `answers` start are among them.
        `kind` names what `write` writes: equal shapes have equal control tokens in texts of a kind.
        Raises Refused where a control token in a content cannot be kept out.
        """
        coder, tokens, private, place = self.coder, None, text, _same
        if not has_control(turns, self._tools, self._pattern):
            tokens = coder.encode(text)
            if tokens.ids[tokens.controls].tolist() != self._controls_around(turns, kind, write):
                tokens = None  # a normaliser made a control token of something else
        if tokens is None:

            def inert_text(turns: Sequence[Turn], tools: Sequence[Mapping[str, Any]]) -> str:
                return write(self.for_tools(tools), turns)

            guarded = self._guard.encode(text, turns, self._tools, inert_text)
            if guarded is None:
                raise Refused(
                    "control_tokens", "a control token in a message cannot be told from the template's"
                )
            coder, neutral, tokens = guarded
            private, place = neutral.private, neutral.place
        firsts: dict[int, int] = {}
        before = (0, 0)
        for border in borders:
            tokens, firsts[border] = coder.border(private, tokens, place(border), before)
            before = (place(border), firsts[border])
        spans = tuple((firsts[each.start], tokens.control_reaching(place(each.end))) for each in answers)
        for (_, last), each in zip(spans, answers):
            if last >= len(tokens) or tokens.ids[last] != each.stop_id:
                raise Refused("no_stop", "the stop does not stand after the answer as one token")
        return Encoded(tokens, spans, place)

    def _controls_around(self, turns: Sequence[Turn], kind: str, write: Write) -> list[int]:
        """Control ids of such a dialogue around inert contents; cached by its shape."""
        shape = (kind, *(shape_of(turn) for turn in turns))
        known = self._expected.get(shape)
        if known is None:
            tokens = self.coder.encode(write(self, inert(turns, "0000q")[0]))
            known = tokens.ids[tokens.controls].tolist()
            self._expected[shape] = known
        return known

    def _check_probe(self) -> None:
        """The simplest dialogue has one learnt answer that ends with the stop."""
        answer = self.answer(PROBE, 1)
        if not answer.learnt:
            raise Refused("nothing_learnt", "has {% generation %} blocks, but none around an answer")
        borders = borders_in(answer.text, [answer])
        self.encode(
            answer.text, PROBE, borders, [answer], lambda _, turns: self.answer(turns, 1).text, "probe"
        )


def borders_in(text: str, answers: Sequence[Answer]) -> list[int]:
    """Characters of `text` where answers begin, as far as it has the same before them as inference had.

    Past answers too: a model's own answer was written behind its prompt, token by token.
    """
    return [each.start for each in answers if text.startswith(each.text[: each.start])]


def _same(place: int) -> int:
    return place


def model_unknown_id(tokenizer: PreTrainedTokenizerFast) -> int | None:
    """The id that text outside the vocabulary becomes; None where every text has ids (byte-level)."""
    unknown = tokenizer.unk_token_id
    model_unknown = getattr(tokenizer.backend_tokenizer.model, "unk_token", None)
    if unknown is None or (model_unknown is not None and model_unknown != tokenizer.unk_token):
        return None
    if model_unknown is None and type(tokenizer.backend_tokenizer.model).__name__ != "Unigram":
        return None
    return int(unknown)
