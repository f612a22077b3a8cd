"""A folder appears whole or not at all."""

from __future__ import annotations

import pytest

from tunesmith.errors import FolderError
from tunesmith.export import staging
from tunesmith.export.staging import staged


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_failure_leaves_nothing(tmp_path):
    with pytest.raises(FileNotFoundError), staged(tmp_path / "out", "mark") as stage:
        (stage / "half").write_text((tmp_path / "absent").read_text())
    assert names(tmp_path) == []


# mutation tried: writing straight into the destination
@pytest.mark.parametrize("swap", [True, False])
def test_an_earlier_export_is_replaced_in_one_step(tmp_path, swap, monkeypatch):
    if not swap:  # a system without renameat2
        monkeypatch.setattr(staging, "_exchange", lambda first, second: False)
    for text in ("one", "two"):
        with staged(tmp_path / "out", "mark") as stage:
            (stage / "mark").write_text(text)
            if text == "two":
                assert (tmp_path / "out/mark").read_text() == "one"
    assert (tmp_path / "out/mark").read_text() == "two"
    assert names(tmp_path) == ["out"]


def test_a_folder_of_someone_else_is_refused(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.txt").write_text("mine")
    with pytest.raises(FolderError, match="not made by this command"), staged(tmp_path / "out", "mark"):
        pass
    assert (tmp_path / "out/thesis.txt").read_text() == "mine"


def test_what_a_killed_export_left_is_cleared(tmp_path):
    (tmp_path / ".out.staging").mkdir()
    (tmp_path / ".out.staging/old").write_text("x")
    with staged(tmp_path / "out", "mark") as stage:
        (stage / "mark").write_text("new")
    assert names(tmp_path / "out") == ["mark"]
