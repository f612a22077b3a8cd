"""The bundled model, data and recipe: whole, small, kept apart where they must be."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from random import Random

import pytest

from tunesmith import bundled
from tunesmith.app.stage import write_recipe
from tunesmith.errors import FolderError
from tunesmith.recipe import Recipe, load

DATA = bundled.path("data")
TRAIN = ("orders.json", "notes.jsonl", "dialogues.jsonl", "history.jsonl")


def rows(name: str) -> list[dict]:
    text = (DATA / name).read_text(encoding="utf-8")
    return json.loads(text) if name.endswith(".json") else [json.loads(line) for line in text.splitlines()]


def exchanges(row: dict) -> list[tuple[str, str]]:
    """What any of the formats says, as questions and answers."""
    if "messages" in row:
        said = [turn["content"] for turn in row["messages"] if turn["role"] != "system"]
        return list(zip(said[::2], said[1::2]))
    if "instruction" in row:
        return [(row["instruction"], row["output"])]
    return [*map(tuple, row.get("history", [])), (row["prompt"], row["response"])]


def calls(names: tuple[str, ...]) -> set[str]:
    """Every structured call but cancel, which carries no combination."""
    said = [answer for name in names for row in rows(name) for _, answer in exchanges(row)]
    return {answer for answer in said if re.match(r"(order|book|stock|ticket)\(", answer)}


def test_the_bundled_folder_stays_small() -> None:
    files = [file for file in bundled.path().rglob("*") if file.is_file() and file.suffix != ".pyc"]
    assert sum(file.stat().st_size for file in files) <= 12_000_000


def test_there_are_enough_rows_in_at_least_three_formats() -> None:
    from tunesmith.data.formats import recognise

    formats = {recognise(rows(name)[:20], name, {}) for name in TRAIN}
    assert len(formats) >= 3
    assert sum(len(rows(name)) for name in TRAIN) >= 400
    assert len(rows("domain_test.jsonl")) == 200
    assert len(rows("domain_validation.jsonl")) == 100
    assert len(rows("general_test.jsonl")) >= 200


# mutation tried: desk.split_pools handing every combination to each part
def test_no_combination_asked_for_in_one_part_stands_in_another() -> None:
    train, validation, test = calls(TRAIN), calls(("domain_validation.jsonl",)), calls(("domain_test.jsonl",))
    assert not train & test
    assert not train & validation
    assert not validation & test


def test_no_question_is_asked_in_two_parts() -> None:
    parts = [
        [*TRAIN, "general.jsonl"],
        ["domain_validation.jsonl"],
        ["domain_test.jsonl", "general_test.jsonl"],
    ]
    asked = [{str([q for q, _ in exchanges(row)]) for name in part for row in rows(name)} for part in parts]
    assert not asked[0] & asked[2]
    assert not asked[0] & asked[1]
    assert not asked[1] & asked[2]


def test_both_languages_and_several_turns_are_in_every_part() -> None:
    for names in (TRAIN, ("domain_validation.jsonl",), ("domain_test.jsonl",), ("general_test.jsonl",)):
        talks = [exchanges(row) for name in names for row in rows(name)]
        chinese = [talk for talk in talks if re.search(r"[\u4e00-\u9fff]", talk[-1][0])]
        assert 0.3 < len(chinese) / len(talks) < 0.7
        assert sum(len(talk) > 1 for talk in talks) >= 0.04 * len(talks)


def test_the_tokenizer_keeps_every_text_and_splits_digits_and_chinese() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled.path("model"))
    for text in ("12 + 7 = 19", "我要三个红色的苹果。", "tabs\tand\nlines", "  spaces ", "émoji 🙂"):
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text
    assert [tokenizer.decode([i]) for i in tokenizer("1234")["input_ids"]] == ["1", "2", "3", "4"]
    assert [tokenizer.decode([i]) for i in tokenizer("苹果")["input_ids"]] == ["苹", "果"]
    assert tokenizer.bos_token is None
    assert tokenizer.eos_token == "<|im_end|>"
    assert tokenizer.pad_token_id not in (None, tokenizer.eos_token_id)


def test_the_template_learns_the_answer_and_its_end_only() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(bundled.path("model"))
    talk = [{"role": "user", "content": "Hi!"}, {"role": "assistant", "content": "Hello!"}]
    out = tokenizer.apply_chat_template(talk, return_dict=True, return_assistant_tokens_mask=True)
    learnt = [i for i, mask in zip(out["input_ids"], out["assistant_masks"]) if mask]
    assert tokenizer.decode(learnt) == "Hello!<|im_end|>"
    assert tokenizer.decode(out["input_ids"]).endswith("<|im_end|>\n")


def test_the_data_is_what_the_script_makes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = Path(__file__).resolve().parents[1] / "examples"
    monkeypatch.setattr(sys, "path", [str(examples), *sys.path])
    import make_bundled

    monkeypatch.setattr(make_bundled, "ROOT", tmp_path)
    monkeypatch.setattr(make_bundled, "BUNDLED", tmp_path)
    make_bundled.make_data()
    for made in sorted((tmp_path / "data").iterdir()):
        assert made.read_bytes() == (DATA / made.name).read_bytes(), made.name
    assert make_bundled.corpus.chat(Random(1)) == make_bundled.corpus.chat(Random(1))


def test_a_missing_bundled_file_is_named() -> None:
    with pytest.raises(FolderError, match="nothing-here"):
        bundled.path("nothing-here")


def demo_recipe(folder: Path) -> Recipe:
    """The recipe as the demo leaves it behind."""
    write_recipe(folder / "demo.yaml")
    return load(folder / "demo.yaml")


def test_the_demo_recipe_leads_into_the_package_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    recipe = demo_recipe(tmp_path)
    named = [*(source.path for source in recipe.data.train), recipe.data.validation, recipe.data.test]
    named += [task.path for task in recipe.evaluation.tasks] + [recipe.model.path]
    assert all(Path(str(name)).is_absolute() and Path(str(name)).exists() for name in named)


def test_the_demo_neither_learns_nor_stops_by_its_test(tmp_path: Path) -> None:
    recipe = demo_recipe(tmp_path)
    learnt = {source.path for source in recipe.data.train} | {recipe.data.validation}
    assert not learnt & {recipe.data.test, *(task.path for task in recipe.evaluation.tasks)}
