"""Data sets on the hub, which is a stub here: fetched, told apart, and refused in seconds when offline."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tunesmith.data.hub import may_be_hub

ROW = json.dumps({"question": "q", "answer": "a"}).encode()
FILES = {
    "org/good": ["README.md", "train.jsonl", "test.jsonl"],
    "org/two": ["en/train.jsonl", "zh/train.jsonl"],
    "org/none": ["README.md"],
}


class _Hub(BaseHTTPRequestHandler):
    def _answer(self, body: bool) -> None:
        name = next((name for name in FILES if f"/{name}" in self.path), None)
        if name is None:
            self._send(404, b"", {"X-Error-Code": "RepoNotFound"}, body)
        elif "/api/" in self.path:
            siblings = [{"rfilename": file} for file in FILES[name]]
            tree = [{"type": "file", "path": file, "size": len(ROW), "oid": "a"} for file in FILES[name]]
            answer = tree if "/tree/" in self.path else {"id": name, "sha": "0" * 40, "siblings": siblings}
            self._send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"}, body)
        else:
            self._send(200, ROW, {"ETag": '"abc"', "X-Repo-Commit": "0" * 40}, body)

    def _send(self, status: int, content: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(key, value)
        self.end_headers()
        if body:
            self.wfile.write(content)

    def do_GET(self) -> None:
        self._answer(body=True)

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def log_message(self, *_: Any) -> None:
        """Silent."""


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[Callable[..., str]]:
    """A function that reads a source in a new process whose hub is a stub."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()

    def ask(path: str, endpoint: str = f"http://127.0.0.1:{server.server_port}") -> str:
        code = (
            "from tunesmith.data.sources import read_rows; from tunesmith.recipe import Source\n"
            "from tunesmith.errors import DataError\n"
            f"try: print([row.address for row in read_rows(Source(path={path!r}))])\n"
            "except DataError as error: print(error)\n"
        )
        environment = {"HF_ENDPOINT": endpoint, "HF_HOME": str(tmp_path), "PATH": "", "NO_PROXY": "*"}
        done = subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, env=environment
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    yield ask
    server.shutdown()
    server.server_close()


def test_a_data_set_is_fetched_and_its_train_split_read(hub: Callable[..., str]) -> None:
    assert hub("org/good") == "['org/good/train.jsonl:1']"
    assert hub("org/good/t*.jsonl") == "['org/good/test.jsonl:1', 'org/good/train.jsonl:1']"


# mutation tried: taking the first of two
def test_what_would_be_a_guess_or_is_not_there_is_told(hub: Callable[..., str]) -> None:
    assert "several data sets or splits: en/train.jsonl, zh/train.jsonl" in hub("org/two")
    assert "no data files" in hub("org/none")
    assert "no data set on the hub" in hub("org/missing")


def test_offline_it_is_told_in_seconds(hub: Callable[..., str]) -> None:
    start = time.perf_counter()
    assert "cannot be reached" in hub("org/good", endpoint="http://127.0.0.1:9")
    assert time.perf_counter() - start < 20


def test_a_misspelt_local_path_is_not_looked_for_on_the_hub(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    assert not may_be_hub("data/trian")
    assert not may_be_hub("missing/train.jsonl")
    assert not may_be_hub("/tmp/a/b.jsonl")
    assert may_be_hub("org/name")
