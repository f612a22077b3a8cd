"""Labels: what is learnt of a row, token by token."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.families import FAMILIES, STYLES, tokenizer_of
from tunesmith.data.records import Chat, Message, Text
from tunesmith.data.render import Drop, Rendered, document, render
from tunesmith.data.samples import Rendering, to_sample
from tunesmith.data.show import Pieces
from tunesmith.data.template import ChatTemplate

DIALOGUE = (
    Message("user", "Hi"),
    Message("assistant", "Hello!"),
    Message("user", "What is 2+2?"),
    Message("assistant", "It is 4. 好的"),
)
SYSTEM = Message("system", "Be brief.")


def rendered(name: str, messages: tuple[Message, ...], objective: str = "sft") -> Rendered:
    template = ChatTemplate.of(tokenizer_of(name))
    result = render(Chat(messages), "a.jsonl:1", template, objective, 4096, "drop")  # type: ignore[arg-type]
    assert isinstance(result, Rendered), result
    return result


def marked(name: str, rendering: Rendering) -> str:
    """The text with what is learnt in ⟦ ⟧."""
    pieces = Pieces(tokenizer_of(name)).of(rendering.ids.tolist())
    text, before = "", False
    for piece, learnt in zip([*pieces, ""], [*rendering.learnt.tolist(), False]):
        text += ("⟦" if learnt else "⟧") if learnt != before else ""
        text, before = text + piece, learnt
    return text


# One line a style: the real templates' text, and in ⟦ ⟧ what a model learns.
GOLDEN = {
    "chatml": [
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "⟦Hello!<|im_end|>⟧\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
        "⟦It is 4. 好的<|im_end|>⟧\n"
    ],
    "llama3": [
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦Hello!<|eot_id|>⟧"
        "<|start_header_id|>user<|end_header_id|>\n\nWhat is 2+2?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n⟦It is 4. 好的<|eot_id|>⟧"
    ],
    # the tokenizer writes a space after each <s> and </s>, as Llama 2's does
    "mistral": ["<s> [INST] Hi [/INST]⟦Hello!</s>⟧ [INST] What is 2+2? [/INST]⟦It is 4. 好的</s>⟧"],
    "gemma": [
        "<bos><start_of_turn>user\nHi<end_of_turn>\n<start_of_turn>model\n⟦Hello!<end_of_turn>⟧\n"
        "<start_of_turn>user\nWhat is 2+2?<end_of_turn>\n<start_of_turn>model\n⟦It is 4. 好的<end_of_turn>⟧\n"
    ],
    "qwen3": [
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\n\n</think>\n\nHello!<|im_end|>⟧\n",
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "Hello!<|im_end|>\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\n\n</think>\n\nIt is 4. 好的<|im_end|>⟧\n",
    ],
    "internlm2": [
        "<s><|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "⟦Hello!<|im_end|>⟧\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
        "⟦It is 4. 好的<|im_end|>⟧\n"
    ],
    "generation": [
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
        "⟦Hello!<|im_end|>⟧\n<|im_start|>user\nWhat is 2+2?<|im_end|>\n<|im_start|>assistant\n"
        "⟦It is 4. 好的<|im_end|>⟧\n"
    ],
    # Phi-3's tokens swallow the line break after them; EOS ends the dialogue and stops no turn
    "phi3": [
        "<|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>⟦Hello!<|end|>⟧<|user|>What is 2+2?<|end|>"
        "<|assistant|>⟦It is 4. 好的<|end|>⟧<|endoftext|>"
    ],
    "llama2": [
        "<s> [INST] <<SYS>>\nBe brief.\n<</SYS>>\n\nHi [/INST]⟦ Hello! </s>⟧<s> [INST] What is 2+2? [/INST]"
        "⟦ It is 4. 好的 </s>⟧"
    ],
    "r1": [
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜><think>\n"
        "⟦\n</think>\n\nHello!<｜end▁of▁sentence｜>⟧",
        "<｜begin▁of▁sentence｜>Be brief.<｜User｜>Hi<｜Assistant｜>Hello!<｜end▁of▁sentence｜>"
        "<｜User｜>What is 2+2?<｜Assistant｜><think>\n⟦\n</think>\n\nIt is 4. 好的<｜end▁of▁sentence｜>⟧",
    ],
}


# mutation tried: learn to the end of the text instead of the stop; chatml, gemma and four more fail.
@pytest.mark.parametrize("name", sorted(GOLDEN))
def test_learnt_is_each_answer_and_its_stop_token(name: str) -> None:
    messages = (SYSTEM, *DIALOGUE) if FAMILIES[name].has_system else DIALOGUE
    result = rendered(name, messages)
    assert [marked(name, rendering) for rendering in result.renderings] == GOLDEN[name]
    assert result.fate == ("expanded" if len(GOLDEN[name]) > 1 else "whole")


def test_a_thought_is_learnt_where_the_template_writes_it() -> None:
    answer = "<think>\n2+2 is 4\n</think>\n\nIt is 4."
    one = rendered("qwen3", (Message("user", "2+2?"), Message("assistant", answer)))
    two = rendered("qwen3", (Message("user", "2+2?"), Message("assistant", "It is 4.", "2+2 is 4")))
    assert one.fate == "whole"
    assert marked("qwen3", one.renderings[0]) == (
        "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"
        "⟦<think>\n2+2 is 4\n</think>\n\nIt is 4.<|im_end|>⟧\n"
    )
    assert one.renderings[0].ids.tolist() == two.renderings[0].ids.tolist()
    assert tokenizer_of("qwen3").convert_tokens_to_ids("<think>") in one.renderings[0].ids.tolist()


def test_a_template_that_knows_no_thoughts_keeps_them_as_text() -> None:
    one = rendered("chatml", (Message("user", "2+2?"), Message("assistant", "4", "2+2 is 4")))
    assert "⟦<think>\n2+2 is 4\n</think>\n\n4<|im_end|>⟧" in marked("chatml", one.renderings[0])


def test_a_prompt_that_opens_a_thought_is_answered_with_the_thought() -> None:
    one = rendered("r1", (Message("user", "2+2?"), Message("assistant", "<think>\nsum\n</think>\n\n4")))
    assert marked("r1", one.renderings[0]).endswith("<think>\n⟦sum\n</think>\n\n4<｜end▁of▁sentence｜>⟧")


# mutation tried: border() never encodes apart; the ids before the answer are then not those of the prompt.
@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_what_stands_before_each_answer_is_the_prompt_of_inference(name: str) -> None:
    template = ChatTemplate.of(tokenizer_of(name))
    hard = (
        Message("user", f"Hi {FAMILIES[name].stop} there"),
        Message("assistant", "\n\n Hello!  "),
        Message("user", "  What is 2+2?\n"),
        Message("assistant", " It is 4. 好的"),
    )
    for dialogue in (DIALOGUE, hard):
        result = rendered(name, dialogue)
        prompts = [template.prompt_ids(dialogue[:1]), template.prompt_ids(dialogue[:3])]
        found = 0
        for rendering in result.renderings:
            starts = np.flatnonzero(np.diff(rendering.learnt.astype(int)) == 1) + 1
            for start in starts:
                assert rendering.ids[:start].tolist() == prompts[found]
                found += 1
        assert found == 2


@pytest.mark.parametrize("name", sorted(set(FAMILIES) - {"spaced", "spaced_sp", "r1"}))
def test_ids_are_those_of_apply_chat_template(name: str) -> None:
    tokenizer = tokenizer_of(name)
    for messages in (DIALOGUE, DIALOGUE[:2]):
        turns = [{"role": message.role, "content": message.content} for message in messages]
        expected = tokenizer.apply_chat_template(turns, return_dict=False)
        assert rendered(name, messages).renderings[-1].ids.tolist() == expected
        assert rendered(name, messages, "pretrain").renderings[-1].ids.tolist() == expected


WORDS = st.sampled_from(
    ["Hi", "assistant", "user", "model", " ", "\n", "好的", "😀", "[/INST]", "</", "Hello!", "."]
)
WRITTEN = st.lists(WORDS, min_size=1, max_size=6).map("".join).filter(lambda text: bool(text.strip()))


# mutation tried: the span ends one token early or late; all styles fail.
@pytest.mark.parametrize("name", STYLES)
@settings(max_examples=35, deadline=None)
@given(texts=st.lists(st.tuples(WRITTEN, WRITTEN), min_size=1, max_size=4))
def test_learnt_text_is_the_answers_with_their_stops(name: str, texts: list[tuple[str, str]]) -> None:
    messages = [m for user, answer in texts for m in (Message("user", user), Message("assistant", answer))]
    result = rendered(name, tuple(messages))
    tokenizer, stop = tokenizer_of(name), FAMILIES[name].stop
    learnt = [tokenizer.decode(r.ids[r.learnt].tolist()) for r in result.renderings]
    trimmed = {"llama3", "gemma"}
    block = "<think>\n\n</think>\n\n" if name == "qwen3" else ""
    answers = [answer.strip() if name in trimmed else answer for _, answer in texts]
    if name == "qwen3":
        answers = [answer.lstrip("\n") for answer in answers]
    assert "".join(learnt) == "".join(f"{block}{answer}{stop}" for answer in answers)


def test_the_stop_is_learnt_where_it_is_also_the_padding() -> None:
    tokenizer = FAMILIES["qwen3"].tokenizer()
    tokenizer.pad_token = tokenizer.eos_token
    template = ChatTemplate.of(tokenizer)
    result = render(Chat(DIALOGUE[:2]), "a:1", template, "sft", 100, "drop")
    assert isinstance(result, Rendered)
    sample = to_sample(result.renderings[0])
    assert sample.labels[-1] == tokenizer.eos_token_id == tokenizer.pad_token_id


@pytest.mark.parametrize("name", sorted(n for n, family in FAMILIES.items() if family.bos))
def test_a_dialogue_has_one_bos(name: str) -> None:
    bos = tokenizer_of(name).bos_token_id
    ids = rendered(name, DIALOGUE[:2]).renderings[0].ids.tolist()
    assert ids.count(bos) == 1
    assert ids[0] == bos


def test_a_generation_block_leaves_out_what_its_author_leaves_out() -> None:
    source = (
        FAMILIES["generation"]
        .source.replace(
            "{% generation %}{{ turn.content }}{% endgeneration %}",
            "{{ 'Well: ' }}{% generation %}{{ turn.content ~ '<|im_end|>\n' }}{% endgeneration %}",
        )
        .replace(
            "~ '<|im_end|>\n' }}{% endgeneration %}{{ '<|im_end|>\\n' }}",
            "~ '<|im_end|>\n' }}{% endgeneration %}",
        )
    )
    template = ChatTemplate.of(FAMILIES["generation"].tokenizer(source))
    result = render(Chat(DIALOGUE[:2]), "a:1", template, "sft", 100, "drop")
    assert isinstance(result, Rendered)
    assert marked("generation", result.renderings[0]).endswith("assistant\nWell: ⟦Hello!<|im_end|>⟧\n")


def test_a_turn_without_a_generation_block_is_not_learnt() -> None:
    source = FAMILIES["generation"].source.replace(
        "{% generation %}{{ turn.content }}{% endgeneration %}",
        "{% if loop.last %}{% generation %}{{ turn.content }}{% endgeneration %}"
        "{% else %}{{ turn.content }}{% endif %}",
    )
    template = ChatTemplate.of(FAMILIES["generation"].tokenizer(source))
    result = render(Chat(DIALOGUE), "a:1", template, "sft", 100, "drop")
    assert isinstance(result, Rendered)
    learnt = [marked("generation", r).count("⟦") for r in result.renderings]
    assert sum(learnt) in (1, 2)


@pytest.mark.parametrize("name", ["mistral", "gemma"])
def test_a_dialogue_that_the_template_refuses_is_dropped_with_its_words(name: str) -> None:
    template = ChatTemplate.of(tokenizer_of(name))
    result = render(Chat((SYSTEM, *DIALOGUE)), "a:1", template, "sft", 100, "drop")
    assert isinstance(result, Drop)
    assert result.reason == "template_refuses"
    assert result.detail


def test_a_template_that_swallows_a_turn_does_not_do_so_in_silence() -> None:
    source = FAMILIES["chatml"].source.replace(
        "turn.content ~", "(turn.content if turn.role != 'system' else '') ~"
    )
    template = ChatTemplate.of(FAMILIES["chatml"].tokenizer(source))
    result = render(Chat((SYSTEM, *DIALOGUE)), "a:1", template, "sft", 100, "drop")
    assert isinstance(result, Drop)
    assert result.reason == "content_lost"


def test_a_question_without_an_answer_is_not_left_off_in_silence() -> None:
    template = ChatTemplate.of(tokenizer_of("chatml"))
    for messages in (DIALOGUE[:3], DIALOGUE[:1], ()):
        result = render(Chat(messages), "a:1", template, "sft", 100, "drop")
        assert isinstance(result, Drop)
        assert result.reason == "no_answer"


def test_pretraining_learns_every_token_of_a_chat_but_the_first() -> None:
    result = rendered("chatml", DIALOGUE, "pretrain")
    learnt = result.renderings[0].learnt
    assert not learnt[0]
    assert learnt[1:].all()


# --- documents ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_a_document_is_what_the_tokenizer_writes_and_one_eos(name: str) -> None:
    tokenizer = tokenizer_of(name)
    template = ChatTemplate.of(tokenizer)
    result = render(Text("Hello there. 好的"), "a:1", template, "pretrain", 100, "drop")
    assert isinstance(result, Rendered)
    ids = result.renderings[0].ids.tolist()
    assert ids == [*tokenizer("Hello there. 好的").input_ids, tokenizer.eos_token_id]
    ended = template.document_ids(f"Hello{tokenizer.eos_token}")
    assert ended.count(tokenizer.eos_token_id) == 1


# mutation tried: the next piece starts at the end of the one before; a target is then lost.
@given(size=st.integers(2, 200), max_length=st.integers(2, 40))
def test_each_token_of_a_split_document_is_a_target_once(size: int, max_length: int) -> None:
    ids = list(range(1000, 1000 + size))
    result = document(ids, "a:1", max_length)
    assert isinstance(result, Rendered)
    targets = [id for r in result.renderings for id in r.ids[r.learnt].tolist()]
    assert targets == ids[1:]
    assert all(2 <= len(rendering.ids) <= max_length for rendering in result.renderings)
    kept = sum(len(rendering.ids) for rendering in result.renderings)
    assert kept == result.tokens_in + result.tokens_repeated == size + len(result.renderings) - 1


def test_a_document_of_one_token_teaches_nothing() -> None:
    assert isinstance(document([5], "a:1", 10), Drop)
