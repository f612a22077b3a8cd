"""A few rows of many: the first ones, drawn ones, questions to ask; what is drawn can be kept out of training."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.reshape.draw import draw_probes, draw_rows
from tunesmith.errors import DataError, RecipeError
from tunesmith.recipe import Source, parse


def write(path: Path, *rows: dict[str, Any]) -> Source:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in rows), "utf-8")
    return Source(path=str(path))


def lines(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").split("\n") if line]


def rows(n: int, name: str = "q") -> list[dict[str, Any]]:
    return [{"id": i, "prompt": f"{name}{i} " + "x" * i, "response": f"a{i}"} for i in range(n)]


def test_the_first_rows_are_the_first(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", *rows(50))
    report = draw_rows([source], 10, str(tmp_path / "b.jsonl"))
    assert lines(tmp_path / "b.jsonl") == rows(50)[:10]
    assert report["rows_read"] == 10


def test_drawn_rows_depend_on_content_and_seed(tmp_path: Path) -> None:
    one, other = write(tmp_path / "a.jsonl", *rows(50)), write(tmp_path / "z.jsonl", *rows(50)[::-1])
    drawn = {}
    for name, source, seed in (("1", one, 0), ("2", other, 0), ("3", one, 1)):
        draw_rows([source], 10, str(tmp_path / f"{name}.jsonl"), random=True, seed=seed)
        drawn[name] = sorted(row["id"] for row in lines(tmp_path / f"{name}.jsonl"))
    assert drawn["1"] == drawn["2"] != drawn["3"]
    assert len(drawn["1"]) == 10


# mutation tried: wanted = i not in chosen
def test_the_rest_gives_none_of_the_drawn_rows_away(tmp_path: Path) -> None:
    first = {"prompt": "q", "response": "a", "history": []}
    longer = {"prompt": "and?", "response": "b", "history": [["q", "a"]]}
    other = {"prompt": "r", "response": "c", "history": []}
    source = write(tmp_path / "a.jsonl", first, longer, other, first)
    report = draw_rows([source], 1, str(tmp_path / "b.jsonl"), rest=str(tmp_path / "rest.jsonl"))
    assert lines(tmp_path / "b.jsonl") == [first]
    assert lines(tmp_path / "rest.jsonl") == [other]
    assert report["rest"] == {"path": str(tmp_path / "rest.jsonl"), "rows": 1, "kept_out": 2}


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", *rows(3))
    chats = write(
        tmp_path / "c.jsonl",
        {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]},
    )
    with pytest.raises(DataError, match="has 3 rows, 4 are asked for"):
        draw_rows([source], 4, str(tmp_path / "b.jsonl"))
    with pytest.raises(DataError, match=r"convert --to prompt_response"):
        draw_rows([source, chats], 4, str(tmp_path / "b.jsonl"))
    with pytest.raises(DataError, match="holds documents alone"):
        draw_rows([source], 2, str(tmp_path / "b.txt"))
    assert draw_rows([source], 4, str(tmp_path / "b.jsonl"), or_all=True)["rows"] == 3


def recipe(probes: Any) -> Any:
    return parse({"model": "m", "data": {"train": "a.jsonl"}, "evaluation": {"probes": probes}})


def test_probes_are_different_from_each_source_and_of_all_lengths(tmp_path: Path) -> None:
    sources = [write(tmp_path / "a.jsonl", *rows(60), *rows(60)), write(tmp_path / "b.jsonl", *rows(60, "p"))]
    path = tmp_path / "probes.yaml"
    report = draw_probes(sources, 10, str(path), written=["失眠怎么办？", "- a: [b"])
    questions = [item["question"] for item in report["questions"]]
    assert questions[:2] == ["失眠怎么办？", "- a: [b"]
    assert sum(question.startswith("q") for question in questions[2:]) == 4
    assert sum(question.startswith("p") for question in questions[2:]) == 4
    assert len(set(questions)) == 10
    assert max(map(len, questions)) > 45
    # what is written is what a recipe asks
    assert list(recipe(str(path)).evaluation.probes) == questions


def test_odd_questions_survive_the_way_through_yaml(tmp_path: Path) -> None:
    odd = [
        "a: b # c",
        "line\nline\n\ttab",
        "\"quoted\" 'both'",
        "yes",
        "2e-5",
        "x\u2028y\u0085z",
        "{{name}}",
        "长" * 300,
    ]
    source = write(tmp_path / "a.jsonl", *({"prompt": text, "response": "r"} for text in odd))
    draw_probes([source], len(odd), str(tmp_path / "p.yaml"))
    assert sorted(recipe(str(tmp_path / "p.yaml")).evaluation.probes) == sorted(odd)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("p.yaml", "- a\n- 3\n", "no list of questions"),
        ("p.yaml", "a: [", "cannot be read"),
        ("p.yaml", "", "no list of questions"),
        ("p.yml", "other: [a]", "no list of questions"),
        ("none.yaml", None, "cannot be read: No such file"),
        ("Who are you?", None, "give a list of questions"),
    ],
)
def test_a_probes_file_that_is_none_is_told_in_words(
    tmp_path: Path, name: str, text: str | None, words: str
) -> None:
    path = tmp_path / name
    if text is not None:
        path.write_text(text)
    with pytest.raises(RecipeError, match=words) as caught:
        recipe(str(path))
    assert caught.value.problems[0].where.endswith("evaluation.probes")


def test_probes_may_stand_in_a_list_a_mapping_or_lines(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("probes:\n  - one\n  - two\n")
    (tmp_path / "b.txt").write_text("one\n\ntwo\n")
    for probes in (["one", "two"], str(tmp_path / "a.yaml"), str(tmp_path / "b.txt")):
        assert recipe(probes).evaluation.probes == ("one", "two")
