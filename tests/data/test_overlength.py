"""What is cut of a dialogue that is too long, and that every token is accounted for."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.families import FAMILIES, STYLES, tokenizer_of
from tunesmith.data.records import Chat, Message
from tunesmith.data.render import Drop, Overlength, Rendered, render
from tunesmith.data.template import ChatTemplate

STABLE = sorted(set(STYLES) - {"qwen3"})
SYSTEM = Message("system", "Be brief.")


def dialogue(lengths: list[tuple[int, int]], system: bool) -> tuple[Message, ...]:
    """Exchanges of so many words; each answer is marked by its number."""
    turns = [SYSTEM] if system else []
    for number, (asked, said) in enumerate(lengths):
        turns.append(Message("user", f"q{number}" + " what" * asked))
        turns.append(Message("assistant", f"a{number}" + " it" * said))
    return tuple(turns)


def result_of(name: str, messages: tuple[Message, ...], max_length: int, how: Overlength) -> Rendered | Drop:
    return render(Chat(messages), "a.jsonl:1", ChatTemplate.of(tokenizer_of(name)), "sft", max_length, how)


def size_of(name: str, messages: tuple[Message, ...]) -> int:
    whole = result_of(name, messages, 10**6, "drop")
    assert isinstance(whole, Rendered)
    return sum(len(rendering.ids) for rendering in whole.renderings)


def learnt_texts(name: str, result: Rendered) -> list[str]:
    tokenizer = tokenizer_of(name)
    return [tokenizer.decode(rendering.ids[rendering.learnt].tolist()) for rendering in result.renderings]


LENGTHS = st.lists(st.tuples(st.integers(0, 12), st.integers(0, 12)), min_size=1, max_size=6)


# mutation tried: cuts without the frame's share; styles with a BOS or a default system turn fail.
@pytest.mark.parametrize("name", STABLE)
@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, system=st.booleans(), max_length=st.integers(20, 160))
def test_kept_and_cut_make_up_the_whole(
    name: str, lengths: list[tuple[int, int]], system: bool, max_length: int
) -> None:
    messages = dialogue(lengths, system and FAMILIES[name].has_system)
    whole = size_of(name, messages)
    result = result_of(name, messages, max_length, "keep_last_turns")
    if isinstance(result, Drop):
        assert result.reason == "turn_too_long"
        return
    [kept] = result.renderings
    assert len(kept.ids) <= max_length
    assert len(kept.ids) + result.tokens_cut == whole == result.tokens_in
    assert result.fate == ("whole" if whole <= max_length else "shortened")
    turns = [cut.turn for cut in kept.cut]
    assert turns == sorted(turns)
    gone = {turn for turn in turns if turn < len(messages) - 1}
    head = 1 if messages[0].role == "system" else 0
    assert gone == set(range(head, head + len(gone)))
    assert len(gone) % 2 == 0
    assert messages[-1].content in learnt_texts(name, result)[0]
    # nothing was cut that would have fitted
    if gone:
        one_more = (*messages[:head], *messages[head + len(gone) - 2 :])
        assert size_of(name, one_more) > max_length


# mutation tried: the next part starts at the last exchange of the one before; it is then learnt twice.
@pytest.mark.parametrize("name", STABLE)
@settings(max_examples=40, deadline=None)
@given(lengths=LENGTHS, system=st.booleans(), max_length=st.integers(20, 160))
def test_a_split_dialogue_teaches_each_answer_once(
    name: str, lengths: list[tuple[int, int]], system: bool, max_length: int
) -> None:
    messages = dialogue(lengths, system and FAMILIES[name].has_system)
    whole = size_of(name, messages)
    result = result_of(name, messages, max_length, "split")
    if isinstance(result, Drop):
        assert result.reason == "turn_too_long"
        return
    assert all(len(rendering.ids) <= max_length for rendering in result.renderings)
    kept = sum(len(rendering.ids) for rendering in result.renderings)
    assert result.tokens_in + result.tokens_repeated == kept + result.tokens_cut
    assert result.tokens_in == whole
    learnt = "".join(learnt_texts(name, result))
    cut = {cut.turn for rendering in result.renderings for cut in rendering.cut if len(cut.ids) > 1}
    for turn, message in enumerate(messages):
        if message.role == "assistant":
            stop = FAMILIES[name].stop
            assert learnt.count(message.content + stop) == (0 if turn in cut else 1)
    if system and FAMILIES[name].has_system:
        texts = [tokenizer_of(name).decode(rendering.ids.tolist()) for rendering in result.renderings]
        assert all("Be brief." in text for text in texts)


@settings(max_examples=30, deadline=None)
@given(lengths=LENGTHS, max_length=st.integers(20, 120), how=st.sampled_from(["keep_last_turns", "split"]))
def test_an_expanded_dialogue_is_accounted_for_sample_by_sample(
    lengths: list[tuple[int, int]], max_length: int, how: Overlength
) -> None:
    messages = dialogue(lengths, True)
    whole = size_of("qwen3", messages)
    result = result_of("qwen3", messages, max_length, how)
    if isinstance(result, Drop):
        assert result.reason == "turn_too_long"
        return
    kept = sum(len(rendering.ids) for rendering in result.renderings)
    assert all(len(rendering.ids) <= max_length for rendering in result.renderings)
    assert kept + result.tokens_cut == whole == result.tokens_in
    learnt = learnt_texts("qwen3", result)
    assert len(set(learnt)) == len(learnt)


# mutation tried: the context learnt again; no context
def test_parts_overlap_and_what_is_read_again_is_not_learnt_again() -> None:
    messages = dialogue([(1, 1)] * 12, True)
    result = result_of("chatml", messages, 120, "split")
    assert isinstance(result, Rendered)
    tokenizer = tokenizer_of("chatml")
    texts = [tokenizer.decode(rendering.ids.tolist()) for rendering in result.renderings]
    learnt = learnt_texts("chatml", result)
    assert len(texts) > 2
    for before, after, own in zip(learnt, texts[1:], learnt[1:]):
        last = before.rsplit("a", 1)[1].split()[0]  # the number of the last answer of the part before
        assert f"a{last} it" in after
        assert f"a{last} it" not in own
    assert "".join(learnt).count("it<|im_end|>") == 12
    assert result.tokens_repeated > 0


def test_drop_and_error_say_how_long_the_row_is() -> None:
    messages = dialogue([(5, 5), (5, 5)], True)
    dropped = result_of("chatml", messages, 30, "drop")
    failed = result_of("chatml", messages, 30, "error")
    assert isinstance(dropped, Drop)
    assert isinstance(failed, Drop)
    assert (dropped.reason, dropped.fatal) == ("too_long", False)
    assert (failed.reason, failed.fatal) == ("too_long", True)
    assert str(size_of("chatml", messages)) in failed.detail


def test_the_line_break_after_the_last_stop_costs_no_turn() -> None:
    messages = dialogue([(3, 3), (3, 3)], True)
    whole = size_of("chatml", messages)
    for how in ("keep_last_turns", "split", "drop", "error"):
        result = result_of("chatml", messages, whole - 1, how)  # type: ignore[arg-type]
        assert isinstance(result, Rendered), how
        [kept] = result.renderings
        assert kept.learnt[-1]
        assert [(cut.turn, len(cut.ids)) for cut in kept.cut] == [(4, 1)]


def test_an_answer_that_can_never_fit_is_cut_from_a_split_and_counted() -> None:
    messages = dialogue([(1, 1), (1, 90), (1, 1)], True)
    whole = size_of("chatml", messages)
    result = result_of("chatml", messages, 60, "split")
    assert isinstance(result, Rendered)
    assert {cut.turn for rendering in result.renderings for cut in rendering.cut} == {3, 4}
    assert result.tokens_in == whole


def test_cut_turns_hold_the_tokens_of_those_turns() -> None:
    messages = dialogue([(8, 8), (1, 1)], True)
    result = result_of("chatml", messages, 40, "keep_last_turns")
    assert isinstance(result, Rendered)
    tokenizer = tokenizer_of("chatml")
    texts = {cut.turn: tokenizer.decode(list(cut.ids)) for cut in result.renderings[0].cut}
    assert texts == {
        1: f"<|im_start|>user\n{messages[1].content}<|im_end|>\n",
        2: f"<|im_start|>assistant\n{messages[2].content}<|im_end|>\n",
    }


def test_llama2_keeps_its_system_turn_when_the_first_question_goes() -> None:
    messages = dialogue([(30, 8), (1, 1)], True)
    result = result_of("llama2", messages, 50, "keep_last_turns")
    assert isinstance(result, Rendered)
    text = tokenizer_of("llama2").decode(result.renderings[0].ids.tolist())
    assert "Be brief." in text
    assert "q0" not in text
    assert result.tokens_in == len(result.renderings[0].ids) + result.tokens_cut


def test_pretraining_splits_a_long_chat_like_a_document() -> None:
    messages = dialogue([(8, 8), (8, 8)], True)
    template = ChatTemplate.of(tokenizer_of("chatml"))
    result = render(Chat(messages), "a:1", template, "pretrain", 30, "split")
    assert isinstance(result, Rendered)
    targets = sum(int(rendering.learnt.sum()) for rendering in result.renderings)
    assert targets == size_of("chatml", messages) - 1
    shorter = render(Chat(messages), "a:1", template, "pretrain", 60, "keep_last_turns")
    assert isinstance(shorter, Rendered)
    assert shorter.fate == "shortened"
