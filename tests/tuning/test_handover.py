"""What is proposed after a run can be done with it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tunesmith.tuning.handover import export_words


# mutation tried: always merged
@pytest.mark.parametrize(("method", "form"), [("lora", "merged"), ("full", "merged"), ("prefix", "adapter")])
def test_a_form_that_the_method_has_is_proposed(method: str, form: str, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(
        f"model: m\ndata: {{train: a.jsonl}}\ntuning: {{method: {method}}}\n"
    )
    assert export_words(tmp_path, "RUN") == f"tunesmith export RUN --to {form}"
