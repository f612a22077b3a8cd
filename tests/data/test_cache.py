"""The cache: where it is, what proves that a file has not changed, what is listed and what may be cleared."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from tunesmith.app.cli import main
from tunesmith.data import cache
from tunesmith.errors import DataError


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "_SMALL", 0)
    return tmp_path / "cache"


def aged(path: Path, text: str) -> Path:
    """A file that was written a while ago, as far as its own clock says."""
    path.write_text(text)
    return path


class Counting:
    """A hash that counts how often it is computed."""

    def __init__(self, path: Path) -> None:
        self.path, self.times = path, 0

    def __call__(self) -> str:
        self.times += 1
        return self.path.read_text()


def test_a_hash_is_remembered_while_nothing_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = aged(tmp_path / "a", "one")
    compute = Counting(path)
    assert cache.remembered_hash(path, compute) == "one"
    assert cache.remembered_hash(path, compute) == "one"
    assert compute.times == 2  # it is too young to be trusted
    monkeypatch.setattr(cache, "_RACY_NS", -1)
    assert cache.remembered_hash(path, compute) == "one"
    assert cache.remembered_hash(path, compute) == "one"
    assert compute.times == 3
    before = path.stat()
    path.write_text("two")  # as long, and its time set back: the status change still tells
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert cache.remembered_hash(path, compute) == "two"
    other = aged(tmp_path / "b", "new")
    os.replace(other, path)
    assert cache.remembered_hash(path, compute) == "new"


def entry(folder: Path, key: str, days: float = 0.0) -> Path:
    made = cache.folder_of("tokens", key)
    (made / "shard-00000.bin").write_bytes(b"x" * 100)
    cache.write_document(made / "manifest.json", {"about": {"what": key, "rows": 3, "tokens": 30}})
    cache.mark_used(made)
    os.utime(made / "lease", (time.time() - 86400 * days,) * 2)
    return made


def test_clear_leaves_what_a_run_is_using_and_what_is_young(folder: Path) -> None:
    old, young, used = entry(folder, "old", 9), entry(folder, "young"), entry(folder, "used", 9)
    lease = cache.Lease(used)
    gone, kept = cache.clear(5)
    assert ([e.key for e in gone], [e.key for e in kept]) == (["old"], ["used"])
    assert not old.exists()
    assert young.exists()
    del lease
    assert len(cache.clear()[0]) == 2
    assert cache.entries() == []


def test_list_names_what_is_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry(folder, "a.jsonl")
    (folder / "tokens" / "half").mkdir()
    first, second = sorted(cache.entries(), key=lambda each: each.key)
    assert (first.what, first.rows, first.complete) == ("a.jsonl", 3, True)
    assert not second.complete
    assert main(["cache", "list", "--json"]) == 0
    assert '"a.jsonl"' in capsys.readouterr().out
    assert main(["cache", "list"]) == 0
    assert main(["cache", "clear", "--json"]) == 0
    assert '"freed_bytes"' in capsys.readouterr().out
    assert main(["cache", "clear", "--days", "-1"]) == 2
    assert main(["cache", "list"]) == 0


def test_a_cache_that_cannot_be_made_says_what_to_set(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TUNESMITH_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(DataError, match="TUNESMITH_CACHE"):
        cache.folder_of("tokens", "k")
    monkeypatch.delenv("TUNESMITH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(tmp_path))
    assert str(cache.folder_of("tokens", "k")).startswith(str(tmp_path / "tunesmith-cache-"))
