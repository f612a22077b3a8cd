"""Runs side by side as a person sees them."""

from __future__ import annotations

from tunesmith.app.render.runs import _value, next_words
from tunesmith.recipe import Source

from .test_base import printed


# mutation tried: every key of a source kept
def test_a_source_is_shown_as_it_would_be_written() -> None:
    plain, weighed = (Source(path="a.jsonl", weight=weight).model_dump(mode="json") for weight in (None, 2))
    assert _value([plain]) == "a.jsonl"
    assert _value([weighed]) == "{'path': 'a.jsonl', 'weight': 2.0}"
    assert _value(["a", plain]) == "['a', 'a.jsonl']"
    assert _value(None) == "null"


# mutation tried: visible for typed
def test_a_command_to_copy_is_quoted_for_a_shell() -> None:
    done = printed(next_words({"run": "x $(rm)", "status": "done"}))
    assert "tunesmith chat 'x $(rm)'" in done
    assert "tunesmith export 'x $(rm)' --to merged" in done
    stopped = printed(next_words({"run": "x $(rm)", "status": "killed", "resumable": True}))
    assert "tunesmith train 'x $(rm)/recipe.yaml' --resume" in stopped
