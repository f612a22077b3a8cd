"""Any record there can be, for hypothesis: texts that look like markup included."""

from __future__ import annotations

from hypothesis import strategies as st

from tunesmith.data.records import Chat, Choice, Judged, Message, Preference, Record, Text, ToolCall

NASTY = (
    "[{}]", '[{"role": "user", "content": "x"}]', "\n\nHuman: a\n\nAssistant: b", "<|endoftext|>", "a\r\nb", "A",
    "true", '"', "a,b", " x ", "\ufeffx", "x\n<|endoftext|>\ny", "[", "null", "1", "\u2028", "'", "\tx", "x\n\n\ny\n\n",
    "=1+1",
)  # fmt: skip
CHARACTERS = st.characters(exclude_categories=("Cs",), exclude_characters="\0")  # type: ignore[arg-type]
said = st.one_of(st.sampled_from(NASTY), st.text(CHARACTERS, min_size=1, max_size=12)).filter(
    lambda text: text.strip()
)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | st.floats(-1, 1) | said,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(said, inner, max_size=2),
    max_leaves=4,
)
calls = st.builds(
    ToolCall,
    st.sampled_from(["f", "get_weather"]),
    st.dictionaries(said, json_values, max_size=2),
    st.none() | st.just("call_1"),
)
tools = st.lists(
    st.builds(
        lambda name, extra: {"type": "function", "function": {"name": name, "parameters": extra}},
        said,
        json_values,
    ),
    max_size=2,
).map(tuple)
weights = st.sampled_from([1.0, 1.0, 1.0, 0.0, 2.0, 0.5])


@st.composite
def answers(draw: st.DrawFn) -> list[Message]:
    """What follows a user turn: an answer, with calls and what tools gave before it, sometimes."""
    turns = []
    for _ in range(draw(st.sampled_from([0, 0, 0, 1]))):
        content = draw(st.sampled_from(["", "I look."]))
        turns.append(
            Message(
                "assistant",
                content,
                draw(st.none() | said),
                tuple(draw(st.lists(calls, min_size=1, max_size=2))),
                draw(weights),
            )
        )
        turns.append(Message("tool", draw(said)))
    return [*turns, Message("assistant", draw(said), draw(st.none() | st.none() | said), (), draw(weights))]


@st.composite
def openings(draw: st.DrawFn) -> list[Message]:
    """All before the last answer."""
    turns = [Message("system", draw(said))] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 2))):
        turns += [Message("user", draw(said)), *draw(answers())]
    return [*turns, Message("user", draw(said))]


@st.composite
def chats(draw: st.DrawFn) -> Chat:
    """A dialogue."""
    return Chat((*draw(openings()), *draw(answers())), draw(tools))


@st.composite
def preferences(draw: st.DrawFn) -> Preference:
    """Two answers that differ."""
    chosen, rejected = draw(answers()), draw(answers())
    if chosen == rejected:
        rejected = [Message("assistant", chosen[-1].content + "!")]
    return Preference(tuple(draw(openings())), tuple(chosen), tuple(rejected), draw(tools))


@st.composite
def choices(draw: st.DrawFn) -> Choice:
    """A question with two to five options."""
    options = draw(st.lists(said, min_size=2, max_size=5))
    return Choice(draw(said), tuple(options), draw(st.integers(0, len(options) - 1)))


FAMILIES: dict[str, st.SearchStrategy[Record]] = {
    "chat": chats(), "text": said.map(Text), "preference": preferences(),
    "kto": st.builds(Judged, chats(), st.booleans()), "choice": choices(),
}  # fmt: skip


def records() -> st.SearchStrategy[Record]:
    """Any of them."""
    return st.one_of(*FAMILIES.values())
