"""Nothing is unpickled, no code of a model runs unasked, secrets stay out of files, files obey the umask."""

from __future__ import annotations

import ast
import json
import os
import stat
from pathlib import Path

import pytest

import tunesmith
import tunesmith.run
from tests.faults.trying import run
from tests.folders import make_model, write_rows
from tunesmith.errors import ModelError

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
        "WANDB_API_KEY": "CANARY0123456789abcdef",
    }
    in_addresses = {
        "HF_ENDPOINT": "https://me:CANARYendpoint@127.0.0.1:9",
        "HTTPS_PROXY": "http://me:CANARYproxy@127.0.0.1:9",
    }
    for name, value in (secrets | in_addresses).items():
        monkeypatch.setenv(name, value)
    code, document, err, _ = run(["train", str(recipe)])
    assert code == 0, document
    written = [path.read_bytes() for path in (recipe.parent / "run").rglob("*") if path.is_file()]
    assert len(written) > 8
    for secret in (*secrets.values(), "CANARYendpoint", "CANARYproxy", "CANARY"):
        assert secret not in err + json.dumps(document)
        assert not any(secret.encode() in content for content in written)


SAID = "401 for hf_CANARYcanaryCANARY at https://me:CANARYpass@host/x, Bearer CANARYcanary0123"


# mutation tried: Recording passes events on as they are
@pytest.mark.parametrize(("error", "code"), [(ModelError, 2), (RuntimeError, 1)])
def test_no_secret_in_what_a_library_says_is_told_or_kept(
    error: type[Exception], code: int, recipe: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def tune(*words: object) -> None:
        raise ModelError.at("the hub", SAID, SAID) if error is ModelError else error(SAID)

    (tmp_path / "crashes").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "crashes"))
    monkeypatch.setattr(tunesmith.run, "tune", tune)
    found, document, err, _ = run(["train", str(recipe)])
    assert found == code
    written = [p for folder in ("run", "crashes") for p in (tmp_path / folder).rglob("*") if p.is_file()]
    assert any(path.name.startswith("tunesmith-crash") for path in written) == (code == 1)
    assert code == 1 or '"failed"' in (tmp_path / "run/events.jsonl").read_text()
    for text in (err, json.dumps(document), *(path.read_bytes().decode("latin-1") for path in written)):
        assert "CANARY" not in text


@pytest.mark.parametrize(
    "key", ["model", "data.train", "data.validation", "output", "data.template", "evaluation.probes"]
)
def test_an_address_with_a_password_is_refused_and_not_repeated(key: str, recipe: Path) -> None:
    code, document, err, _ = run(["train", str(recipe), f"{key}=https://me:CANARYpass@host/x"])
    assert code == 2
    assert "CANARY" not in json.dumps(document) + err
    assert not (recipe.parent / "run").exists()


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
