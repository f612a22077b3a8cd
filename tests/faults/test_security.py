"""Nothing is unpickled, no code of a model runs unasked, secrets stay out of files, files obey the umask."""

from __future__ import annotations

import ast
import json
import os
import stat
from pathlib import Path

import pytest

import tunesmith
from tests.faults.trying import run
from tests.folders import make_model, write_rows

SOURCE = Path(tunesmith.__file__).parent
OWN_PIPES = {
    "data/workers.py",
    "data/streaming/feed.py",
}  # to and from its own child processes, over a pipe that nobody else has
OPENERS = {"pickle", "cPickle", "dill", "joblib", "shelve", "marshal", "cloudpickle"}


def calls(tree: ast.AST) -> list[tuple[str, ast.Call]]:
    """(dotted name, call) of every call in a module."""
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            found.append((ast.unparse(node.func), node))
    return found


# mutation tried: import pickle in prepare.py
def test_no_module_opens_a_pickle_or_runs_a_text() -> None:
    for path in SOURCE.rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import | ast.ImportFrom) else []
            module = getattr(node, "module", None) or ""
            if str(path.relative_to(SOURCE)) in OWN_PIPES:
                continue
            assert not OPENERS & {module.split(".")[0], *(n.split(".")[0] for n in names)}, path
        for name, call in calls(tree):
            written = name == "exec" and all(isinstance(arg, ast.Constant) for arg in call.args)
            unsafe = name in ("torch.load", "eval", "exec", "os.system", "yaml.unsafe_load")
            assert written or not unsafe, (path, name)
            for keyword in call.keywords:
                text = ast.unparse(keyword.value)
                assert (keyword.arg, text) not in (("shell", "True"), ("allow_pickle", "True")), (path, name)


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    make_model(tmp_path / "model")
    write_rows(tmp_path / "rows.jsonl")
    path = tmp_path / "r.yaml"
    path.write_text(
        f"model: {tmp_path}/model\ndata: {{train: {tmp_path}/rows.jsonl, validation: 2}}\n"
        f"tuning: {{method: lora, rank: 2}}\nbudget: {{steps: 2}}\noutput: {tmp_path}/run\n"
    )
    return path


# mutation tried: environment() records os.environ
def test_no_secret_of_the_environment_reaches_a_run_folder(
    recipe: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secrets = {
        "HF_TOKEN": "hf_CANARYcanaryCANARY",
        "MY_API_KEY": "sk-CANARYcanaryCANARY",
        "PASSWORD": "CANARY-swordfish",
    }
    for name, value in secrets.items():
        monkeypatch.setenv(name, value)
    code, document, err, _ = run(["train", str(recipe)])
    assert code == 0, document
    written = [path.read_bytes() for path in (recipe.parent / "run").rglob("*") if path.is_file()]
    assert len(written) > 8
    for secret in secrets.values():
        assert secret not in err + json.dumps(document)
        assert not any(secret.encode() in content for content in written)


# mutation tried: let_read changes nothing; it failed before let_read was there, too
@pytest.mark.parametrize("umask", [0o022, 0o077])
def test_files_are_made_with_the_users_umask_and_nothing_is_left_elsewhere(
    recipe: Path, umask: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    before = os.umask(umask)
    try:
        assert run(["train", str(recipe)])[0] == 0
    finally:
        os.umask(before)
    modes = {
        stat.S_IMODE(path.stat().st_mode) for path in (recipe.parent / "run").rglob("*") if path.is_file()
    }
    assert modes == {0o666 & ~umask}
    assert list(elsewhere.iterdir()) == []
    assert not [p for p in (recipe.parent / "run").rglob(".*") if p.is_file() and p.suffix == ".tmp"]
