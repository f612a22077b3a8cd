"""Questions said differently: what must not change does not, the answer never, and the same seed says the same."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.data.reshape.records import CHARACTERS, chats
from tunesmith.data.marks import original_of
from tunesmith.data.records import Chat
from tunesmith.data.reshape.augment import Recast, augment
from tunesmith.data.reshape.edits import EDITS
from tunesmith.data.reshape.rows import opened, read
from tunesmith.data.reshape.spell import spell
from tunesmith.data.reshape.synonyms import read_synonyms
from tunesmith.data.reshape.words import Piece, cut
from tunesmith.data.splits import row_keys
from tunesmith.errors import DataError
from tunesmith.recipe import Source

TABLE = read_synonyms(None)
OPERATIONS = sorted(EDITS)
GUARDED = (
    "```python\nfor quick in way: help(quick)\n```", "`quick()`", "https://quick.way/help?easy=1", "big@small.com",
    "3.14", "1,000km", "{{name}}", "<|im_start|>", "[INST]", "$x^2 + big$", "/big/small.txt", "C:\\big\\small",
    "snake_case_quick", "{quick}", "%s", "“quick way”", "《快速方法》", "#quick", "@help", "HTTP", "twelve", "not",
    "v2",
)  # fmt: skip
PLAIN = "Please explain the quick way to fix a small problem. 请解释快速的方法，然后给出简单的帮助。"


def write(path: Path, *rows: dict[str, Any]) -> Source:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in rows), "utf-8")
    return Source(path=str(path))


def lines(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").split("\n") if line]


def edited(text: str, operation: str, seed: int, count: int = 3) -> str | None:
    return EDITS[operation](cut(text), Random(seed), count, TABLE)


@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("thing", GUARDED)
def test_what_must_not_change_stays(thing: str, operation: str) -> None:
    text = f"{PLAIN} Find {thing} here, quick. 快速找出 {thing} 在这里。"
    for seed in range(8):
        after = edited(text, operation, seed)
        if after is not None:
            assert after.count(thing) == text.count(thing)


@settings(max_examples=120, deadline=None)
@given(
    st.text(st.one_of(CHARACTERS, st.sampled_from('快速方法a .\n`{}<|>"“”，。')), max_size=60),
    st.sampled_from(OPERATIONS),
    st.integers(0, 5),
)
def test_any_text_is_cut_and_joined_again(text: str, operation: str, seed: int) -> None:
    pieces = cut(text)
    assert "".join(piece.text for piece in pieces) == text
    after = EDITS[operation](pieces, Random(seed), 2, TABLE)
    if after is not None:
        kept = [piece.text for piece in pieces if piece.guarded]
        assert all(after.count(part) >= kept.count(part) for part in kept)


@pytest.mark.parametrize(
    ("operation", "holds"),
    [
        ("synonyms", lambda before, after: sum(a != b for a, b in zip(before, after, strict=True)) == 2),
        ("insert", lambda before, after: len(after) > len(before)),
        ("delete", lambda before, after: len(after) == len(before) - 2 and set(after) <= set(before)),
        ("swap", lambda before, after: sorted(after) == sorted(before) and after != before),
        ("sentences", lambda before, after: sorted(after) == sorted(before) and after != before),
    ],
)  # fmt: skip
@pytest.mark.parametrize(
    "text",
    [
        "please explain the quick way to buy things. then list the main reasons why people often need help.",
        "请解释快速的方法，然后列出主要的原因。他们经常需要帮助，也喜欢简单的东西。",
    ],
)
def test_each_operation_does_what_it_is_called(text: str, operation: str, holds: Any) -> None:
    def words(text: str) -> list[str]:
        return [piece.text for piece in cut(text) if piece.text.strip(" .，。")]

    after = edited(text, operation, 3, count=2)
    assert after is not None
    if operation in ("insert", "delete") and "请" in text:  # joined anew, Chinese may be cut elsewhere
        assert (len(after) > len(text)) == (operation == "insert")
        return
    assert holds(words(text), words(after)), after
    assert "  " not in after
    assert after == after.strip()


def test_words_of_the_answer_names_and_units_are_not_free() -> None:
    def free(text: str, answer: str = "") -> set[str]:
        return {piece.text for piece in cut(text, answer) if piece.free}

    assert free("which lamps are cheap", "The lamps below.") == {"which", "are", "cheap"}
    assert "Paris" not in free("the way to Paris is long")
    assert free("跑了12小时的路程") == free("跑了12小时的路程") - {"小时"}
    assert "北京" not in free("我喜欢北京的天气")
    assert "天气" not in free("我喜欢这里的天气", "天气很好")


def test_sentences_never_break_what_is_quoted() -> None:
    text = 'Say "Stop. Go. Wait." now. Then leave. And come back.'
    for seed in range(10):
        after = edited(text, "sentences", seed)
        assert after is not None
        assert '"Stop. Go. Wait."' in after
    assert edited("Do this. And that.\n```\na. b. c.\n```", "sentences", 0) is None


ROWS = [
    {
        "id": i,
        "prompt": f"Please explain the quick way to find help for problem {i}.",
        "response": f"Answer {i}.",
    }
    for i in range(20)
]


def test_rows_are_marked_new_and_keep_answer_and_columns(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", *ROWS)
    report = augment(source, Recast(per_row=3), str(tmp_path / "b.jsonl"))
    new = lines(tmp_path / "b.jsonl")
    assert report["rows_out"] == len(new) == 60 - sum(item["count"] for item in report["missed"])
    assert sum(report["operations"].values()) == len(new)
    originals = {row.address: row.record for row in read(opened(source))}
    prompts = [row["prompt"] for row in new]
    assert len({*prompts, *(row["prompt"] for row in ROWS)}) == len(new) + 20
    for row in new:
        number = int(row["augmented"]["of"].rpartition(":")[2]) - 1
        assert (row["id"], row["response"]) == (number, ROWS[number]["response"])
        assert str(number) in row["prompt"]
        assert original_of(row) == row_keys(originals[row["augmented"]["of"]])[-1]  # type: ignore[arg-type]
        assert row["augmented"]["by"] in EDITS


def test_the_same_seed_gives_the_same_rows_whatever_stands_around_them(tmp_path: Path) -> None:
    made = {}
    for name, rows, seed in (("1", ROWS, 0), ("2", ROWS[::-1], 0), ("3", ROWS, 1)):
        source = write(tmp_path / "a.jsonl", *rows)
        augment(source, Recast(seed=seed), str(tmp_path / f"{name}.jsonl"))
        made[name] = {row["id"]: row["prompt"] for row in lines(tmp_path / f"{name}.jsonl")}
    assert made["1"] == made["2"] != made["3"]


@settings(max_examples=30, deadline=None)
@given(st.lists(chats(), min_size=1, max_size=3), st.sampled_from(OPERATIONS))
def test_whatever_the_dialogue_only_its_questions_change(
    tmp_path_factory: Any, some: list[Chat], operation: str
) -> None:
    folder = tmp_path_factory.mktemp("any")
    source = write(folder / "a.jsonl", *(spell(chat, "messages").rows[0] for chat in some))
    try:
        augment(source, Recast(2, (operation,), rate=0.3), str(folder / "b.jsonl"))
    except DataError as error:
        told = error.problems[0].what
    else:
        told = ""
    if told:
        assert "gives no new row" in told
        return
    by_key = {row_keys(chat)[-1]: chat for chat in some}
    for value, row in zip(lines(folder / "b.jsonl"), read(opened(Source(path=str(folder / "b.jsonl"))))):
        assert isinstance(row.record, Chat)
        before = by_key[original_of(value)]  # type: ignore[index]
        pairs = list(zip(before.messages, row.record.messages, strict=True))
        assert all(a == b for a, b in pairs if a.role != "user")
        assert any(a != b for a, b in pairs)
        assert row.record.tools == before.tools


def test_answers_change_only_when_asked(tmp_path: Path) -> None:
    rows = [{"prompt": "x", "response": "Please explain the quick way to find help. It is easy."}]
    source = write(tmp_path / "a.jsonl", *rows)
    with pytest.raises(DataError, match="gives no new row"):
        augment(source, Recast(), str(tmp_path / "b.jsonl"))
    augment(source, Recast(turns=frozenset({"assistant"})), str(tmp_path / "b.jsonl"))
    (new,) = lines(tmp_path / "b.jsonl")
    assert (new["prompt"], new["response"] != rows[0]["response"]) == ("x", True)


def test_augmented_rows_documents_and_test_questions_are_passed_over(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", *ROWS[:2])
    augment(source, Recast(), str(tmp_path / "b.jsonl"))
    with pytest.raises(DataError, match="2 augmented_already"):
        augment(Source(path=str(tmp_path / "b.jsonl")), Recast(), str(tmp_path / "c.jsonl"))
    for row in ({"text": PLAIN}, {"question": PLAIN, "options": ["a", "b"], "answer": "A"}):
        with pytest.raises(DataError, match="1 not_augmented"):
            augment(write(tmp_path / "d.jsonl", row), Recast(), str(tmp_path / "e.jsonl"))


def test_a_table_of_ones_own(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text("- [发动机, 引擎]\n- [bonnet, hood]\n", "utf-8")
    (tmp_path / "cilin.txt").write_text("Bo01A01= 发动机 引擎\nBo01A02# 轮子 车\n", "utf-8")
    for name in ("mine.yaml", "cilin.txt"):
        table = read_synonyms(str(tmp_path / name))
        assert table.of("发动机") == ("引擎",)
        assert table.of("轮子") == ()
    mine = read_synonyms(str(tmp_path / "mine.yaml"))
    assert EDITS["synonyms"](cut("Bonnet open"), Random(0), 1, mine) == "Hood open"
    for text, words in (
        ("a: 1", "no list of groups"),
        ("- word", "no list of words"),
        ("", "no list of groups"),
        ("- [", "bad.yaml"),
    ):
        (tmp_path / "bad.yaml").write_text(text)
        with pytest.raises(Exception, match=words) as caught:
            read_synonyms(str(tmp_path / "bad.yaml"))
        assert caught.value.exit_code == 2  # type: ignore[attr-defined]


def test_the_table_that_comes_along_has_both_languages_and_no_word_for_itself() -> None:
    assert TABLE.of("快速")
    assert TABLE.of("quick")
    assert all(word not in others for word, others in TABLE.words.items())
    assert len(TABLE.words) > 200


def test_jieba_is_quiet_and_leaves_nothing_behind(tmp_path: Path) -> None:
    import os
    import subprocess
    import sys

    code = "from tunesmith.data.reshape.words import segment; print('|'.join(segment('快速的方法')))"
    done = subprocess.run(
        [sys.executable, "-W", "error::ResourceWarning", "-c", code],
        env={**os.environ, "TMPDIR": str(tmp_path), "PYTHONIOENCODING": "utf-8"}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    assert done.stdout.strip() == "快速|的|方法"
    assert done.stderr == ""
    assert list(tmp_path.iterdir()) == []


def test_pieces_are_frozen() -> None:
    assert Piece("a", True) == Piece("a", True, False)
