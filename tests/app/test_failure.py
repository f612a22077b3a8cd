"""From exceptions to exit codes and words."""

from __future__ import annotations

import errno
import json
import re
from pathlib import Path

import pytest

from tunesmith.app import failure
from tunesmith.errors import DataError, Interrupted, Problem, TunesmithError, UserError

USER_ERRORS = UserError.__subclasses__()


@pytest.mark.parametrize("error", USER_ERRORS, ids=lambda error: error.__name__)
def test_every_user_error_exits_2(error: type[UserError], capsys: pytest.CaptureFixture[str]) -> None:
    assert failure.report(error.at("here", "is wrong", "mend it"), json=False) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "here" in err
    assert "is wrong" in err
    assert "→ mend it" in err


def test_json_carries_every_problem(capsys: pytest.CaptureFixture[str]) -> None:
    error = DataError([Problem("a.jsonl:1", "broken_json", "x"), Problem("a.jsonl:9", "no_answer", "y")])
    assert failure.report(error, json=True) == 2
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    assert json.loads(out) == {
        "error": {
            "code": "data",
            "problems": [
                {"where": "a.jsonl:1", "what": "broken_json", "fix": "x"},
                {"where": "a.jsonl:9", "what": "no_answer", "fix": "y"},
            ],
        }
    }


# mutation tried: exit_code 2 for unknown errors
def test_an_unknown_error_is_our_fault_and_keeps_its_traceback_off_the_screen(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert failure.report(ZeroDivisionError("with hf_abcdefghijklmnop inside"), json=False) == 1
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert "our fault" in err
    (crash,) = tmp_path.iterdir()
    assert crash.name in re.sub(r"\s", "", err)
    text = crash.read_text()
    assert "ZeroDivisionError" in text
    assert "abcdefghijklmnop" not in text + err
    assert crash.stat().st_mode & 0o077 == 0


def test_debug_shows_the_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_DEBUG", "1")
    failure.report(DataError.at("a", "b", "c"), json=False)
    assert "DataError" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "code", "status"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "disk_full", 2),
        (PermissionError(errno.EACCES, "Permission denied", "/locked/runs"), "folder", 2),
        (MemoryError(), "out_of_memory", 2),
        (type("OutOfMemoryError", (RuntimeError,), {})("CUDA out of memory"), "out_of_memory", 2),
        (KeyboardInterrupt(), "interrupted", 130),
        (Interrupted([Problem("runs/x", "stopped", "resume")]), "interrupted", 130),
        (FileNotFoundError(errno.ENOENT, "No such file", "internal.tmp"), "internal", 1),
        (RuntimeError(), "internal", 1),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_errors_of_the_system_are_translated(
    error: BaseException, code: str, status: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    known = failure.as_known(error)
    assert (known.code, known.exit_code) == (code, status)


def test_a_crash_file_that_cannot_be_written_does_not_hide_the_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "full")

    monkeypatch.setattr("tempfile.mkstemp", full)
    known = failure.as_known(ValueError("odd"))
    assert isinstance(known, TunesmithError)
    assert "odd" in known.problems[0].what
    assert "TUNESMITH_DEBUG" in known.problems[0].fix


def test_a_stopped_command_is_spelt_so_that_it_can_be_given_again() -> None:
    known = failure.as_known(KeyboardInterrupt(), ["data", "check", "my rows.jsonl"])
    assert known.problems[0].fix.endswith("tunesmith data check 'my rows.jsonl'")
