"""Row 7 of the fault matrix, and files one may not read: permissions are met as a user meets them, root or not."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.faults.rights import ordinary_rights
from tests.faults.trying import run
from tests.folders import make_model, write_rows


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rights")
    make_model(folder / "model")
    write_rows(folder / "rows.jsonl")
    recipe = (
        f"model: {folder}/model\ndata: {{train: {folder}/rows.jsonl, validation: 2}}\n"
        f"tuning: {{method: lora, rank: 2}}\nbudget: {{steps: 1}}\noutput: {folder}/run\n"
    )
    for name, content in {"r.yaml": recipe, "closed.yaml": recipe, "closed.jsonl": "{}\n"}.items():
        (folder / name).write_text(content)
        (folder / name).chmod(0 if name.startswith("closed") else 0o644)
    (folder / "closed").mkdir(mode=0)
    (folder / "fixed").mkdir(mode=0o555)
    return folder


@pytest.fixture(autouse=True)
def _as_a_user() -> Iterator[None]:
    with ordinary_rights():
        yield


CASES = [  # words, where
    ("train {dir}/closed.yaml", "closed.yaml"),
    ("train {dir}/closed/r.yaml", "closed/r.yaml"),
    ("train {dir}/r.yaml output={dir}/fixed/run", "fixed/run"),
    ("train {dir}/r.yaml output={dir}/closed/run", "closed/run"),
    ("train {dir}/r.yaml data.train={dir}/closed.jsonl", "closed.jsonl"),
    ("train {dir}/r.yaml data.train={dir}/closed", "closed"),
    ("train {dir}/r.yaml model={dir}/closed", "closed"),
    ("plan {dir}/r.yaml data.validation={dir}/closed.jsonl", "closed.jsonl"),
    ("eval {dir}/model --tasks {dir}/closed.jsonl", "closed.jsonl"),
    ("eval {dir}/model --probes {dir}/closed.yaml", "--probes"),
    ("chat {dir}/closed --prompt hi", "closed"),
    ("chat {dir}/model --prompt hi --tools {dir}/closed.jsonl", "closed.jsonl"),
    ("export {dir}/closed --to merged", "closed"),
    ("runs list {dir}/closed", "closed"),
    ("import {dir}/closed.yaml", "closed.yaml"),
    ("init --model {dir}/model --data {dir}/closed.jsonl --output {dir}/new.yaml", "closed.jsonl"),
    ("init --model {dir}/model --data {dir}/rows.jsonl --output {dir}/fixed/new.yaml", "fixed/new"),
    ("vocab --model {dir}/model --data {dir}/closed.jsonl --output {dir}/v", "closed.jsonl"),
]


@pytest.mark.parametrize(("words", "where"), CASES)
def test_what_may_not_be_read_or_written_is_named_before_anything_is_done(
    words: str, where: str, place: Path
) -> None:
    code, document, err, seconds = run(shlex.split(words.format(dir=place)))
    assert code == 2, document
    problem = document["error"]["problems"][0]
    assert where in problem["where"]
    assert problem["fix"]
    assert "ermission" in problem["what"] or "not writable" in problem["what"], problem
    assert "Traceback" not in err
    assert seconds < 2
    assert not (place / "run").exists()
