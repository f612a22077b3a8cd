"""Rows 2 to 14 of the fault matrix: what disks and folders do to checkpoints, and what stays."""

from __future__ import annotations

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.engine.test_loop import DROPOUT_LORA, make_run, same_bits
from tunesmith.engine import checkpoint, faults, store
from tunesmith.engine.checkpoint import verify
from tunesmith.engine.store import CheckpointStore
from tunesmith.errors import CheckpointError, DiskFullError, FolderError
from tunesmith.events import read


@pytest.fixture(autouse=True)
def _no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TUNESMITH_FAULT", raising=False)
    monkeypatch.setattr(store, "WAIT_SECONDS", 0.001)
    faults.forget_visits()


def checkpoints(folder: Path, keep: int = 2) -> CheckpointStore:
    return CheckpointStore(folder / "checkpoints", keep)


def rescued(folder: Path) -> list[dict[str, Any]]:
    return [event for event in read(folder / "events.jsonl") if event["kind"] == "rescued"]


def saved_steps(folder: Path) -> list[int]:
    return [event["step"] for event in read(folder / "events.jsonl") if event["kind"] == "saved"]


@pytest.mark.parametrize(
    "point", ["save_weights", "save_optimizer", "save_state", "save_manifest", "save_rename"]
)
@pytest.mark.parametrize("action", ["enospc", "eio,eio,eio", "erofs"])
def test_a_disk_that_refuses_costs_a_checkpoint_and_not_the_run(
    point: str, action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = make_run(tmp_path / "whole", tuning=DROPOUT_LORA)
    visits = range(2, 9)
    asked = ",".join(f"{point}:{at}:{one}" for at, one in zip(visits, action.split(",")))
    monkeypatch.setenv("TUNESMITH_FAULT", asked)
    faults.forget_visits()
    _, weights = make_run(tmp_path / "full", tuning=DROPOUT_LORA)
    assert same_bits(whole, weights)
    assert saved_steps(tmp_path / "full") == [2, 6, 8]
    [event] = rescued(tmp_path / "full")
    assert "checkpoint of step 4 given up" in event["action"]
    assert checkpoints(tmp_path / "full").whole() == [6, 8]
    assert not list((tmp_path / "full" / "checkpoints").glob(".*"))


def test_an_unsteady_disk_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_FAULT", "save_weights:2:eio,save_rename:2:eio")
    make_run(tmp_path)
    assert saved_steps(tmp_path) == [2, 4, 6, 8]
    assert rescued(tmp_path) == []


@pytest.mark.parametrize(("action", "error"), [("enospc", DiskFullError), ("erofs", FolderError)])
def test_a_last_checkpoint_that_cannot_be_kept_is_an_error_and_the_one_before_stays(
    action: str, error: type[Exception], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_FAULT", f"save_state:4:{action}")
    with pytest.raises(error, match="--resume"):
        make_run(tmp_path, tuning=DROPOUT_LORA)
    assert checkpoints(tmp_path).whole() == [4, 6]
    monkeypatch.delenv("TUNESMITH_FAULT")
    _, again = make_run(tmp_path, tuning=DROPOUT_LORA)
    assert same_bits(again, make_run(tmp_path / "whole", tuning=DROPOUT_LORA)[1])


def test_an_error_that_is_not_the_disks_is_not_taken_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_FAULT", "save_state:2:raise")
    with pytest.raises(RuntimeError, match="injected"):
        make_run(tmp_path)


def test_a_folder_that_has_gone_ends_the_run_and_leaves_no_half_of_one(tmp_path: Path) -> None:
    class Mover:
        """Moves the run folder away once a checkpoint is in it."""

        def event(self, event: Any) -> None:
            if event.kind == "saved" and event.step == 2:
                (tmp_path / "run").rename(tmp_path / "elsewhere")

        def progress(self, *_: Any) -> None:
            pass

    with pytest.raises(FolderError, match="has gone"):
        make_run(tmp_path / "run", tuning=DROPOUT_LORA, listener=Mover())
    assert not (tmp_path / "run").exists()
    assert checkpoints(tmp_path / "elsewhere").whole() == [2]
    (tmp_path / "elsewhere").rename(tmp_path / "run")
    _, again = make_run(tmp_path / "run", tuning=DROPOUT_LORA)
    assert same_bits(again, make_run(tmp_path / "whole", tuning=DROPOUT_LORA)[1])


def test_a_file_limit_met_for_real_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    """RLIMIT_FSIZE in a process of its own: write(2) itself fails, within safetensors."""
    import subprocess
    import sys

    code = f"""
import resource, signal
from pathlib import Path
from tests.engine.test_loop import DROPOUT_LORA, make_run
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path({str(tmp_path)!r})
make_run(folder, tuning=DROPOUT_LORA, stop_after=3)
resource.setrlimit(resource.RLIMIT_FSIZE, (9_000, 9_000))
make_run(folder, tuning=DROPOUT_LORA)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert "DiskFullError" in done.stderr, done.stderr[-2000:]
    assert checkpoints(tmp_path).whole() == [2, 3]
    assert any(event["reason"] == "disk full" for event in rescued(tmp_path))


# --- what lies on the disk is not what was written ---


FILES = ["weights.safetensors", "optimizer.safetensors", "state.json", "manifest.json"]


def damage(path: Path, how: str) -> None:
    match how:
        case "truncated":
            os.truncate(path, path.stat().st_size - 10)
        case "flipped":
            content = bytearray(path.read_bytes())
            content[len(content) // 2] ^= 1
            path.write_bytes(bytes(content))
        case "missing":
            path.unlink()
        case "empty":
            path.write_bytes(b"")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("how", ["truncated", "flipped", "missing", "empty"])
def test_a_damaged_checkpoint_is_passed_over_by_name_and_the_older_one_is_used(
    file: str, how: str, tmp_path: Path, run_of_eight: tuple[Path, dict[str, torch.Tensor]]
) -> None:
    source, whole = run_of_eight
    shutil.copytree(source, tmp_path / "run")
    damage(tmp_path / "run" / "checkpoints" / "step-00000008" / file, how)
    _, again = make_run(tmp_path / "run", tuning=DROPOUT_LORA)
    assert same_bits(whole, again)
    [event] = [e for e in rescued(tmp_path / "run") if "passed over" in e["reason"]]
    assert file in event["reason"] or (file == "manifest.json" and "sha256 differs" in event["reason"])
    assert event["action"] == "resume from step-00000006"


@pytest.fixture(scope="module")
def run_of_eight(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, torch.Tensor]]:
    folder = tmp_path_factory.mktemp("runs") / "whole"
    _, weights = make_run(folder, tuning=DROPOUT_LORA)
    return folder, weights


def test_where_none_is_whole_the_run_does_not_quietly_begin_anew(
    tmp_path: Path, run_of_eight: tuple[Path, Any]
) -> None:
    shutil.copytree(run_of_eight[0], tmp_path / "run")
    for step in (6, 8):
        damage(tmp_path / "run" / "checkpoints" / f"step-{step:08d}" / "optimizer.safetensors", "missing")
    with pytest.raises(CheckpointError) as error:
        make_run(tmp_path / "run", tuning=DROPOUT_LORA)
    assert [problem.what for problem in error.value.problems] == ["optimizer.safetensors is missing"] * 2
    assert {Path(problem.where).name for problem in error.value.problems} == {
        "step-00000006",
        "step-00000008",
    }


def test_the_newest_is_found_by_step_and_neither_by_time_nor_by_latest(
    tmp_path: Path, run_of_eight: tuple[Path, Any]
) -> None:
    """A clock that jumps, and a kill between rename and pointer."""
    shutil.copytree(run_of_eight[0], tmp_path / "run")
    folder = tmp_path / "run" / "checkpoints"
    (folder / "latest").write_text("step-00000006\n")
    for path in (folder / "step-00000006").iterdir():
        os.utime(path, (4e9, 4e9))
    for path in (folder / "step-00000008").iterdir():
        os.utime(path, (0, 0))
    assert checkpoints(tmp_path / "run").newest()[0] == folder / "step-00000008"
    shutil.rmtree(folder / "step-00000008")
    (folder / "latest").unlink()
    assert checkpoints(tmp_path / "run").newest()[0] == folder / "step-00000006"


def test_a_checkpoint_of_schema_1_goes_on(tmp_path: Path) -> None:
    """Written by the first version, whose rows came in another order: it is read and ends; numbers are its own."""
    source = Path(__file__).parent / "schema1"
    shutil.copytree(source, tmp_path / "run" / "checkpoints")
    result, again = make_run(tmp_path / "run", tuning=DROPOUT_LORA)
    assert (result.status, result.progress.step) == ("done", 8)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in again.values())
    assert json.loads((tmp_path / "run/checkpoints/step-00000008/state.json").read_text())["schema"] == 2


# --- what is kept ---


def test_keep_spares_the_best_and_the_newest_good_one(tmp_path: Path) -> None:
    _, _ = make_run(tmp_path, tuning=DROPOUT_LORA, checkpoint={"keep": 1})
    kept = checkpoints(tmp_path, keep=1)
    snapshot = checkpoint.read(kept.newest()[0])
    for step, good in ((10, True), (12, False), (14, False), (16, False)):
        state = {**snapshot.state, "good": good}
        from dataclasses import replace

        kept.save(replace(snapshot, step=step, state=state), best_step=8)
    assert kept.steps() == [8, 10, 16]


def test_nothing_is_deleted_while_the_newest_does_not_verify(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, tuning=DROPOUT_LORA, stop_after=4)
    monkeypatch.setattr(store, "verify", lambda path: "broken" if path.name.endswith("6") else verify(path))
    make_run(tmp_path, tuning=DROPOUT_LORA, stop_after=6)
    assert checkpoints(tmp_path).steps() == [2, 4, 6]


def test_training_goes_on_while_a_checkpoint_is_written_and_the_copy_is_of_its_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, whole = make_run(tmp_path / "whole", tuning=DROPOUT_LORA, stop_after=2)
    gate, stepped = threading.Event(), []
    real = checkpoint.write

    def held_up(folder: Path, snapshot: Any) -> None:
        gate.wait(60)
        real(folder, snapshot)

    class Listener:
        def event(self, event: Any) -> None:
            if event.kind == "stepped":
                stepped.append(event.step)
                if event.step == 4:  # two steps while step 2 was not yet written
                    assert not (tmp_path / "slow/checkpoints/step-00000002").exists()
                    gate.set()

        def progress(self, *_: Any) -> None:
            pass

    monkeypatch.setattr(checkpoint, "write", held_up)
    make_run(
        tmp_path / "slow", tuning=DROPOUT_LORA, stop_after=5, checkpoint={"keep": 9}, listener=Listener()
    )
    assert stepped == [1, 2, 3, 4, 5]
    written = checkpoint.read(tmp_path / "slow/checkpoints/step-00000002").weights
    assert same_bits(dict(written), whole)


@pytest.mark.parametrize("room", [0, None])
def test_where_there_is_no_room_for_a_copy_training_waits_and_ends_the_same(
    room: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tunesmith.engine import keeping

    _, whole = make_run(tmp_path / "whole", tuning=DROPOUT_LORA)
    if room is None:
        monkeypatch.setenv("TUNESMITH_FAULT", "save_copy:1:oom,save_copy:2:oom")
    else:
        monkeypatch.setattr(keeping, "free_bytes", lambda: room)
    faults.forget_visits()
    assert same_bits(whole, make_run(tmp_path / "tight", tuning=DROPOUT_LORA)[1])
    assert saved_steps(tmp_path / "tight") == [2, 4, 6, 8]
