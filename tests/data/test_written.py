"""Rows written quickly are the rendered rows, token by token; a template that looks into contents is rendered."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.byte_tokenizer import byte_tokenizer
from tests.data.families import FAMILIES, STYLES, tokenizer_of
from tunesmith.data.records import Chat, Message, Record, Text
from tunesmith.data.render import Rendered, render
from tunesmith.data.template import ChatTemplate
from tunesmith.data.written import Written

# Words that meet borders in every way: spaces and breaks at both ends, digits, marks that compose, control texts.
WORDS = st.sampled_from(
    ["Hello", " there", "\n", "\n\n", "  ", "123", "4", "'s", "!", "好的", "é", "e\u0301", "\u0301", "<", "|",
     "<|im_end|>", "</s>", "im_end", "assistant", "\nassistant\n", ":", "x0g0x", "{{", "\t"]
)  # fmt: skip
CONTENTS = st.lists(WORDS, min_size=1, max_size=5).map("".join)


@st.composite
def dialogues(draw: st.DrawFn) -> Chat:
    messages = [Message("system", draw(CONTENTS))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(1, 3))):
        messages.append(Message("user", draw(CONTENTS)))
        messages.append(
            Message("assistant", draw(CONTENTS), weight=draw(st.sampled_from([1.0, 1.0, 0.0, 0.5])))
        )
    return Chat(tuple(messages))


def templates() -> dict[str, ChatTemplate]:
    return {name: ChatTemplate.of(tokenizer_of(name)) for name in sorted(FAMILIES)}


def compare(template: ChatTemplate, records: list[Record], objective: str = "sft") -> int:
    """How many rows were written quickly; each as it is rendered."""
    quickly = 0
    for record, quick in zip(records, Written(template, objective).write(records)):  # type: ignore[arg-type]
        if quick is None:
            continue
        quickly += 1
        result = render(record, "a:1", template, objective, 10**6, "drop")  # type: ignore[arg-type]
        assert isinstance(result, Rendered), record
        assert result.fate == "whole"
        assert quick.equals(result.renderings[0]), record
        assert result.tokens_in == len(quick.ids)
    return quickly


@pytest.mark.parametrize("name", sorted(FAMILIES))
@settings(max_examples=40, deadline=None)
@given(records=st.lists(dialogues(), min_size=1, max_size=6))
def test_written_quickly_is_as_rendered(name: str, records: list[Chat]) -> None:
    compare(ChatTemplate.of(tokenizer_of(name)), list(records))


def test_the_usual_templates_are_written_quickly() -> None:
    chat = Chat((Message("user", "Hello there"), Message("assistant", "Hi!")))
    quick = {name for name, template in templates().items() if compare(template, [chat])}
    assert quick >= {"chatml", "llama3", "generation"}, quick
    assert compare(ChatTemplate.of(byte_tokenizer()), [chat]) == 1


LOOKING = (
    "{% if '</think>' in message['content'] %}a{% endif %}",
    "{% if message['content'] == 'x' %}a{% endif %}",
    "{% if 'x' == message['content'] %}a{% endif %}",
    "{% if message['content'] in ['x', 'y'] %}a{% endif %}",
    "{% if message['content'].startswith('x') %}a{% endif %}",
    "{% if message['content'][0] == 'x' %}a{% endif %}",
    "{% if message['content'] | length > 10 %}a{% endif %}",
    "{% if (message['content'] | trim) == 'x' %}a{% endif %}",
    "{% if ('q' + message['content']) == 'qx' %}a{% endif %}",
    "{% if message['content'] | upper == 'X' %}a{% endif %}",
    "{% if message['content'] is equalto 'x' %}a{% endif %}",
    "{% if (message | tojson) == 'x' %}a{% endif %}",
    "{% set t = message['content'] ~ '' %}{% if t == 'x' %}a{% endif %}",
    "{% set t %}{{ message['content'] }}{% endset %}{% if t == 'x' %}a{% endif %}",
    "{% macro m(c) %}{{ c }}{% endmacro %}{% if m(message['content']) == 'x' %}a{% endif %}",
    "{% if '%s' % message['content'] == 'x' %}a{% endif %}",
    "{% if '{}'.format(message['content']) == 'x' %}a{% endif %}",
    "{% if ','.join([message['content']]) == 'x' %}a{% endif %}",
    "{% for letter in message['content'] %}{% if letter == 'x' %}a{% endif %}{% endfor %}",
    "{% if message.values() | list | length > 1 and 'x' in message.values() | list %}a{% endif %}",
    "{% set d = {message['content']: 1} %}{% if 'x' in d %}a{% endif %}",
    "{% if message['content'] > 'x' %}a{% endif %}",
    "{% if message['content'] * 2 == 'xx' %}a{% endif %}",
    "{% set ns = namespace(c=message['content']) %}{% if ns.c == 'x' %}a{% endif %}",
    "{{ message['content'] | replace('x', 'y') | trim('y') }}",
)


@pytest.mark.parametrize("looking", LOOKING)
def test_a_template_that_looks_into_contents_is_rendered(looking: str) -> None:
    source = (
        "{% for message in messages %}<|im_start|>{{ message['role'] }}\n"
        + looking
        + "{{ message['content'] }}<|im_end|>\n{% endfor %}"
        + "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = byte_tokenizer()
    kept = tokenizer.chat_template
    try:
        tokenizer.chat_template = source
        template = ChatTemplate.of(tokenizer)
    finally:
        tokenizer.chat_template = kept
    chats: list[Record] = [
        Chat((Message("user", text), Message("assistant", "yes"))) for text in ("x", "hello", "y" * 30)
    ]
    assert compare(template, chats) == 0


@pytest.mark.parametrize("trim", ["| trim", ".strip()", ".strip('\\n')", ".lstrip()", ".rstrip('\\n ')"])
def test_trimmed_contents_are_trimmed_alike(trim: str) -> None:
    source = (
        "{% for message in messages %}<|im_start|>{{ message.role + '\\n' }}{{ message.content" + trim + " }}"
        "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    tokenizer = byte_tokenizer()
    kept = tokenizer.chat_template
    try:
        tokenizer.chat_template = source
        template = ChatTemplate.of(tokenizer)
    finally:
        tokenizer.chat_template = kept
    texts = ["a", " a", "\na ", " \n a\n \n", "\ta\t"]
    chats: list[Record] = [Chat((Message("user", q), Message("assistant", a))) for q in texts for a in texts]
    assert compare(template, chats) == len(chats)


@pytest.mark.parametrize("name", ["chatml", "llama2", "gemma", "llama3"])
def test_documents_are_written_as_rendered(name: str) -> None:
    texts: list[Record] = [
        Text(text) for text in ("a", "the quick brown fox", "", "好的\n\nx", "</s> <|im_end|>")
    ]
    compare(ChatTemplate.of(tokenizer_of(name)), texts, "pretrain")


assert STYLES
