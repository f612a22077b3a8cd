"""Tags of who speaks stand in the prompt, once, wherever raw rows become records."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.data.byte_tokenizer import byte_template, byte_tokenizer
from tunesmith.data.formats import to_record
from tunesmith.data.gather import open_source
from tunesmith.data.prepare import inputs_of
from tunesmith.data.records import Chat, Choice, Judged, Message, Preference, Text
from tunesmith.data.tags import tag_words, tagged, with_tags
from tunesmith.errors import RecipeError
from tunesmith.evaluation.tasks import read_items
from tunesmith.recipe import Tags, parse

TAGS = Tags.model_validate(["age", "region"])
ROW = {"age": 31, "region": "武汉", "prompt": "Hi", "response": "Hello"}


# mutation tried: to_record without tagged()
def test_tags_stand_before_the_first_question() -> None:
    record = to_record(ROW, "prompt_response", {}, TAGS)
    assert isinstance(record, Chat)
    assert record.messages == (Message("user", "[age: 31, region: 武汉]\nHi"), Message("assistant", "Hello"))


def test_missing_and_empty_tags_are_left_out_and_a_row_without_any_is_untouched() -> None:
    assert tag_words({"age": None, "region": " "}, TAGS) == ""
    assert tag_words({"age": 31.0}, TAGS) == "age: 31"
    assert tag_words({"age": float("nan"), "region": {"a": 1}}, TAGS) == ""
    plain = {"prompt": "Hi", "response": "Hello"}
    tags, none = (to_record(plain, "prompt_response", {}, each) for each in (TAGS, None))
    assert isinstance(tags, Chat)
    assert isinstance(none, Chat)
    assert tags.messages == none.messages


def test_names_words_and_places_can_be_chosen() -> None:
    tags = Tags(
        columns={"age": "年龄"}, item="{name}{value}岁", template="（用户：{tags}）{prompt}", place="system"
    )
    chat = Chat((Message("user", "Hi"), Message("assistant", "Hello")))
    assert tagged(chat, ROW, tags) == Chat((Message("system", "（用户：年龄31岁）"), *chat.messages))
    told = Chat((Message("system", "Be kind."), *chat.messages))
    assert tagged(told, ROW, tags).messages[0].content == "（用户：年龄31岁）Be kind."


def test_every_kind_of_record_has_its_prompt_tagged() -> None:
    asked, good, bad = Message("user", "Q"), Message("assistant", "A"), Message("assistant", "B")
    chat = Chat((asked, good))
    assert tagged(Preference((asked,), (good,), (bad,)), ROW, TAGS).prompt[0].content.endswith("]\nQ")
    assert tagged(Judged(chat, True), ROW, TAGS).chat.messages[0].content.endswith("]\nQ")
    assert tagged(Choice("Q", ("a", "b"), 0), ROW, TAGS).question.endswith("]\nQ")
    assert tagged(Text("t"), ROW, TAGS) == Text("t")


@given(
    st.text(),
    st.text(min_size=1),
    st.sampled_from(["[{tags}]\n{prompt}", "{prompt}\n{tags}", "{tags}{prompt}!"]),
)
def test_tags_are_put_once(prompt: str, words: str, template: str) -> None:
    tags = Tags(columns={"a": "a"}, template=template)
    once = with_tags(prompt, words, tags)
    assert with_tags(once, words, tags) == once


def test_training_validation_show_and_tasks_all_see_them(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROW))
    chosen = parse(
        {
            "model": "x",
            "data": {"train": str(path), "validation": str(path), "tags": ["age"]},
            "evaluation": {"tasks": [{"name": "t", "kind": "generate", "path": str(path)}]},
        }
    )
    for _, source in inputs_of(chosen.data):
        opened = open_source(source)
        record = opened.record(next(opened.rows))
        assert isinstance(record, Chat)
        assert record.messages[0].content == "[age: 31]\nHi"
    (item,) = read_items(chosen.tasks[0])
    assert item.record.messages[0].content == "[age: 31]\nHi"  # type: ignore[union-attr]


def test_the_x_ray_shows_the_tags(tmp_path: Path) -> None:
    from tunesmith.data.show import show

    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps(ROW))
    chosen = parse({"model": "x", "data": {"train": str(path), "tags": ["age"]}})
    (sample,) = show(chosen.data, "sft", byte_tokenizer(), byte_template(), 1)["samples"]
    assert "age" in "".join(sample["pieces"])


@pytest.mark.parametrize(
    "wrong", [{}, {"columns": []}, {"columns": ["a"], "template": "no"}, {"columns": [1]}, 3]
)
def test_wrong_tags_are_told(wrong: object) -> None:
    with pytest.raises(RecipeError):
        parse({"model": "x", "data": {"train": "a", "tags": wrong}})
