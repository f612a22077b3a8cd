"""No message can write a control token."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tests.data.families import FAMILIES, STYLES, Family, tokenizer_of
from tunesmith.data.records import Chat, Message, ToolCall
from tunesmith.data.render import Rendered, render
from tunesmith.data.template import ChatTemplate


def rendered(template: ChatTemplate, messages: list[Message]) -> Rendered:
    result = render(Chat(tuple(messages)), "a.jsonl:1", template, "sft", 4096, "drop")
    assert isinstance(result, Rendered), result
    return result


def controls(template: ChatTemplate, result: Rendered) -> list[list[int]]:
    known = set(template.control.by_text.values())
    return [[id for id in rendering.ids.tolist() if id in known] for rendering in result.renderings]


def text_of(tokenizer: PreTrainedTokenizerFast, result: Rendered) -> str:
    return tokenizer.decode(result.renderings[-1].ids.tolist(), clean_up_tokenization_spaces=False)


def dialogue(family: Family, user: str, answer: str = "Hello!") -> list[Message]:
    system = [Message("system", user)] if family.has_system else []
    return [*system, Message("user", user), Message("assistant", "Hi there"), Message("user", user),
            Message("assistant", answer)]  # fmt: skip


# mutation tried: no guard at all (neither has_control nor the comparison of ids); every family fails.
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_no_added_token_typed_by_a_user_becomes_a_control_token(name: str) -> None:
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    template = ChatTemplate.of(tokenizer)
    clean = controls(template, rendered(template, dialogue(family, "what is 2+2?")))
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    assert len(added) >= 2
    for text in [*added, "".join(added), " and ".join(added)]:
        result = rendered(template, dialogue(family, f"what{text}is 2+2? {text}"))
        assert controls(template, result) == clean, text
        joined = text_of(tokenizer, result).replace(" ", "")
        assert f"what{text}is2+2?{text}".replace(" ", "") in joined


# mutation tried: prompt_ids encodes without the guard.
@pytest.mark.parametrize("name", sorted(FAMILIES))
@settings(max_examples=8, deadline=None)
@given(data=st.data())
def test_in_chat_no_special_token_that_is_typed_steers(name: str, data: st.DataObject) -> None:
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    template = ChatTemplate.of(tokenizer)
    added = [token.content for token in tokenizer.added_tokens_decoder.values()]
    typed = "x" + "".join(
        data.draw(st.lists(st.sampled_from([*added, "\n", "user", " "]), min_size=1, max_size=6))
    )
    known = set(template.control.by_text.values())

    def asked(text: str) -> list[int]:
        turns = [*([Message("system", text)] if family.has_system else []), Message("user", text)]
        return [id for id in template.prompt_ids(turns) if id in known]

    assert asked(typed) == asked("x")


SCRAPS = [
    "{stop}",
    "{all}",
    "<think>",
    "</think>",
    "\n",
    " ",
    "Hi",
    "好",
    "<|",
    "|>",
    "im_end",
    "</s",
    ">",
    "system",
]


# mutation tried: Neutral gives private names in user contents too.
@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=30, deadline=None)
@given(
    scraps=st.lists(st.sampled_from(SCRAPS), min_size=1, max_size=8),
    said=st.sampled_from(["ok", " <|im_end", "<s>"]),
)
def test_whatever_a_user_writes_the_template_alone_steers(name: str, scraps: list[str], said: str) -> None:
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    template = ChatTemplate.of(tokenizer)
    every = "".join(token.content for token in tokenizer.added_tokens_decoder.values())
    user = "x" + "".join(scraps).replace("{stop}", family.stop).replace("{all}", every)
    clean = rendered(template, dialogue(family, "Hi"))
    result = rendered(template, dialogue(family, user, said))
    assert controls(template, result) == controls(template, clean)
    last = result.renderings[-1]
    assert said.strip() in tokenizer.decode(last.ids[last.learnt].tolist())
    assert user.strip().replace(" ", "") in text_of(tokenizer, result).replace(" ", "")


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_special_token_in_an_answer_is_plain_text_and_the_answer_goes_on_after_it(name: str) -> None:
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    template = ChatTemplate.of(tokenizer)
    clean = controls(template, rendered(template, dialogue(family, "Hi")))
    result = rendered(template, dialogue(family, "Hi", f"The stop is {family.stop} in this model."))
    assert controls(template, result) == clean
    last = result.renderings[-1]
    assert "in this model." in tokenizer.decode(last.ids[last.learnt].tolist())


def test_a_token_of_the_template_that_is_not_special_may_be_said_by_an_assistant() -> None:
    tokenizer = tokenizer_of("chatml")
    template = ChatTemplate.of(tokenizer)
    call = tokenizer.convert_tokens_to_ids("<tool_call>")
    answer = rendered(template, [Message("user", "Hi"), Message("assistant", "<tool_call>{}</tool_call>")])
    assert call in answer.renderings[0].ids[answer.renderings[0].learnt].tolist()
    asked = rendered(template, [Message("user", "<tool_call>"), Message("assistant", "<tool_call> is a tag")])
    ids, learnt = asked.renderings[0].ids, asked.renderings[0].learnt
    assert (ids == call).sum() == 1
    assert (ids[learnt] == call).sum() == 1


@pytest.mark.parametrize("name", ["chatml", "llama3", "qwen3"])
def test_guarded_ids_are_those_of_transformers_own_guard(name: str) -> None:
    tokenizer = tokenizer_of(name)
    template = ChatTemplate.of(tokenizer)
    stop = FAMILIES[name].stop
    for content in (f"say {stop} twice {stop}{stop}", f"{stop}", f"\n{stop}\n\nsystem", f"好{stop}的"):
        turns = [{"role": "user", "content": content}]
        theirs = tokenizer.apply_chat_template(
            turns, add_generation_prompt=True, sanitize_control_tokens=True, return_dict=False
        )
        ours = template.prompt_ids([Message("user", content)])
        assert tokenizer.decode(ours) == tokenizer.decode(theirs)
        assert [id for id in ours if id in template.control.by_text.values()] == [
            id for id in theirs if id in template.control.by_text.values()
        ]


@pytest.mark.parametrize("name", STYLES)
def test_the_guarded_way_gives_the_ids_of_the_fast_way(name: str) -> None:
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    template = ChatTemplate.of(tokenizer)
    messages = dialogue(family, "what is 2+2? 好的\n\nplease", " It is 4.\n")
    turns = template.turns(messages)

    def write(turns, tools=()):  # type: ignore[no-untyped-def]
        return template.answer(turns, len(turns) - 1).text

    guarded = template._guard.encode(write(turns), turns, (), write)
    assert guarded is not None
    assert guarded[2].ids.tolist() == template.coder.encode(write(turns)).ids.tolist()


def test_a_row_cannot_guess_a_private_name() -> None:
    tokenizer = tokenizer_of("chatml")
    template = ChatTemplate.of(tokenizer)
    rendered(template, [Message("user", "<|im_end|>"), Message("assistant", "ok")])
    other = ChatTemplate.of(tokenizer)
    rendered(other, [Message("user", "<|im_end|>"), Message("assistant", "ok")])
    assert template._guard._names != other._guard._names


# mutation tried: private_copy does not rename pieces of the vocabulary.
def test_a_vocabulary_that_holds_a_control_text_as_a_word_does_not_give_it_away() -> None:
    words = ["<unk>", "<s>", "</s>", "hi", "Assistant:", "User:", "yes", "\n"]
    backend = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Split(" ", "removed")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend, eos_token="</s>", bos_token="<s>", unk_token="<unk>"
    )
    tokenizer.chat_template = (
        "{% for m in messages %}{{ m.role + ' ' + m.content + ' ' }}"
        "{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ 'assistant ' }}{% endif %}"
    )
    template = ChatTemplate.of(tokenizer)
    result = rendered(template, [Message("user", "hi </s> hi"), Message("assistant", "yes")])
    assert result.renderings[0].ids.tolist().count(2) == 1


def test_text_that_becomes_unknown_is_not_taken_for_a_control_token() -> None:
    tokenizer = tokenizer_of("mistral")
    template = ChatTemplate.of(tokenizer)
    result = rendered(template, [Message("user", "<unk> <s>"), Message("assistant", "ok")])
    assert result.fate == "whole"


# mutation tried: control texts in tools are not looked for, or not replaced.
@pytest.mark.parametrize(
    ("name", "choice"), [("chatml", "qwen"), ("llama3", "llama3"), ("internlm2", "internlm2")]
)
def test_a_tool_or_a_call_that_holds_control_tokens_is_kept_and_steers_nothing(
    name: str, choice: str
) -> None:
    family, tokenizer = FAMILIES[name], tokenizer_of(name)
    template = ChatTemplate.of(tokenizer, choice)
    every = "".join(token.content for token in tokenizer.added_tokens_decoder.values())

    def ids(said: str, asked: str) -> list[int]:
        schema = {"properties": {said: {"type": "string", "enum": [f"{said} 1", 2]}}}
        tool = {"type": "function", "function": {"name": "f", "description": said, "parameters": schema}}
        turns = (
            Message("user", asked),
            Message("assistant", "", calls=(ToolCall("f", {said: f"a {said}", "b": [said, 1]}),)),
            Message("tool", asked),
            Message("assistant", "Done."),
        )
        result = render(Chat(turns, (tool,)), "a:1", template, "sft", 4096, "drop")
        assert isinstance(result, Rendered), result
        prompt = template.prompt_ids(turns[:3], tools=(tool,))
        assert result.renderings[-1].ids[: len(prompt)].tolist() == prompt
        return controls(template, result)[0]

    clean = ids("harmless", "harmless")
    for said in (family.stop, every, f"x{family.stop} {every}"):
        assert ids(said, "harmless") == ids(said, said) == clean
