"""The run folder: never overwritten, one writer at a time, files whole or absent."""

import os

import pytest

from tunesmith import folder as folders
from tunesmith.errors import DiskFullError, FolderError
from tunesmith.folder import RunFolder, is_run, open_run, read_json, write_atomically, write_json


def test_a_folder_with_something_in_it_is_refused_and_left_alone(tmp_path):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(FolderError, match=r"--resume.*output="):
        RunFolder(tmp_path).create()
    assert (tmp_path / "mine.txt").read_text() == "precious"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").write_text("a file")
    with pytest.raises(FolderError):
        RunFolder(tmp_path / "run").create()


def test_an_empty_folder_may_be_used(tmp_path):
    RunFolder(tmp_path).create()
    assert (tmp_path / "checkpoints").is_dir()


def test_two_writers_are_not_let_in(tmp_path):
    # mutation tried: LOCK_SH
    with (
        RunFolder(tmp_path).lock(),
        pytest.raises(FolderError, match=str(os.getpid())),
        RunFolder(tmp_path).lock(),
    ):
        pass
    with RunFolder(tmp_path).lock():
        pass


def test_a_lock_left_by_a_dead_process_does_not_hold(tmp_path):
    child = os.fork()
    if child == 0:
        with RunFolder(tmp_path).lock():
            os._exit(9)
    os.waitpid(child, 0)
    with RunFolder(tmp_path).lock():
        pass


def test_a_write_that_fails_leaves_the_old_file_and_no_rest(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_json(path, {"old": 1})

    def fail(*_):
        raise OSError("no")

    monkeypatch.setattr(folders.os, "replace", fail)
    with pytest.raises(OSError, match="no"):
        write_atomically(path, "new")
    assert read_json(path) == {"old": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_files_have_the_users_umask(tmp_path):
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert (tmp_path / "a").stat().st_mode & 0o777 == 0o640


def test_nan_is_refused_in_documents(tmp_path):
    with pytest.raises(ValueError, match="JSON"):
        write_json(tmp_path / "a.json", {"x": float("nan")})


def test_only_a_folder_with_a_recipe_is_a_run(tmp_path):
    assert not is_run(tmp_path)
    with pytest.raises(FolderError, match="runs list"):
        open_run(tmp_path)
    (tmp_path / "recipe.yaml").write_text("model: x")
    assert is_run(tmp_path)
    assert open_run(tmp_path).path == tmp_path


def test_a_folder_whose_run_was_killed_before_its_first_word_is_new(tmp_path):
    folder = RunFolder(tmp_path / "run")
    folder.create()
    with folder.lock():
        pass
    folder.require_new()
    (folder.checkpoints / "step-00000001").mkdir()
    with pytest.raises(FolderError, match="--resume"):
        folder.require_new()


def test_a_disk_without_room_for_the_run_is_told_before_it_begins(tmp_path, monkeypatch):
    folder = RunFolder(tmp_path / "run" / "deep")
    usage = folders.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(folders.shutil, "disk_usage", lambda path: usage._replace(free=1000))
    folder.require_space(1000)
    with pytest.raises(DiskFullError) as error:
        folder.require_space(1001)
    assert "checkpoint.keep" in error.value.problems[0].fix
    folder.create()
    (folder.checkpoints / "x").write_bytes(b"0" * 500)
    folder.require_space(1500)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    def half() -> None:
        with folders.staged(tmp_path / "adapter") as staging:
            (staging / "part").write_text("x")
            raise ValueError("half way")

    with pytest.raises(ValueError, match="half way"):
        half()
    assert list(tmp_path.iterdir()) == []
    for words in ("old", "new"):
        with folders.staged(tmp_path / "adapter") as staging:
            (staging / "file").write_text(words)
    assert (tmp_path / "adapter" / "file").read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["adapter"]
