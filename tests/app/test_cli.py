"""The command line: exit codes, one JSON object, useful words; the verbs themselves are faked here."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tunesmith import run
from tunesmith.app import cli
from tunesmith.errors import DataError, Interrupted, Problem

pytestmark = pytest.mark.usefixtures("hangup_heard")

RECIPE = "model: some/model\ndata: {train: rows.jsonl}\noutput: runs/x\n"
PLAN = {
    "fits": True,
    "device": {"kind": "cpu", "name": "Test CPU", "memory_bytes": 8 * 2**30},
    "parameters": {"total": 1000, "trainable": 10},
    "memory": {"terms": [{"name": "weights", "bytes": 4000}], "peak_bytes": 5000, "phase": "training",
               "error_share": 0.15},
    "run": {"steps": 10, "tokens": 100, "targets": 50, "seconds": 1.0, "disk_bytes": 10},
    "advice": [{"rule": "r", "reason": "because", "source": "note 001", "change": {"data.max_length": 512}}],
    "largest": {},
}  # fmt: skip

Main = Callable[..., tuple[int, str, str]]


@pytest.fixture
def main(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Main:
    """Run the command in an empty folder with a recipe; gives exit code, standard output and error."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "recipe.yaml").write_text(RECIPE)

    def call(*words: str) -> tuple[int, str, str]:
        code = cli.main(list(words))
        out, err = capsys.readouterr()
        return code, out, err

    return call


def fake(monkeypatch: pytest.MonkeyPatch, name: str, function: Callable[..., Any]) -> None:
    monkeypatch.setattr(run, name, function, raising=False)


VERBS = [words.split() for _, words, _ in cli.VERBS]


@pytest.mark.parametrize("verb", VERBS, ids=" ".join)
def test_each_verb_explains_itself(main: Main, verb: list[str]) -> None:
    code, out, _ = main(*verb, "--help")
    assert code == 0
    assert "--json" in out
    assert max(map(len, out.splitlines())) <= 80


def test_help_lists_the_verbs_of_the_contract_and_no_other(main: Main) -> None:
    code, out, _ = main("--help")
    assert code == 0
    for verb in (
        "demo",
        "data",
        "plan",
        "train",
        "eval",
        "chat",
        "export",
        "runs",
        "methods",
        "doctor",
        "lr-find",
        "vocab",
        "cache",
    ):
        assert f"│ {verb} " in out
    for absent in ("serve", "web"):
        assert f"│ {absent} " not in out


def test_without_words_help_is_shown(main: Main) -> None:
    code, out, _ = main()
    assert code == 0
    assert "Start here" in out


def test_the_version_is_told(main: Main) -> None:
    from tunesmith import __version__

    assert main("--version")[1].strip() == __version__


# mutation tried: return 1 in _misused
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["traim"], 'Did you mean "train"'),
        (["train"], "RECIPE"),
        (["train", "recipe.yaml", "--stop-aftr", "3"], "--stop-after"),
        (["train", "recipe.yaml", "--stop-after", "soon"], "soon"),
        (["export", "runs/x", "--to", "onnx"], "merged"),
        (["runs"], None),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_misuse_exits_2_and_says_what_was_meant(main: Main, words: list[str], said: str | None) -> None:
    code, out, err = main(*words)
    if said is None:  # a family alone shows its verbs
        assert (code, err) == (0, "")
        return
    assert code == 2
    assert out == ""
    assert said in " ".join(err.split())


def test_misuse_with_json_is_the_contracted_error(main: Main) -> None:
    code, out, _ = main("train", "--json")
    assert code == 2
    error = json.loads(out)["error"]
    assert error["code"] == "usage"
    assert set(error["problems"][0]) == {"where", "what", "fix"}


def test_a_plan_is_shown_and_told(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "plan", lambda recipe, reporter: PLAN)
    code, out, _ = main("plan", "recipe.yaml")
    assert code == 0
    for part in ("fits", "Test CPU", "(1%)", "weights", "±15%", "because", "data.max_length=512"):
        assert part in out
    code, out, _ = main("plan", "recipe.yaml", "--json")
    assert (code, json.loads(out)) == (0, PLAN)


# mutation tried: no redirect of standard output in _work
def test_with_json_nothing_else_reaches_standard_output(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def chatty(recipe: object, reporter: object) -> dict[str, Any]:
        print("some library says hello")
        return PLAN

    fake(monkeypatch, "plan", chatty)
    _, out, err = main("plan", "recipe.yaml", "--json")
    assert out.count("\n") == 1
    assert json.loads(out) == PLAN
    assert "hello" in err


def test_numbers_that_json_cannot_say_become_null(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    odd = {**PLAN, "run": {**PLAN["run"], "seconds": float("inf")}, "path": Path("x")}  # type: ignore[dict-item]
    fake(monkeypatch, "plan", lambda recipe, reporter: odd)
    out = main("plan", "recipe.yaml", "--json")[1]
    told = json.loads(out, parse_constant=lambda name: pytest.fail(name))
    assert told["run"]["seconds"] is None
    assert told["path"] == "x"


def test_a_lone_surrogate_can_be_told(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "plan", lambda recipe, reporter: {"odd": "\ud800 你好"})
    assert json.loads(main("plan", "recipe.yaml", "--json")[1]) == {"odd": "\ud800 你好"}


def test_overrides_reach_the_recipe(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    fake(monkeypatch, "plan", lambda recipe, reporter: seen.append(recipe) or PLAN)
    assert main("plan", "recipe.yaml", "optim.lr=2e-4", "data.validation=null")[0] == 0
    assert seen[0].optim.lr == 2e-4
    assert seen[0].data.validation is None


@pytest.mark.parametrize("json_flag", [[], ["--json"]], ids=["page", "json"])
def test_all_problems_of_a_recipe_are_told_together(
    main: Main, json_flag: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    fake(monkeypatch, "plan", lambda recipe, reporter: pytest.fail("a wrong recipe must not be planned"))
    code, out, err = main("plan", "recipe.yaml", "optm.lr=1", "data.max_lenght=5", *json_flag)
    assert code == 2
    told = out if json_flag else err
    assert "optim" in told
    assert "max_length" in told


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError.at("a.jsonl:3", "broken_json", "mend the line"), 2),
        (
            Interrupted([Problem("runs/x", "stopped after step 3", "tunesmith train recipe.yaml --resume")]),
            130,
        ),
        (KeyboardInterrupt(), 130),
        (RuntimeError("odd"), 1),
    ],
    ids=["user", "interrupted", "ctrl-c", "ours"],
)
def test_exit_codes(main: Main, monkeypatch: pytest.MonkeyPatch, error: BaseException, code: int) -> None:
    def fails(*_: object, **__: object) -> None:
        raise error

    fake(monkeypatch, "train", fails)
    got, out, err = main("train", "recipe.yaml")
    assert (got, out) == (code, "")
    assert "Traceback" not in err
    got, out, err = main("train", "recipe.yaml", "--json")
    assert got == code
    assert set(json.loads(out)) == {"error"}


def outcome(status: str) -> Callable[..., run.Outcome]:
    return lambda *_, **__: run.Outcome("runs/x", status, 5, "runs/x/report.json")


def test_a_stopped_run_exits_130_and_says_how_to_go_on(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, "train", outcome("interrupted"))
    code, out, _ = main("train", "recipe.yaml", "--stop-after", "5")
    assert code == 130
    assert "tunesmith train runs/x/recipe.yaml --resume" in out  # whatever output= was given
    code, out, _ = main("train", "recipe.yaml", "--stop-after", "5", "--json")
    assert code == 130
    assert json.loads(out) == {
        "run": "runs/x", "status": "interrupted", "steps": 5, "report": "runs/x/report.json",
    }  # fmt: skip


def test_train_hands_its_options_on(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: dict[str, Any] = {}

    def train(recipe: object, **options: object) -> run.Outcome:
        seen.update(options)
        return run.Outcome("runs/x", "done", 5, "runs/x/report.json")

    fake(monkeypatch, "train", train)
    assert main("train", "recipe.yaml", "--resume", "--stop-after", "7")[0] == 0
    assert (seen["resume"], seen["stop_after"]) == (True, 7)
    assert main("train", "recipe.yaml", "--stop-after", "0")[0] == 2


def test_a_secret_in_an_error_is_hidden(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object, **__: object) -> None:
        raise DataError.at("hub", "401 with hf_abcdefghijklmnop", "log in")

    fake(monkeypatch, "train", fails)
    for words in (["train", "recipe.yaml"], ["train", "recipe.yaml", "--json"]):
        code, out, err = main(*words)
        assert code == 2
        assert "abcdefghijklmnop" not in out + err


def test_a_closed_pipe_is_quiet() -> None:
    command = f"{sys.executable} -m tunesmith methods --json | head -c 5"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True)
    assert done.stderr == ""
    assert done.stdout == '{"met'
    assert done.returncode == 0


# mutation tried: no _never_choke
def test_a_terminal_without_unicode_is_no_reason_to_fail(tmp_path: Path) -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "COLUMNS": "80"}
    done = subprocess.run(
        [sys.executable, "-m", "tunesmith", "runs", "list"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert b"no runs" in done.stdout


WAITS = """
import sys, time
from tunesmith import run
from tunesmith.app import cli
def plan(recipe, reporter):
    print("ready", file=sys.stderr, flush=True)
    time.sleep(30)
run.plan = plan
sys.exit(cli.main(["plan", "recipe.yaml", "--json"]))
"""


def stopped(number: signal.Signals, script: str, *words: str, cwd: Path | None = None) -> str:
    """What a script that was signalled when it was ready tells a person; its code and JSON are those of a stop."""
    child = subprocess.Popen(
        [sys.executable, "-c", script, *words], cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert child.stderr is not None
    assert child.stderr.readline() == "ready\n"
    os.kill(child.pid, number)
    out, err = child.communicate(timeout=20)
    assert child.returncode == 130
    assert json.loads(out)["error"]["code"] == "interrupted"
    return err


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_signals_end_a_verb_with_130(number: signal.Signals, tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    assert "Traceback" not in stopped(number, WAITS, cwd=tmp_path)


LOADING = """
import sys, time
class Slow:
    def find_spec(self, name, *_):
        if name == "tunesmith.app":
            print("ready", file=sys.stderr, flush=True)
            time.sleep(30)
sys.meta_path.insert(0, Slow())
from tunesmith.__main__ import main
sys.exit(main())
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP], ids=lambda n: n.name)
def test_a_signal_while_libraries_load_is_an_answer_too(number: signal.Signals) -> None:
    # mutation tried: no handlers in __main__
    err = stopped(number, LOADING, "plan", "--json")
    assert err == f"\n! stopped by {number.name} before anything began\n"


def test_an_interrupt_within_generated_code_ends_with_130_too(tmp_path: Path) -> None:
    # mutation tried: no exec("") in __main__
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "wrapped.py").write_text("""
import sys
from tunesmith import run
from tunesmith.__main__ import main
run.plan = lambda *_, **__: exec("raise KeyboardInterrupt")
sys.exit(main())
""")
    words = [sys.executable, "-m", "wrapped", "plan", "recipe.yaml", "--json"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True)
    assert done.returncode == 130


def test_a_library_that_turns_an_interrupt_into_something_else_is_not_believed(
    main: Main, monkeypatch: pytest.MonkeyPatch
) -> None:
    # mutation tried: `_meant` that returns the error
    def plan(*_: Any, **__: Any) -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise ImportError("numpy.core.multiarray failed to import") from None

    fake(monkeypatch, "plan", plan)
    code, out, _ = main("plan", "recipe.yaml", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (130, "interrupted")


def test_a_stop_that_a_library_swallows_is_said_again(main: Main, monkeypatch: pytest.MonkeyPatch) -> None:
    # mutation tried: no timer
    monkeypatch.setattr(cli, "HEARD_SECONDS", 0.1)

    def plan(*_: Any, **__: Any) -> dict[str, Any]:
        try:
            signal.raise_signal(signal.SIGTERM)
        except BaseException:
            time.sleep(5)
        return {}

    fake(monkeypatch, "plan", plan)
    began = time.monotonic()
    code, out, _ = main("plan", "recipe.yaml", "--json")
    assert (code, json.loads(out)["error"]["code"]) == (130, "interrupted")
    assert time.monotonic() - began < 4
    assert signal.getitimer(signal.ITIMER_REAL)[0] != 0.1


@pytest.mark.parametrize(
    ("own", "spins"), [({}, "700"), ({"GOMP_SPINCOUNT": "5"}, "5"), ({"OMP_WAIT_POLICY": "ACTIVE"}, None)]
)
def test_idle_threads_wait_a_little_and_before_torch_is_there(
    own: dict[str, str], spins: str | None, tmp_path: Path
) -> None:
    # mutation tried: OMP_WAIT_POLICY=PASSIVE, which costs a second core all it gains; set whatever the user says
    script = (
        "import json, os, sys\n"
        "from tunesmith import run\n"
        "from tunesmith.app import cli\n"
        "def plan(recipe, reporter):\n"
        "    names = 'GOMP_SPINCOUNT', 'OMP_WAIT_POLICY'\n"
        "    print(json.dumps([*map(os.environ.get, names), 'torch' in sys.modules]), flush=True)\n"
        "    os._exit(0)\n"
        "run.plan = plan\n"
        "cli.main(['plan', 'recipe.yaml'])\n"
    )
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    kept = {
        key: value for key, value in os.environ.items() if key not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")
    }
    child = subprocess.run(
        [sys.executable, "-c", script], env=kept | own, cwd=tmp_path, capture_output=True, text=True
    )
    assert json.loads(child.stdout) == [spins, own.get("OMP_WAIT_POLICY"), False]


def test_nohup_keeps_its_meaning(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    child = subprocess.Popen(
        ["nohup", sys.executable, "-c", WAITS.replace("sleep(30)", "sleep(1); return {'survived': True}")],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stderr is not None
    while child.stderr.readline() != "ready\n":
        assert child.poll() is None
    os.kill(child.pid, signal.SIGHUP)
    out, _ = child.communicate(timeout=20)
    assert (child.returncode, json.loads(out)) == (0, {"survived": True})
