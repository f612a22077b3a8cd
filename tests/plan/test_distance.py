"""Far words fall into more pieces; what says nothing is told as nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from tokenizers import Tokenizer

from tunesmith import bundled
from tunesmith.plan.distance import distance
from tunesmith.plan.words_advice import FAR

ASSETS = os.environ.get("TUNESMITH_ASSETS", "")


@pytest.mark.skipif(not ASSETS, reason="TUNESMITH_ASSETS is not set")
def test_specialist_words_are_far_and_everyday_ones_near() -> None:
    folder = Path(ASSETS)
    backend = Tokenizer.from_file(str(folder / "tokenizers" / "gpt2" / "tokenizer.json"))

    def of(name: str) -> float:
        found = distance((folder / "datasets" / name).read_text(encoding="utf-8")[:80_000], backend)
        assert found is not None
        return found

    assert of("mmlu/test/anatomy_test.csv") > FAR
    assert of("pretrain_en/tinystories_1000.txt") == pytest.approx(1.0, abs=0.05)
    assert of("pretrain_en/pride_and_prejudice.txt") < of("pretrain_en/wiki_demo.txt") < FAR
    assert distance("西游记" * 5000, backend) is None
    assert distance("a short text", backend) is None


def test_a_vocabulary_of_few_tokens_says_nothing() -> None:
    backend = Tokenizer.from_file(str(bundled.path("model") / "tokenizer.json"))
    rows = (bundled.path("data") / "dialogues.jsonl").read_text(encoding="utf-8").splitlines()
    assert distance(" ".join(json.dumps(row) for row in rows), backend) is None
