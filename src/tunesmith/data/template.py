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
from typing import TYPE_CHECKING, Any, Literal, final

from tunesmith.data.control import ControlGuard, Turn, has_control, inert, texts_in
from tunesmith.data.encode import Coder, ControlTokens, Tokens
from tunesmith.data.jinja import JinjaTemplate, TemplateRefusal
from tunesmith.data.records import Message
from tunesmith.data.template_turns import Refused, check_calls, shape_of, turn_of
from tunesmith.errors import TemplateError

if TYPE_CHECKING:
    from collections.abc import Callable

    from transformers import PreTrainedTokenizerFast

    Write = Callable[[Sequence[Turn]], str]

# What the popular templates begin an answer with, only to call them by a name people know.
_NAMES = {
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
_PROBE = ({"role": "user", "content": "x0probe0x"}, {"role": "assistant", "content": "x1probe1x"})


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


@dataclass(frozen=True, slots=True)
class Stop:
    """What the template writes after an answer: tail = (space +) stop token + whatever follows."""

    id: int
    text: str
    tail: str
    end_in_tail: int


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

    def __init__(self, tokenizer: PreTrainedTokenizerFast, name: str, source: str) -> None:
        """Use `ChatTemplate.of`. Raises TemplateError where one cannot train on it."""
        from jinja2 import meta

        self.source = source
        backend = tokenizer.backend_tokenizer
        unknown = model_unknown_id(tokenizer)
        self.control = ControlTokens.of(backend.get_added_tokens_decoder(), unknown)
        self.coder = Coder(backend, self.control.table(backend.get_vocab_size()))
        self._pattern = self.control.pattern()
        self._guard = ControlGuard(backend, self.control, self.coder)
        self._expected: dict[tuple[object, ...], list[int]] = {}
        self._tool_names: tuple[str, ...] = ()
        try:
            self._jinja = JinjaTemplate(source, tokenizer.special_tokens_map)
            variables = meta.find_undeclared_variables(self._jinja.syntax_tree())
            self._switches = tuple(name for name in _SWITCHES if name in variables)
            prompt = self.prompt_text(_PROBE[:1])
            self._opens_thought = bool(_OPEN_THOUGHT.search(prompt))
            self._knows_reasoning = self._jinja.mentions("reasoning_content") or bool(
                re.search(r"message(\.|\[['\"])thinking", source)
            )
            self.stop = self._find_stop()
            self._check_probe()
        except TemplateRefusal as refusal:
            raise _template_error(f"refuses the simplest dialogue: {refusal}") from refusal
        except Refused as refused:
            raise _template_error(refused.detail) from refused
        self.name = name if name == "plain" else next((n for m, n in _NAMES.items() if m in prompt), name)
        eos = tokenizer.eos_token_id
        self.stop_id: int = self.stop.id
        self.stop_ids: tuple[int, ...] = tuple(dict.fromkeys([self.stop.id, *([] if eos is None else [eos])]))
        self.eos_id: int = self.stop.id if eos is None else int(eos)
        self._tokenizer = tokenizer

    @classmethod
    def of(
        cls, tokenizer: PreTrainedTokenizerFast, choice: Literal["auto", "plain"] = "auto"
    ) -> ChatTemplate:
        """The tokenizer's own template; plain where it has none, or where plain is asked for.

        Raises TemplateError where the template cannot be trained on.
        """
        from tunesmith.data.plain import plain_source

        if choice == "plain" or tokenizer.chat_template is None:
            return cls(tokenizer, "plain", plain_source(tokenizer))
        try:
            source = tokenizer.get_chat_template()
        except ValueError as error:
            raise _template_error(f"is a set of templates without a default: {error}") from error
        plain = tokenizer.eos_token_id is not None and source == plain_source(tokenizer)
        return cls(tokenizer, "plain" if plain else "own", source)

    def for_tools(self, tools: Sequence[Mapping[str, Any]]) -> ChatTemplate:
        """The same template, told of a dialogue's tools; itself where there are none.

        Raises Refused where a tool's text holds a control token.
        """
        if not tools:
            return self
        if found := next(filter(None, map(self._pattern.search, texts_in(tools))), None):
            raise Refused("control_tokens", f"a tool holds the control token {found.group()!r}")
        told = copy.copy(self)
        told._jinja = self._jinja.with_tools(tools)
        told._tool_names = tuple(str(tool["function"]["name"]) for tool in tools)
        told._expected = {}
        return told

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

        try:
            told = self.for_tools(tools)

            def write(turns: Sequence[Turn]) -> str:
                return told.prompt_text(turns, **options)

            text = write(turns)
            borders = borders_in(text, told._past_answers(turns))
            encoded = told.encode(text, turns, borders, (), write, f"prompt {thinking}")
        except TemplateRefusal as refusal:
            raise _template_error(f"refuses this dialogue: {refusal}") from refusal
        except Refused as refused:
            raise _template_error(refused.detail) from refused
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
        """generation_config.eos_token_id for saving: what it was, and the stop if it was not among it."""
        return list(dict.fromkeys([*existing, self.stop_id]))

    def document_ids(self, text: str) -> list[int]:
        """A document as ids: as the tokenizer writes it by itself (BOS where it adds one), and one EOS."""
        self.coder.settle()
        ids: list[int] = self._tokenizer.backend_tokenizer.encode(text).ids
        return ids if ids and ids[-1] == self.eos_id else [*ids, self.eos_id]

    def turns(self, messages: Sequence[Message]) -> list[dict[str, Any]]:
        """Messages as templates take them; a leading <think> becomes reasoning where the template can."""
        return [turn_of(message, self._knows_reasoning or self._opens_thought) for message in messages]

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
        end = self._stop_end(text, prompt_end)
        start, learnt = prompt_end, True
        if self._jinja.has_generation:
            inside = [first for first, last in spans if last > prompt_end and first < end]
            learnt = bool(inside)
            start = max(prompt_end, min(inside, default=prompt_end))
        self._check_answer_kept(turns[number], text, prompt_end)
        learnt = learnt and turns[number].get("train", True)
        return Answer(number, text, prompt_end, start, end, learnt)

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

    def _stop_end(self, text: str, prompt_end: int) -> int:
        """The character after the stop token of the last turn of `text`."""
        tail_start = len(text) - len(self.stop.tail)
        if tail_start >= prompt_end and text.endswith(self.stop.tail):
            return tail_start + self.stop.end_in_tail
        found = text.find(self.stop.text, prompt_end)
        if found < 0:
            raise Refused("no_stop", f"the template does not write {self.stop.text!r} after this answer")
        return found + len(self.stop.text)

    def _check_answer_kept(self, turn: Turn, text: str, prompt_end: int) -> None:
        """The answer and its thought stand behind the prompt as they were given."""
        for key in ("content", "reasoning_content"):
            if text.find(turn.get(key, "").strip(), prompt_end) < 0:
                raise Refused("content_lost", f"the template does not write the answer's {key} as it is")
        check_calls(turn, text[prompt_end:])
        if any(name not in text[:prompt_end] for name in self._tool_names):
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
        """Exact tokens of `text`, which `write(turns)` gave; no token reaches over the borders.

        `borders` are characters, rising; those where `answers` start are among them.
        `kind` names what `write` writes: equal shapes have equal control tokens in texts of a kind.
        Raises Refused where a control token in a content cannot be kept out.
        """
        coder, tokens, private, place = self.coder, None, text, _same
        calls = (call for turn in turns for call in turn.get("tool_calls", ()))
        if any(self._pattern.search(said) for said in texts_in(list(calls))):
            raise Refused("control_tokens", "a call of a tool holds a control token")
        if not has_control(turns, self._pattern):
            tokens = coder.encode(text)
            if tokens.ids[tokens.controls].tolist() != self._controls_around(turns, kind, write):
                tokens = None  # a normaliser made a control token of something else
        if tokens is None:
            guarded = self._guard.encode(text, turns, write)
            if guarded is None:
                raise Refused(
                    "control_tokens", "a control token in a message cannot be told from the template's"
                )
            coder, neutral, tokens = guarded
            private, place = neutral.private, neutral.place
        firsts: dict[int, int] = {}
        for border in borders:
            tokens, firsts[border] = coder.border(private, tokens, place(border))
        spans = tuple((firsts[each.start], tokens.control_reaching(place(each.end))) for each in answers)
        if any(last >= len(tokens) or tokens.ids[last] != self.stop.id for _, last in spans):
            raise Refused("no_stop", f"{self.stop.text!r} does not stand after the answer as one token")
        return Encoded(tokens, spans, place)

    def _controls_around(self, turns: Sequence[Turn], kind: str, write: Write) -> list[int]:
        """Control ids of such a dialogue around inert contents; cached by its shape."""
        shape = (kind, *(shape_of(turn) for turn in turns))
        known = self._expected.get(shape)
        if known is None:
            tokens = self.coder.encode(write(inert(turns, "0000q")[0]))
            known = tokens.ids[tokens.controls].tolist()
            self._expected[shape] = known
        return known

    def _find_stop(self) -> Stop:
        text = self.text(_PROBE)
        content = _PROBE[1]["content"]
        if content not in text:
            raise Refused("content_lost", "does not write the answer as it is")
        tail = text[text.rindex(content) + len(content) :]
        tokens = self.coder.encode(tail)
        if not tokens.controls:
            written = f"only {tail!r}, which is not a token of this tokenizer" if tail.strip() else "nothing"
            raise Refused("no_stop", f"ends an answer with {written}: a model could never learn to stop")
        first = tokens.controls[0]
        start, end = tokens.span(first)
        stop_text = tail[start:end].strip()
        return Stop(
            int(tokens.ids[first]), stop_text, tail, start + tail[start:].index(stop_text) + len(stop_text)
        )

    def _check_probe(self) -> None:
        """The simplest dialogue has one learnt answer that ends with the stop."""
        answer = self.answer(_PROBE, 1)
        if not answer.learnt:
            raise Refused("nothing_learnt", "has {% generation %} blocks, but none around an answer")
        borders = borders_in(answer.text, [answer])
        self.encode(answer.text, _PROBE, borders, [answer], lambda turns: self.answer(turns, 1).text, "probe")


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


def _template_error(what: str) -> TemplateError:
    error = TemplateError.at(
        "chat template", what, "set data.template: plain, or correct the tokenizer's chat_template"
    )
    assert isinstance(error, TemplateError)
    return error
