"""A split parts no group, gives each stratum its share, and its sums are those of the input."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tunesmith.data.formats import to_record
from tunesmith.data.reshape import alike
from tunesmith.data.reshape.divide import SOURCE, Wish, _Row, assign, divide, groups_of
from tunesmith.data.splits import row_keys
from tunesmith.errors import DataError
from tunesmith.recipe import Source


def row(i: Any, **more: Any) -> dict[str, Any]:
    return {"prompt": f"question {i}", "response": f"answer {i}", **more}


def write(path: Path, rows: list[dict[str, Any]]) -> Source:
    path.write_text("".join(json.dumps(item, ensure_ascii=False) + "\n" for item in rows), "utf-8")
    return Source(path=str(path))


def lines(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").split("\n") if line]


def parts(report: dict[str, Any]) -> dict[str, list[dict[str, Any]]]:
    return {part["name"]: lines(part["path"]) for part in report["parts"]}


def test_each_row_lies_in_one_part_as_it_was(tmp_path: Path) -> None:
    rows = [row(i, id=i) for i in range(100)]
    report = divide([write(tmp_path / "a.jsonl", rows)], Wish(0.1, 5), str(tmp_path / "out"))
    found = parts(report)
    assert {name: len(held) for name, held in found.items()} == {"train": 85, "validation": 10, "test": 5}
    assert sorted(itertools.chain(*found.values()), key=lambda item: item["id"]) == rows
    assert report["rows_in"] == sum(part["rows"] for part in report["parts"]) == 100
    assert json.loads((tmp_path / "out" / "split.json").read_text()) == report


# mutation tried: named.setdefault left out of groups_of
def test_a_group_is_never_parted(tmp_path: Path) -> None:
    rows = [row(i, customer=f"c{i % 20}") for i in range(200)]
    report = divide([write(tmp_path / "a.jsonl", rows)], Wish(0.2, 0.1, by="customer"), str(tmp_path / "out"))
    customers = [{item["customer"] for item in held} for held in parts(report).values()]
    assert len(customers) == 3
    assert sum(map(len, customers)) == 20
    assert report["groups"] == {"count": 20, "largest": 10}


# mutation tried: keys[:-1] not looked at
def test_equal_rows_and_continued_dialogues_stay_together(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = []
    for i in range(30):
        first = {"prompt": f"q{i}", "response": f"a{i}", "history": []}
        rows += [first, first, {"prompt": "and then?", "response": f"b{i}", "history": [[f"q{i}", f"a{i}"]]}]
    report = divide([write(tmp_path / "a.jsonl", rows)], Wish(0.3), str(tmp_path / "out"))
    train, validation = parts(report).values()
    names = [{item["response"][1:] for item in held} for held in (train, validation)]
    assert names[0].isdisjoint(names[1])
    assert len(validation) == 27


# mutation tried: wanted = count for every stratum
@pytest.mark.parametrize("by", ["topic", SOURCE])
def test_each_stratum_gets_its_share(tmp_path: Path, by: str) -> None:
    law = [row(f"law {i}", topic="law") for i in range(200)]
    rare = [row(f"rare {i}", topic="rare") for i in range(40)]
    sources = [write(tmp_path / "law.jsonl", law), write(tmp_path / "rare.jsonl", rare)]
    report = divide(sources, Wish(0.1, 12, stratify=by), str(tmp_path / "out"))
    shares = {part["name"]: sorted(part["strata"].values()) for part in report["parts"]}
    assert shares == {"train": [34, 170], "validation": [4, 20], "test": [2, 10]}


def test_the_seed_decides_and_the_order_of_rows_does_not(tmp_path: Path) -> None:
    rows = [row(i) for i in range(60)]
    made = []
    for name, chosen, seed in (("a", rows, 0), ("b", rows[::-1], 0), ("c", rows, 1)):
        report = divide(
            [write(tmp_path / f"{name}.jsonl", chosen)], Wish(10, seed=seed), str(tmp_path / name)
        )
        made.append({item["prompt"] for item in parts(report)["validation"]})
    assert made[0] == made[1] != made[2]


@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.sampled_from("xyz"), st.none() | st.sampled_from("pqr")),
        min_size=6, max_size=40,
    ),
    st.sampled_from([1, 2, 0.1, 0.3, None]),
    st.sampled_from([1, 2, 0.2]),
)  # fmt: skip
def test_whatever_the_rows_sums_hold_and_groups_do(
    drawn: list[tuple[int, str, str | None]], test: int | float | None, validation: int | float
) -> None:
    rows = [_Row((bytes([n]),), group, stratum) for n, stratum, group in drawn]
    try:
        sides = assign(rows, Wish(validation, test))
    except DataError:
        return
    assert len(sides) == len(rows)
    counts = Counter(sides)
    for part, asked in (("validation", validation), ("test", test)):
        limit = 0 if asked is None else asked if isinstance(asked, int) else max(1, round(asked * len(rows)))
        assert counts[part] <= limit
    for members in groups_of(rows):
        assert len({sides[i] for i in members}) == 1


def test_what_cannot_be_split_is_said(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [row(i, customer="one") for i in range(5)])
    for wish, words in (
        (Wish(), "nor --test"),
        (Wish(2, by="custom"), "no row has a column 'custom'"),
        (Wish(2, by="customer"), "every one of the 1 groups is larger"),
        (Wish(3, 2), "take all of 5 rows"),
        (Wish(0.5, 0.9), r"ask for 0\.5 \+ 0\.9 of all rows"),
    ):
        with pytest.raises(DataError, match=words):
            divide([source], wish, str(tmp_path / "out"))
    assert not (tmp_path / "out").exists()


def test_bad_rows_stop_it_or_are_counted(tmp_path: Path) -> None:
    source = write(tmp_path / "a.jsonl", [row(i) for i in range(10)])
    with open(source.path, "a") as file:
        file.write('{"prompt": \n')
    with pytest.raises(DataError, match="leave bad rows out and count them"):
        divide([source], Wish(2), str(tmp_path / "out"))
    report = divide([source], Wish(2), str(tmp_path / "out"), drop_bad=True)
    assert (report["rows_in"], report["left_out"]) == (11, 1)
    assert report["losses"][0]["examples"][0]["where"].endswith("a.jsonl:11")


# mutation tried: augmented rows drawn like others
def test_an_augmented_row_goes_with_its_original_and_never_tests(tmp_path: Path) -> None:
    rows = [row(i, customer=f"c{i}") for i in range(40)]
    made = []
    for i, item in enumerate(rows):
        key = row_keys(to_record(item, "prompt_response", {}))[-1].hex()  # type: ignore[arg-type]
        mark = {"of": f"gone.jsonl:{i + 1}", "by": "swap", "key": key}
        made.append({**item, "prompt": f"{i} question", "augmented": mark})
    lost = {**row("new"), "augmented": {"of": "x:1", "by": "swap", "key": "00"}}
    source = write(tmp_path / "a.jsonl", [*rows, *made, lost])
    report = divide([source], Wish(0.25, 5), str(tmp_path / "out"))
    found = parts(report)
    assert {name: len(held) for name, held in found.items()} == {
        "train": 25 + 25 + 1,
        "validation": 10,
        "test": 5,
    }
    trained = {item["response"] for item in found["train"] if "augmented" not in item}
    assert {item["response"] for item in found["train"] if "augmented" in item} == trained | {"answer new"}
    assert not any("augmented" in item for name in ("validation", "test") for item in found[name])
    assert report["augmented"] == {"train": 26, "left_out": 15}
    assert report["rows_in"] == 81 == sum(part["rows"] for part in report["parts"]) + report["left_out"]


def test_files_of_two_formats_do_not_go_into_one(tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]
    sources = [
        write(tmp_path / "a.jsonl", [row(1), row(2)]),
        write(tmp_path / "b.jsonl", [{"messages": turns}]),
    ]
    with pytest.raises(DataError, match="holds messages, the files before it prompt_response"):
        divide(sources, Wish(1), str(tmp_path / "out"))


# mutation tried: groups_of without twins
def test_rows_that_are_nearly_equal_never_part(tmp_path: Path) -> None:
    rows = []
    for i in range(40):
        text = " ".join(f"word{i}x{j}" for j in range(40))
        rows += [
            {"prompt": text, "response": f"the answer to {i}", "pair": i},
            {"prompt": text.replace(f"word{i}x39", "changed"), "response": f"the answer to {i}", "pair": i},
        ]
    source = write(tmp_path / "a.jsonl", rows)
    report = divide([source], Wish(0.2, 0.2), str(tmp_path / "out"))
    pairs = [{item["pair"] for item in held} for held in parts(report).values()]
    assert len(pairs) == 3
    assert sum(map(len, pairs)) == 40
    assert report["near"] == {"least": 0.8, "looked": True, "rows": 80}
    apart = divide([source], Wish(0.2, 0.2, near=0.0), str(tmp_path / "apart"))
    assert sum(len({item["pair"] for item in held}) for held in parts(apart).values()) > 40
    assert not apart["near"]["looked"]


def test_of_many_rows_near_ones_are_looked_for_when_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(alike, "ROWS", 10)
    source = write(tmp_path / "a.jsonl", [row(i) for i in range(20)])
    assert not divide([source], Wish(0.2), str(tmp_path / "one"))["near"]["looked"]
    assert divide([source], Wish(0.2, near=0.9), str(tmp_path / "two"))["near"]["looked"]
