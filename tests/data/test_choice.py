"""Templates by name and by file: what each of ours writes and teaches, and what is said of one that does not fit."""

from __future__ import annotations

import os
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from tests.data.families import FAMILIES, Family
from tunesmith.data.choice import SHIPPED, choose, fitting, needs, shipped_source
from tunesmith.data.formats import to_record
from tunesmith.data.label_rules import breaches
from tunesmith.data.records import Chat, Message
from tunesmith.data.render import Rendered, render
from tunesmith.data.show import Pieces
from tunesmith.data.template import ChatTemplate
from tunesmith.errors import RecipeError, TemplateError
from tunesmith.recipe import parse

ASSETS = os.environ.get("TUNESMITH_ASSETS", "")
DIALOGUE = (
    Message("system", "Be brief."),
    Message("user", "Hi"),
    Message("assistant", "Hello!"),
    Message("user", "What is 2+2?"),
    Message("assistant", "It is 4. 好的"),
)
CALL = {"name": "add", "arguments": {"a": "é", "b": 1}}
TOOL = {"type": "function", "function": {"name": "add", "description": "adds", "parameters": {}}}
TOOL_ROW: dict[str, Any] = {
    "messages": [
        {"role": "user", "content": "Q1"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": CALL}]},
        {"role": "tool", "content": "TWO"},
        {"role": "assistant", "content": "R1"},
        {"role": "user", "content": "Q2"},
        {"role": "assistant", "content": "R2"},
    ],
    "tools": [TOOL],
}
GLM = ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")
# Which tokenizer of the tests has what a template of ours needs.
KIN: dict[str, Family] = {
    "chatml": FAMILIES["chatml"],
    "qwen": FAMILIES["chatml"],
    "qwen3": FAMILIES["qwen3"],
    "internlm2": FAMILIES["internlm2"],
    "llama3": FAMILIES["llama3"],
    "mistral": FAMILIES["mistral"],
    "gemma": FAMILIES["gemma"],
    "glm4": Family("chatml", GLM, "<|user|>", "<|endoftext|>"),
}


def template_of(name: str) -> tuple[PreTrainedTokenizerFast, ChatTemplate]:
    tokenizer = KIN[name].tokenizer()
    return tokenizer, ChatTemplate.of(tokenizer, name)


@cache
def cached(name: str) -> tuple[PreTrainedTokenizerFast, ChatTemplate]:
    return template_of(name)


def rendered(template: ChatTemplate, record: Chat) -> Rendered:
    result = render(record, "a.jsonl:1", template, "sft", 4096, "drop")
    assert isinstance(result, Rendered), result
    assert breaches(record, result, template, "sft", None, against_inference=True) == []
    return result


def marked(tokenizer: PreTrainedTokenizerFast, result: Rendered) -> list[str]:
    """The text of each sample with what is learnt in ⟦ ⟧."""
    texts = []
    for rendering in result.renderings:
        pieces, text, before = Pieces(tokenizer).of(rendering.ids.tolist()), "", False
        for piece, learnt in zip([*pieces, ""], [*rendering.learnt.tolist(), False]):
            text += ("⟦" if learnt else "⟧") if learnt != before else ""
            text, before = text + piece, learnt
        texts.append(text)
    return texts


CHATML = (
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    "⟦Hello!<|im_end|>⟧\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
    "⟦It is 4. 好的<|im_end|>⟧\n"
)
GOLDEN = {
    "chatml": [CHATML],
    "qwen": [CHATML],
    "internlm2": ["<s>" + CHATML],
    "llama3": [
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello!<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦It is 4. 好的<|eot_id|>⟧"
    ],
    # the tokenizer writes a space after each <s> and </s>, as Llama 2's does
    "mistral": ["<s> [INST] Be brief.\n\nHi[/INST]⟦ Hello!</s>⟧ [INST] What is 2+2?[/INST]⟦ It is 4. 好的</s>⟧"],
    "gemma": [
        "<bos><start_of_turn>user\nBe brief.\n\nHi<end_of_turn>\n<start_of_turn>model\n⟦Hello!<end_of_turn>⟧\n"
        "<start_of_turn>user\nWhat is 2+2?<end_of_turn>\n<start_of_turn>model\n⟦It is 4. 好的<end_of_turn>⟧\n"
    ],
    # the stop is the role that speaks next; after the last answer it is written for the model to learn
    "glm4": [
        "[gMASK]<sop><|system|>\nBe brief.<|user|>\nHi<|assistant|>⟦\nHello!<|user|>⟧\nWhat is 2+2?<|assistant|>"
        "⟦\nIt is 4. 好的<|user|>⟧"
    ],
    "qwen3": [
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\n\n</think>\n\nHello!<|im_end|>⟧\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "Hello!<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\n\n</think>\n\nIt is 4. 好的<|im_end|>⟧\n",
    ],
}  # fmt: skip


@pytest.mark.parametrize("name", SHIPPED)
def test_each_of_our_templates_teaches_answers_with_their_stops(name: str) -> None:
    tokenizer, template = template_of(name)
    assert marked(tokenizer, rendered(template, Chat(DIALOGUE))) == GOLDEN[name]
    assert tokenizer.convert_ids_to_tokens(template.stop_id) == KIN[name].stop
    assert template.name == name


@pytest.mark.parametrize("name", SHIPPED)
def test_what_our_templates_write_is_what_apply_chat_template_writes(name: str) -> None:
    tokenizer, template = template_of(name)
    tokenizer.chat_template = template.source
    turns = [{"role": message.role, "content": message.content} for message in DIALOGUE]
    theirs = tokenizer.apply_chat_template(turns, return_dict=False)
    ours = rendered(template, Chat(DIALOGUE)).renderings[-1].ids.tolist()
    assert ours == theirs + [template.stop_id] * (name == "glm4")
    asked = tokenizer.apply_chat_template(turns[:-1], add_generation_prompt=True, return_dict=False)
    assert template.prompt_ids(DIALOGUE[:-1]) == asked


WORDS = st.sampled_from(
    ["Hi", "assistant", "user\n", "model", " ", "\n", "好的", "[/INST]", "</", ".", "{stop}", "{all}"]
)
WRITTEN = st.lists(WORDS, min_size=1, max_size=6).map("".join).filter(lambda text: bool(text.strip()))


@pytest.mark.parametrize("name", SHIPPED)
@settings(max_examples=20, deadline=None)
@given(texts=st.lists(st.tuples(WRITTEN, WRITTEN), min_size=1, max_size=3))
def test_whatever_is_said_answers_and_stops_are_learnt_and_the_template_alone_steers(
    name: str, texts: list[tuple[str, str]]
) -> None:
    tokenizer, template = cached(name)
    every = "".join(token.content for token in tokenizer.added_tokens_decoder.values())
    special = "".join(tokenizer.all_special_tokens)

    def said(text: str, inside: str) -> str:
        return text.replace("{stop}", KIN[name].stop).replace("{all}", inside)

    pairs = [(said(user, every), said(answer, special)) for user, answer in texts]
    messages = [m for user, answer in pairs for m in (Message("user", user), Message("assistant", answer))]
    result = rendered(template, Chat(tuple(messages)))
    parts = [part.split("⟧")[0] for text in marked(tokenizer, result) for part in text.split("⟦")[1:]]
    assert all(part.endswith(KIN[name].stop) for part in parts)
    learnt = [part.removesuffix(KIN[name].stop).removeprefix("<think>\n\n</think>\n\n") for part in parts]
    assert [text.split() for text in learnt] == [answer.split() for _, answer in pairs]
    clean = rendered(template, Chat(tuple(Message(m.role, "Hi") for m in messages)))
    known = list(template.control.by_text.values())
    for one, other in zip(result.renderings, clean.renderings, strict=True):
        assert one.ids[np.isin(one.ids, known)].tolist() == other.ids[np.isin(other.ids, known)].tolist()


@pytest.mark.parametrize("name", ["qwen", "qwen3", "internlm2", "llama3", "mistral", "glm4"])
def test_tools_are_shown_calls_are_learnt_and_outputs_never(name: str) -> None:
    tokenizer, template = template_of(name)
    record = to_record(TOOL_ROW, "messages", {})
    assert isinstance(record, Chat)
    texts = marked(tokenizer, rendered(template, record))
    learnt = [part.split("⟧")[0] for text in texts for part in text.split("⟦")[1:]]
    assert '{"a": "é", "b": 1}' in learnt[0]
    assert "add" in learnt[0]
    stops = ["<|observation|>", "<|user|>", "<|user|>"] if name == "glm4" else [KIN[name].stop] * 3
    assert [part.endswith(stop) for part, stop in zip(learnt, stops, strict=True)] == [True] * 3
    assert not any(given in part for part in learnt for given in ("TWO", "Q1", "Q2", "adds"))
    assert all("TWO" in text for text in texts[-1:])


@pytest.mark.parametrize("name", ["chatml", "gemma"])
def test_a_template_without_tools_says_so(name: str) -> None:
    record = to_record(TOOL_ROW, "messages", {})
    assert isinstance(record, Chat)
    result = render(record, "a:1", template_of(name)[1], "sft", 4096, "drop")
    assert getattr(result, "reason", None) in ("tools_lost", "calls_lost", "template_refuses")


def test_a_thought_is_learnt_where_the_family_thinks() -> None:
    tokenizer, template = template_of("qwen3")
    chat = Chat((Message("user", "2+2?"), Message("assistant", "4", reasoning="sum")))
    (text,) = marked(tokenizer, rendered(template, chat))
    assert text.endswith("assistant\n⟦<think>\nsum\n</think>\n\n4<|im_end|>⟧\n")


def test_each_template_says_what_it_needs_and_is_an_option_of_the_recipe() -> None:
    files = {path.stem for path in (Path(shipped_file()).parent).glob("*.jinja")}
    assert files == set(SHIPPED) == set(KIN)
    assert {name for name in SHIPPED if not needs(name)} == {"mistral"}


def shipped_file() -> str:
    from importlib import resources

    return str(resources.files("tunesmith.data") / "templates" / "chatml.jinja")


def test_a_template_whose_tokens_the_tokenizer_lacks_is_refused_with_those_that_fit() -> None:
    tokenizer = KIN["gemma"].tokenizer()
    with pytest.raises(TemplateError, match=r"<\|im_start\|>, <\|im_end\|>") as caught:
        ChatTemplate.of(tokenizer, "chatml")
    (problem,) = caught.value.problems
    assert problem.where == "data.template"
    assert "plain, gemma, mistral" in problem.fix
    assert fitting(tokenizer) == ["gemma", "mistral"]


def test_a_tokenizer_that_begins_texts_with_bos_gets_it_from_templates_that_have_none() -> None:
    from tests.data.test_plain import base_tokenizer

    with_bos, without = base_tokenizer("chatml", bos=True), base_tokenizer("chatml")
    ids = ChatTemplate.of(with_bos, "chatml").prompt_ids([Message("user", "Hi")])
    assert ids == [
        with_bos.bos_token_id,
        *ChatTemplate.of(without, "chatml").prompt_ids([Message("user", "Hi")]),
    ]


def test_a_saved_template_of_ours_has_its_name_again() -> None:
    tokenizer, template = template_of("llama3")
    tokenizer.chat_template = template.source
    assert ChatTemplate.of(tokenizer).name == "llama3"


# --- files --------------------------------------------------------------------------------------


def test_a_file_is_used_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "mine.jinja"
    path.write_text(FAMILIES["chatml"].source, encoding="utf-8")
    tokenizer = KIN["chatml"].tokenizer()
    template = ChatTemplate.of(tokenizer, str(path))
    assert (template.name, template.source) == ("mine.jinja", FAMILIES["chatml"].source)
    assert template.prompt_ids([Message("user", "Hi")]) == ChatTemplate.of(tokenizer).prompt_ids(
        [Message("user", "Hi")]
    )


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (None, "cannot be read: No such file"),
        (b"\xff\xfe\x00", "is not UTF-8"),
        (b"{% for m in messages %}", "not valid Jinja"),
        (b"{% if %}", "line 1"),
        (b"{{ raise_exception('only with tools') }}", "only with tools"),
        (b"{{ messages[9].content }}", "it fails"),
        (b"{% for m in messages %}{{ m.role }}{{ eos_token }}{% endfor %}", "does not write the answer"),
        (b"{{ 0 }}" * 200_000, "larger than a template"),
    ],
)
def test_a_file_that_cannot_be_used_is_told_by_its_name(
    tmp_path: Path, content: bytes | None, what: str
) -> None:
    path = tmp_path / "mine.jinja"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(TemplateError, match=what) as caught:
        ChatTemplate.of(KIN["chatml"].tokenizer(), str(path))
    (problem,) = caught.value.problems
    assert problem.where == str(path)
    assert problem.fix


@pytest.mark.parametrize(
    ("value", "hint"),
    [("chatlm", "did you mean chatml"), ("Llama-3", "did you mean llama3"), ("quen", "did you mean qwen"),
     ("zzz", "is no template"), ("mine.txt", "is no template")],
)  # fmt: skip
def test_a_name_that_does_not_exist_is_told_with_the_nearest(value: str, hint: str) -> None:
    with pytest.raises(RecipeError, match=hint) as caught:
        parse({"model": "m", "data": {"train": "a.jsonl", "template": value}})
    assert "data.template" in caught.value.problems[0].where
    assert parse({"model": "m", "data": {"train": "a.jsonl", "template": "x/mine.jinja"}}).data.template


# --- templates that end no answer ---------------------------------------------------------------

NAKED = (
    "{% for m in messages %}{{ m.role + ': ' + m.content + '\n' }}{% endfor %}"
    "{{ 'assistant: ' if add_generation_prompt }}"
)


def test_where_nothing_ends_an_answer_eos_is_learnt_and_each_answer_is_as_at_inference() -> None:
    tokenizer = FAMILIES["chatml"].tokenizer(NAKED)
    template = ChatTemplate.of(tokenizer)
    result = rendered(template, Chat(DIALOGUE))
    assert result.fate == "expanded"
    assert marked(tokenizer, result) == [
        "system: Be brief.\nuser: Hi\nassistant: ⟦Hello!<|endoftext|>⟧",
        "system: Be brief.\nuser: Hi\nassistant: Hello!\nuser: What is 2+2?\nassistant: "
        "⟦It is 4. 好的<|endoftext|>⟧",
    ]
    assert template.stop_id == tokenizer.eos_token_id


def test_a_marker_that_opens_any_turn_is_no_stop() -> None:
    source = shipped_source("chatml").replace("<|im_end|>", "")
    template = ChatTemplate.of(FAMILIES["chatml"].tokenizer(source))
    assert template.stop_id == template.eos_id
    assert template.stop.text == "<|endoftext|>"


def test_where_no_stop_can_be_found_the_template_is_refused() -> None:
    family = replace(FAMILIES["chatml"], eos=None)  # type: ignore[arg-type]
    with pytest.raises(TemplateError, match="has no EOS"):
        ChatTemplate.of(family.tokenizer(NAKED), "auto")


def test_stops_of_a_template_that_ends_turns_with_the_next_role_are_saved() -> None:
    tokenizer, template = template_of("glm4")
    ids = tokenizer.convert_tokens_to_ids(["<|user|>", "<|observation|>", "<|endoftext|>"])
    assert set(template.stop_ids) == set(ids)
    assert template.generation_eos([ids[2]]) == [ids[2], ids[0], ids[1]]


def test_a_template_of_glms_kind_is_read_as_it_is_and_called_by_its_name() -> None:
    source = (
        "[gMASK]<sop>{% for m in messages %}{{ '<|' ~ m.role ~ '|>\n' ~ m.content }}{% endfor %}"
        "{{ '<|assistant|>\n' if add_generation_prompt }}"
    )
    tokenizer = KIN["glm4"].tokenizer(source)
    template = ChatTemplate.of(tokenizer)
    assert (template.name, template.source) == ("glm", source)
    (text,) = marked(tokenizer, rendered(template, Chat(DIALOGUE)))
    assert text.endswith(
        "<|assistant|>\n⟦Hello!<|user|>⟧\nWhat is 2+2?<|assistant|>\n⟦It is 4. 好的<|user|>⟧"
    )


@pytest.mark.skipif(not ASSETS, reason="TUNESMITH_ASSETS is not set")
@pytest.mark.parametrize(
    "asset", ["tokenizers/qwen2.5", "tokenizers/minimind", "tokenizers/gpt2", "models/stories260k"]
)
def test_our_templates_keep_the_rules_on_real_tokenizers(asset: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(ASSETS) / asset)
    names = fitting(tokenizer)
    assert "mistral" in names
    for name in names:
        rendered(ChatTemplate.of(tokenizer, name), Chat(DIALOGUE))
    assert choose(tokenizer, "plain").name == "plain"


@pytest.mark.skipif(not ASSETS, reason="TUNESMITH_ASSETS is not set")
def test_our_qwen_is_the_one_that_qwen_writes() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(ASSETS) / "tokenizers" / "qwen2.5")
    own, ours = ChatTemplate.of(tokenizer), ChatTemplate.of(tokenizer, "qwen")
    tools = to_record(TOOL_ROW, "messages", {})
    assert isinstance(tools, Chat)
    for chat in (
        Chat(DIALOGUE),
        Chat(DIALOGUE[1:]),
        tools,
        Chat((DIALOGUE[0], *tools.messages), tools.tools),
    ):
        learnt = [
            [(each.ids.tolist(), each.learnt.tolist()) for each in rendered(template, chat).renderings]
            for template in (own, ours)
        ]
        assert learnt[0] == learnt[1]
