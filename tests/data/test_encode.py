"""Borders between prompt and answer, in tokens."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.families import tokenizer_of
from tunesmith.data.encode import Coder, ControlTokens

PIECES = [*"ab .\n好:", "Hello", "  ", "\n\n", "assistant"]
TEXT = st.lists(st.sampled_from(PIECES), max_size=8).map("".join)


def coder_of(name: str) -> Coder:
    backend = tokenizer_of(name).backend_tokenizer
    control = ControlTokens.of(backend.get_added_tokens_decoder(), None)
    return Coder(backend, control.table(backend.get_vocab_size()))


# mutation tried: border() never encodes apart; "USER: " + "Hello" then fails.
@pytest.mark.parametrize("name", ["spaced", "spaced_sp", "mistral", "internlm2", "gemma"])
@settings(max_examples=60, deadline=None)
@given(left=TEXT, right=TEXT)
def test_what_stands_before_a_border_is_as_if_it_stood_alone(name: str, left: str, right: str) -> None:
    coder = coder_of(name)
    text, place = f"{left}{right}</s>", len(left)
    tokens, index = coder.border(text, coder.encode(text), place)
    assert tokens.ids[:index].tolist() == coder.encode(left).ids.tolist()
    assert len(tokens.starts) == len(tokens.ends) == len(tokens)
    decode = tokenizer_of(name).backend_tokenizer.decode
    both = decode(tokens.ids.tolist(), skip_special_tokens=False)
    assert both == decode(coder.encode(text).ids.tolist(), skip_special_tokens=False)


def test_a_border_that_no_token_reaches_over_leaves_the_ids_alone() -> None:
    coder = coder_of("chatml")
    text = "<|im_start|>assistant\nHello!<|im_end|>\n"
    whole = coder.encode(text)
    tokens, index = coder.border(text, whole, text.index("Hello"))
    assert tokens is whole
    assert whole.span(index)[0] == text.index("Hello")


def test_a_token_that_reaches_over_a_border_is_written_as_two() -> None:
    coder = coder_of("spaced")
    text = "ASSISTANT: Hello</s>"
    backend = tokenizer_of("spaced").backend_tokenizer
    whole = coder.encode(text)
    assert "ĠHello" in [backend.id_to_token(id) for id in whole.ids.tolist()]
    tokens, index = coder.border(text, whole, len("ASSISTANT: "))
    pieces = [backend.id_to_token(id) for id in tokens.ids.tolist()]
    assert pieces[index - 1] == "Ġ"
    assert "".join(pieces[index:]) == "Hello</s>"


@pytest.mark.parametrize("name", ["mistral", "internlm2"])
def test_an_answer_in_the_middle_gets_no_space_of_its_own(name: str) -> None:
    coder = coder_of(name)
    backend = tokenizer_of(name).backend_tokenizer
    assert backend.id_to_token(int(coder.encode("Hello").ids[0])).startswith("▁")
    first = coder.continuation("Hello").ids[0]
    assert not backend.id_to_token(int(first)).startswith("▁")


def test_padding_and_cutting_left_on_by_others_change_nothing() -> None:
    tokenizer = tokenizer_of("chatml")
    coder = coder_of("chatml")
    before = coder.encode("Hello there, what is this?").ids.tolist()
    tokenizer.backend_tokenizer.enable_truncation(2)
    tokenizer.backend_tokenizer.enable_padding(length=50)
    assert coder.encode("Hello there, what is this?").ids.tolist() == before


def test_an_added_word_is_no_control_token() -> None:
    from tokenizers import AddedToken

    added = {1: AddedToken("高血压", special=False), 2: AddedToken("<t>", special=False)}
    assert dict(ControlTokens.of(added, None).by_text) == {"<t>": 2}
