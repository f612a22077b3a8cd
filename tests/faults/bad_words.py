"""Words on the command line that mean nothing: verbs, options, values."""

from __future__ import annotations

from tests.faults.bad_rows import GOOD
from tests.faults.trying import Case

RECIPE = "model: '{model}'\ndata: {train: '{dir}/rows.jsonl'}\noutput: '{dir}/run'\n"


def words(text: str, where: str, what: str, fix: str = ".", code: str = "usage") -> Case:
    """A command, named by its words."""
    return Case(
        text.replace("{dir}/", "").replace("{model}", "M"),
        text,
        code,
        where,
        what,
        fix,
        files={"r.yaml": RECIPE, "rows.jsonl": GOOD},
    )


CASES = [
    words("tarin {dir}/r.yaml", "tunesmith", "tarin", "help"),
    words("data", "tunesmith data", "", "help"),
    words("data chekc {dir}/r.yaml", "tunesmith data", "chekc"),
    words("train", "tunesmith train", "RECIPE"),
    words("train {dir}/r.yaml --resum", "tunesmith train", "resum"),
    words("train {dir}/r.yaml --stop-after", "tunesmith train", "stop-after"),
    words("train {dir}/r.yaml --stop-after many", "tunesmith train", "many"),
    words("train {dir}/r.yaml --stop-after 0", "--stop-after", "at least 1", code="user"),
    words("train {dir}/r.yaml --stop-after -3", "--stop-after", "", code="user"),
    words("train {dir}/r.yaml extra", "extra", "override", code="recipe"),
    words("plan {dir}/r.yaml --fast", "tunesmith plan", "fast"),
    words("eval", "tunesmith eval", ""),
    words("eval {model} --tasks", "tunesmith eval", "tasks"),
    words("eval {model} --tasks nothing.jsonl", "--tasks", "neither", code="recipe"),
    words("eval {model}", "--tasks", "nothing says", code="recipe"),
    words("eval {dir}/nothing", "nothing", "no such folder", code="model"),
    words("chat {model}", "--json", "question", "--prompt", code="user"),
    words("chat {model} --prompt hi --max-new-tokens 0", "--max-new-tokens", "at least 1", code="user"),
    words("chat {model} --prompt hi --max-new-tokens x", "tunesmith chat", "x"),
    words("chat {model} --prompt hi --tools {dir}/nothing.json", "nothing.json", "", code="data"),
    words("chat {model} --prompt hi --tools {dir}/rows.jsonl", "rows.jsonl", "", code="data"),
    words("chat {model} --prompt hi --adapter {dir}/nothing", "nothing", "neither", code="recipe"),
    words("chat {model} --prompt hi --adapter {model}=much", "model=much", "neither", code="recipe"),
    words("export {model}", "tunesmith export", "to"),
    words("export {model} --to onnx", "tunesmith export", "onnx"),
    words("export {model} --to merged --out {dir}/x", "--adapter", "--out", code="user"),
    words("export {model} --to merged --onto somewhere", "tunesmith export", "somewhere"),
    words("methods lroa", "methods", "lroa", "lora", code="recipe"),
    words("methods --model {dir}/nothing", "nothing", "", code="model"),
    words("import {dir}/nothing.yaml", "nothing.yaml", "", code="recipe"),
    words("import {dir}/rows.jsonl", "rows.jsonl", "YAML", code="recipe"),
    words("runs show {dir}/nothing", "nothing", "", code="folder"),
    words("runs compare {dir}/a", "tunesmith runs compare", ""),
]
