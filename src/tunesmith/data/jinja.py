"""Run a chat template: untrusted Jinja in a sandbox, with what transformers gives it.

{"role": "user", "content": "hi"}  ->  "<|im_start|>user\nhi<|im_end|>\n"  and where {% generation %} stood
"""

from __future__ import annotations

import copy
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from functools import lru_cache
from typing import Any, TypeVar

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.runtime import Context, Macro

from tunesmith.data.sandbox import Namespace, Sandbox
from tunesmith.data.watchdog import TookTooLong, limited
from tunesmith.data.watched import Watch, WatchedSandbox, compile_watched, has_unseen_steps

_Kind = TypeVar("_Kind", bound=Sandbox)

# Templates that write today's date would give other tokens on another day: a resumed run would silently
# learn from other data. Every date is this one, the day Llama 3's own template falls back to.
TEMPLATE_DATE = date(2024, 7, 26)

_MARKS = "generation_marks_"
# Whole code points of a private plane; the pair is chosen so that no message contains it.
_FIRST_MARK = 0x10F000
_MARK_LIKE = re.compile("[\U0010f000-\U0010ffff]")


class TemplateRefusal(Exception):
    """The template raised: by its own raise_exception, or because it cannot handle these messages."""


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}`: what the template's author says the model writes."""

    tags = {"generation"}  # noqa: RUF012 - jinja's own protocol

    def parse(self, parser: Parser) -> nodes.Node:
        """Wrap the block in a call that marks its beginning and end in the text."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        call = self.call_method("_mark", [nodes.ContextReference()])
        return nodes.CallBlock(call, [], [], body).set_lineno(line)

    def _mark(self, context: Context, caller: Macro) -> str:
        first, last = context.get(_MARKS) or ("", "")
        return f"{first}{caller()}{last}"


def _refuse(message: str) -> None:
    raise TemplateRefusal(str(message))


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, **options: Any) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, **options)


@lru_cache(maxsize=16)
def _compile(source: str) -> jinja2.Template:
    return _environment(Sandbox).from_string(source)


@lru_cache(maxsize=16)
def _compile_watched(source: str) -> jinja2.Template:
    return compile_watched(_environment(WatchedSandbox), source)


def _environment(kind: type[_Kind]) -> _Kind:
    environment = kind(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols])
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = TEMPLATE_DATE.strftime
    environment.globals["namespace"] = Namespace
    return environment


@dataclass(frozen=True, slots=True)
class Written:
    """A rendered text; `spans` are the [start, end) characters of its generation blocks."""

    text: str
    spans: tuple[tuple[int, int], ...] = ()


class JinjaTemplate:
    """One compiled template with the special tokens it may write."""

    def __init__(self, source: str, special_tokens: Mapping[str, str]) -> None:
        """Raises TemplateRefusal where the source is no Jinja."""
        self.source = source
        self.has_generation = re.search(r"\{%-?\s*generation\s*-?%\}", source) is not None
        self._special_tokens = dict(special_tokens)
        self._tools: list[Any] | None = None
        self._date = TEMPLATE_DATE
        self._watch: Watch | None = None
        try:
            with limited:  # constant expressions are computed here
                self._template = _compile(source)
        except jinja2.TemplateError as error:
            line = f"line {error.lineno}: " if isinstance(error, jinja2.TemplateSyntaxError) else ""
            raise TemplateRefusal(f"it is not valid Jinja: {line}{error}") from error
        except (RecursionError, MemoryError, SyntaxError, ValueError, TookTooLong) as error:
            raise TemplateRefusal(f"it is not valid Jinja: {type(error).__name__}") from error

    def syntax_tree(self) -> nodes.Template:
        """The parsed source."""
        return self._template.environment.parse(self.source)

    def with_tools(self, tools: Sequence[Mapping[str, Any]]) -> JinjaTemplate:
        """The same template, told of these tools."""
        told = copy.copy(self)
        told._tools = [dict(tool) for tool in tools] or None
        return told

    def on(self, day: date) -> JinjaTemplate:
        """The same template, on another day than that of training."""
        told = copy.copy(self)
        told._date = day
        return told

    def watching(self, watch: Watch) -> JinjaTemplate | None:
        """The same template, which tells whether it looks into a content; None where that could not be seen."""
        if has_unseen_steps(self.syntax_tree()):
            return None
        told = copy.copy(self)
        told._template, told._watch = _compile_watched(self.source), watch
        return told

    def mentions(self, word: str) -> bool:
        """Whether the source speaks of `word` at all."""
        return word in self.source

    def write(
        self, messages: Sequence[Mapping[str, Any]], generation_prompt: bool, **options: bool
    ) -> Written:
        """The text of the messages, as tokenizer.apply_chat_template gives it; no spans for a prompt.

        Raises TemplateRefusal.
        """
        marks = (
            _marks_apart_from([*messages, *(self._tools or ())])
            if self.has_generation and not generation_prompt
            else None
        )
        if self._watch is not None:
            environment = self._template.environment
            assert isinstance(environment, WatchedSandbox)
            environment.watch, messages = self._watch, self._watch.over(messages)
        try:
            with limited:
                text = self._template.render(
                    **{"strftime_now": self._date.strftime, **self._special_tokens, **options},
                    messages=messages,
                    tools=self._tools,
                    documents=None,
                    add_generation_prompt=generation_prompt,
                    **{_MARKS: marks},
                )
        except TemplateRefusal:
            raise
        except TookTooLong as error:
            raise TemplateRefusal("it fails: it computes for more than a second on one dialogue") from error
        except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError) as error:
            raise TemplateRefusal(f"it fails: {error}") from error
        except (AttributeError, OverflowError, RecursionError, MemoryError) as error:
            raise TemplateRefusal(f"it fails: {type(error).__name__}") from error
        return _without_marks(text, marks) if marks else Written(text)


def _marks_apart_from(messages: Sequence[Mapping[str, Any]]) -> tuple[str, str]:
    """Two characters that no message contains."""
    values = [
        value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        for message in messages
        for value in message.values()
    ]
    if not any(map(_MARK_LIKE.search, values)):
        return chr(_FIRST_MARK), chr(_FIRST_MARK + 1)
    taken = set().union(*values)
    free = (chr(code) for code in range(_FIRST_MARK, 0x10FFFE) if chr(code) not in taken)
    return next(free), next(free)


def _without_marks(text: str, marks: tuple[str, str]) -> Written:
    """Take the marks out and say where they stood. [ab]c -> abc, ((0, 2),)"""
    pieces = re.split(f"([{marks[0]}{marks[1]}])", text)
    clean: list[str] = []
    spans: list[tuple[int, int]] = []
    length, start = 0, 0
    for piece in pieces:
        if piece == marks[0]:
            start = length
        elif piece == marks[1]:
            spans.append((start, length))
        else:
            clean.append(piece)
            length += len(piece)
    return Written("".join(clean), tuple(spans))
