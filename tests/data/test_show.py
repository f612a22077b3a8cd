"""The label X-ray."""

import json
import os
from pathlib import Path

import pytest

from tests.data.families import FAMILIES, tokenizer_of
from tunesmith.data.show import Pieces, show
from tunesmith.data.template import ChatTemplate
from tunesmith.errors import DataError
from tunesmith.recipe import Data

ROWS = [
    {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello! 😀好的"}]},
    {"messages": [{"role": "user", "content": "Hi"}]},
    {
        "messages": [
            {"role": "user", "content": "first " * 20},
            {"role": "assistant", "content": "one"},
            {"role": "user", "content": "Hi"},
            {"role": "assistant", "content": "two"},
        ]
    },
]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def shown(file: Path, rows: int = 10, **options: object) -> dict[str, list[dict[str, object]]]:
    tokenizer = tokenizer_of("chatml")
    data = Data.model_validate({"train": str(file), **options})
    return show(data, "sft", tokenizer, ChatTemplate.of(tokenizer), rows)


def test_the_contracted_shape_is_given_in_file_order(file: Path) -> None:
    found = shown(file, max_length=64)
    assert json.loads(json.dumps(found)) == found
    assert found["template"]["name"] == "chatml"  # type: ignore[call-overload]
    assert found["template"]["source"] == FAMILIES["chatml"].source  # type: ignore[call-overload]
    assert [sample["address"] for sample in found["samples"]] == [f"{file}:1", f"{file}:3"]
    assert [row["address"] for row in found["dropped"]] == [f"{file}:2"]
    for sample in found["samples"]:
        assert len(sample["ids"]) == len(sample["pieces"]) == len(sample["learnt"])  # type: ignore[arg-type]
    assert [cut["turn"] for cut in found["samples"][1]["cut"]] == [0, 1]  # type: ignore[attr-defined]
    assert "first" in "".join(found["samples"][1]["cut"][0]["pieces"])  # type: ignore[index]


def test_learnt_speaks_of_the_token_itself(file: Path) -> None:
    sample = shown(file)["samples"][0]
    pairs = list(zip(sample["pieces"], sample["learnt"]))  # type: ignore[call-overload]
    assert "".join(piece for piece, learnt in pairs if learnt) == "Hello! 😀好的<|im_end|>"
    assert pairs[-1] == ("\n", False)


def test_no_more_rows_are_read_than_asked_for(file: Path) -> None:
    found = shown(file, rows=1)
    assert len(found["samples"]) == 1
    assert not found["dropped"]
    assert len(shown(file, rows=5, limit=1)["samples"]) == 1


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        shown(tmp_path / "none.jsonl")


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_pieces_put_together_are_the_text(name: str) -> None:
    tokenizer = tokenizer_of(name)
    text = f"Hello! 😀好的\n\n  x{FAMILIES[name].stop}"
    ids = tokenizer(text, add_special_tokens=False).input_ids
    assert "".join(Pieces(tokenizer).of(ids)).removeprefix(" ") == text
    half = Pieces(tokenizer).of(ids[:-1][: len(ids) // 2])
    assert all(isinstance(piece, str) for piece in half)


def test_half_a_letter_is_shown_as_such() -> None:
    tokenizer = tokenizer_of("chatml")
    ids = tokenizer("😀").input_ids
    assert len(ids) > 1
    assert "".join(Pieces(tokenizer).of(ids[:-1])) == "\ufffd"


ASSETS = os.environ.get("TUNESMITH_ASSETS", "")


@pytest.mark.skipif(not ASSETS, reason="TUNESMITH_ASSETS is not set")
@pytest.mark.parametrize("name", ["qwen2.5", "minimind"])
def test_real_sets_are_shown_with_real_tokenizers(name: str) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(Path(ASSETS) / "tokenizers" / name)
    template = ChatTemplate.of(tokenizer)
    sets = Path(ASSETS) / "datasets"
    files = [
        *sets.glob("alpaca*/*.json"),
        *sets.glob("gsm8k/*"),
        *sets.glob("code/*"),
        *sets.glob("messages/oasst*"),
    ]
    assert len(files) > 5
    for path in files:
        data = Data.model_validate({"train": str(path), "max_length": 256})
        found = show(data, "sft", tokenizer, template, 20)
        assert found["samples"]
        for sample in found["samples"]:
            pairs = list(zip(sample["pieces"], sample["learnt"]))
            learnt = "".join(piece for piece, is_learnt in pairs if is_learnt)
            assert learnt.endswith("<|im_end|>")
            assert "<|im_start|>" not in learnt
            assert not sample["learnt"][0]
