"""Streams: read from a place on, learnt in windows, resumed exactly, accounted for, and let go."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.data.byte_tokenizer import byte_template, byte_tokenizer
from tunesmith.data.prepare import prepare
from tunesmith.data.streaming import reading
from tunesmith.data.streaming.plan import StreamPlan
from tunesmith.data.streaming.reading import Place, read_stream
from tunesmith.errors import DataError, DiskFullError
from tunesmith.events import Silent
from tunesmith.recipe import Data, Source

ENDLESS = """
def rows(start):
    for n in range(start, {end}):
        yield {{"prompt": f"q{{n}}", "response": f"a{{n}}"}}
"""
NEVER = 10**9


@pytest.fixture(autouse=True)
def alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_WORKERS", "0")
    monkeypatch.chdir(tmp_path)


def function(path: Path, end: int = NEVER) -> str:
    path.write_text(ENDLESS.format(end=end))
    return f"{path}:rows"


def lines(path: Path, start: int, stop: int) -> Path:
    with open(path, "a") as file:
        for n in range(start, stop):
            file.write(json.dumps({"prompt": f"q{n}", "response": f"a{n}"}) + "\n")
    return path


def planned(train: Any, kept: Path | None = None, steps: int = 30, **options: Any) -> StreamPlan:
    seed = options.pop("seed", 0)
    data = Data(train=train, **{"validation": None, "max_length": 100, **options})
    found = prepare(data, "sft", byte_tokenizer(), byte_template(), seed)  # type: ignore[arg-type]
    assert found.streams is not None
    plan = StreamPlan(found.streams, found.train, data, steps, 100, None, seed, kept)
    plan.with_head(found.ledger)
    return plan


def stream(path: str, window: int = 8, **options: Any) -> dict[str, Any]:
    return {"path": path, "stream": {"window": window, **options.pop("stream", {})}, **options}


def learnt(plan: StreamPlan, start: int = 0, stop: int = 30) -> list[list[str]]:
    """The addresses of each step."""
    return [[sample.address for sample in plan.samples([], step)] for step in range(start, stop)]


def begun(plan: StreamPlan, folder: Path, visit: Callable[[str], object] = lambda point: None) -> StreamPlan:
    plan.begin(folder, lambda ledger: None, Silent(), visit)
    return plan


def rows_read(rows: Iterator[tuple[Any, Place]], count: int) -> list[tuple[str, Place]]:
    return [(raw.address, place) for _, (raw, place) in zip(range(count), rows)]


# --- the order --------------------------------------------------------------------------------------------------


# mutation tried: a window shuffled without its number
def test_each_row_comes_once_shuffled_within_its_window(tmp_path: Path) -> None:
    plan = planned(stream(function(tmp_path / "s.py")))
    numbers = [int(address.rpartition(":")[2]) for step in learnt(plan) for address in step]
    windows = [numbers[at : at + 8] for at in range(0, len(numbers) - 8, 8)]
    assert len(windows) > 5
    for place, window in enumerate(windows):
        assert sorted(window) == list(range(8 * place + 1, 8 * place + 9))
    orders = {tuple(number - min(window) for number in window) for window in windows}
    assert len(orders) == len(windows), "each window has an order of its own"


def test_the_order_is_that_of_the_seed_whoever_makes_the_shards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = stream(function(tmp_path / "s.py"))
    here = learnt(planned(source))
    monkeypatch.delenv("TUNESMITH_WORKERS")
    plan = begun(planned(source), tmp_path / "run")
    try:
        assert learnt(plan) == here
    finally:
        plan.close()
    assert learnt(planned(source, seed=1)) != here


def test_finite_sources_come_by_weight_and_over_again(tmp_path: Path) -> None:
    finite = str(lines(tmp_path / "few.jsonl", 900_000, 900_006))
    plan = planned([stream(function(tmp_path / "s.py")), {"path": finite, "weight": 3}], steps=60)
    plan.is_over(59)
    ledger = plan.ledger(plan.with_head(plan._ledger), 60)  # type: ignore[arg-type]
    mine, few = ledger.sources
    assert (mine.requested_share, few.requested_share) == (0.25, 0.75)
    assert mine.realised_share == pytest.approx(0.25, abs=0.03)
    assert few.repeats > 5


def test_two_streams_are_read_side_by_side(tmp_path: Path) -> None:
    one, two = stream(function(tmp_path / "a.py")), stream(function(tmp_path / "b.py"), weight=2)
    addresses = [address for step in learnt(planned([one, two])) for address in step]
    share = sum("b.py" in address for address in addresses) / len(addresses)
    assert share == pytest.approx(2 / 3, abs=0.05)
    assert len(set(addresses)) == len(addresses)


# --- resuming ---------------------------------------------------------------------------------------------------


# mutation tried: a resumed feed that reads on from the place of the first shard
@pytest.mark.parametrize("stopped", [3, 11, 26])
def test_a_stream_goes_on_exactly_where_it_was(tmp_path: Path, stopped: int) -> None:
    source = [
        stream(function(tmp_path / "s.py")),
        {"path": str(lines(tmp_path / "f.jsonl", 0, 9)), "weight": 0.5},
    ]
    whole = learnt(planned(source))
    plan = begun(planned(source), tmp_path / "run")
    learnt(plan, 0, stopped)
    plan.release(stopped, stopped - 2)
    plan.close()
    again = begun(planned(source, tmp_path / "run"), tmp_path / "run")
    assert learnt(again, stopped - 2) == whole[stopped - 2 :]
    assert again.ledger(plan._ledger, 30).to_json() == plan_ledger(source)  # type: ignore[arg-type]
    again.close()


def plan_ledger(source: Any) -> dict[str, Any]:
    plan = planned(source)
    plan.is_over(29)
    return plan.ledger(plan._ledger, 30).to_json()  # type: ignore[arg-type]


def test_what_no_checkpoint_needs_is_let_go(tmp_path: Path) -> None:
    plan = begun(planned(stream(function(tmp_path / "s.py")), steps=400), tmp_path / "run")
    sizes = []
    for step in range(0, 400, 10):
        learnt(plan, step, step + 10)
        plan.release(step + 10, step)
        sizes.append(len(list((tmp_path / "run").rglob("shard-*.bin"))))
        assert len((tmp_path / "run" / "windows.jsonl").read_text().splitlines()) < 12
    plan.close()
    assert max(sizes) < 12
    # how far the reader is ahead at one moment is chance, that it stays there is not
    assert sum(sizes[20:]) / len(sizes[20:]) <= sum(sizes[:10]) / 10 + 1
    with pytest.raises(DataError, match="let go"):
        plan.rows_of(200)
    assert plan.rows_of(0).size, "the head stays: methods may look at the first rows again"


# mutation tried: held_bytes without what lies between the checkpoints
def test_what_a_stream_takes_on_the_disk_is_known_beforehand(tmp_path: Path) -> None:
    plan = begun(planned(stream(function(tmp_path / "s.py")), steps=200), tmp_path / "run")
    forecast, most = plan.held_bytes(20), 0
    for step in range(0, 200, 10):
        learnt(plan, step, step + 10)
        shards = (tmp_path / "run").rglob("shard-*")
        most = max(most, sum(-(-path.stat().st_size // 4096) * 4096 for path in shards))
        plan.release(step + 10, step - 10)
    plan.close()
    assert 0.5 * forecast < most < 1.15 * forecast  # ten shards, and at times one that was just made


# mutation tried: a source that is known whole in an order without `joined`
@pytest.mark.parametrize("streamed", [False, True])
def test_rows_of_one_dialogue_stay_together(tmp_path: Path, streamed: bool) -> None:
    """Beside a stream as without one, and in the stream itself: row after row goes on with the one before."""
    with open(tmp_path / "talk.jsonl", "w") as file:
        for talk in range(20):
            turns: list[dict[str, str]] = []
            for turn in range(3):
                turns += [
                    {"role": "user", "content": f"{talk}q{turn}"},
                    {"role": "assistant", "content": f"a{turn}"},
                ]
                file.write(json.dumps({"messages": turns}) + "\n")
    talks, endless = str(tmp_path / "talk.jsonl"), stream(function(tmp_path / "s.py"), window=12)
    plan = planned(stream(talks, window=12) if streamed else [endless, talks])
    rows = [
        int(address.rpartition(":")[2]) - 1
        for step in learnt(plan, 0, 12 if streamed else 30)
        for address in step
        if "talk" in address
    ]
    beginnings = [place for place, row in enumerate(rows[:-2]) if row % 3 == 0]
    assert len(beginnings) > 3
    together = [rows[place : place + 3] == [rows[place] + n for n in range(3)] for place in beginnings]
    assert sum(together) >= len(together) - 3, "but where a window ends"
    assert rows != sorted(rows)


def test_a_token_the_model_has_no_row_for_is_told_in_any_shard(tmp_path: Path) -> None:
    def suits(ids: Any) -> None:
        seen.append(int(ids.max()))
        if len(seen) > 5:
            raise DataError.at("model.tokenizer", "no row", "use another")

    seen: list[int] = []
    source = stream(function(tmp_path / "s.py"))
    data = Data.model_validate({"train": source, "validation": None, "max_length": 100})
    found = prepare(data, "sft", byte_tokenizer(), byte_template(), 0)
    assert found.streams is not None
    plan = StreamPlan(found.streams, found.train, data, 30, 100, None, 0, None, suits)
    with pytest.raises(DataError, match="no row"):
        plan.is_over(29)
    assert len(seen) == 6


# mutation tried: StreamPlan._writing that does nothing
@pytest.mark.parametrize(
    "point", ["stream_row:5", "stream_shard:4", "stream_window:6", "stream_let_go:2", "stream_remove:2"]
)
def test_a_full_disk_at_any_point_of_the_stream_is_told_and_loses_nothing(tmp_path: Path, point: str) -> None:
    source = stream(function(tmp_path / "s.py"))
    whole = learnt(planned(source), 0, 30)
    where, number = point.split(":")
    visits = []

    def visit(name: str) -> None:
        visits.append(name)
        if name == where and visits.count(where) == int(number):
            raise OSError(errno.ENOSPC, "No space left on device")

    plan = begun(planned(source), tmp_path / "run", visit)
    reached = [0]

    def go_on() -> None:
        for done in range(0, 30, 3):
            reached[0] = done
            assert learnt(plan, done, done + 3) == whole[done : done + 3]
            plan.release(done + 3, done)

    with pytest.raises(DiskFullError) as caught:
        go_on()
    [problem] = caught.value.problems
    assert (problem.where, problem.what) == (str(tmp_path / "run"), "no space for the rows of a stream")
    assert "--resume" in problem.fix
    plan.close()
    again = begun(planned(source, tmp_path / "run"), tmp_path / "run")
    assert learnt(again, reached[0], 30) == whole[reached[0] :]
    again.close()


def test_a_torn_line_of_the_log_does_not_count(tmp_path: Path) -> None:
    source = stream(function(tmp_path / "s.py"))
    whole = learnt(planned(source))
    plan = begun(planned(source), tmp_path / "run")
    learnt(plan, 0, 12)
    plan.close()
    log = tmp_path / "run" / "windows.jsonl"
    log.write_text(log.read_text()[:-40])
    again = begun(planned(source, tmp_path / "run"), tmp_path / "run")
    assert learnt(again, 5) == whole[5:]
    again.close()


# --- rows that are not learnt -----------------------------------------------------------------------------------


# mutation tried: Streamed finds nothing among what is held out
def test_rows_of_a_validation_file_are_not_learnt_from_a_stream(tmp_path: Path) -> None:
    held = str(lines(tmp_path / "held.jsonl", 3, 6))
    plan = planned(stream(function(tmp_path / "s.py")), validation=held)
    addresses = {address.rpartition(":")[2] for step in learnt(plan) for address in step}
    assert {"3", "7"} <= addresses
    assert not {"4", "5", "6"} & addresses
    ledger = plan.ledger(plan._ledger, 30)  # type: ignore[arg-type]
    assert ledger.sources[0].reasons == {"also_in_validation": 3}
    assert [row.reason for row in ledger.rows] == ["also_in_validation"] * 3


def test_rows_drawn_for_validation_from_a_file_are_not_learnt_from_a_stream(tmp_path: Path) -> None:
    path = str(lines(tmp_path / "all.jsonl", 0, 40))
    plan = planned([stream(path), path], validation=10)
    plan.is_over(3)
    assert plan.ledger(plan._ledger, 3).sources[0].reasons["also_in_validation"] > 0  # type: ignore[arg-type]


def test_a_bad_row_of_a_stream_is_named_when_it_comes(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    lines(path, 0, 30)
    with open(path, "a") as file:
        file.write('{"prompt": "q", "response":\n')
    lines(path, 30, 60)
    plan = begun(planned(stream(str(path))), tmp_path / "run")
    with pytest.raises(DataError) as caught:
        learnt(plan)
    plan.close()
    problem, total = caught.value.problems
    assert problem.where == f"{path}:31"
    assert "broken_json" in problem.what
    assert "on_bad_row=drop" in total.fix
    path.write_text(path.read_text().replace('"response":\n', '"response": "a"}\n'))
    again = begun(planned(stream(str(path)), tmp_path / "run"), tmp_path / "run")
    assert f"{path}:31" in {address for step in learnt(again, 5, 11) for address in step}
    again.close()


def test_bad_rows_are_counted_where_they_may_be_dropped(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    for start in range(0, 100, 10):
        lines(path, start, start + 10)
        with open(path, "a") as file:
            file.write("{\n")
    plan = planned(stream(str(path)), on_bad_row="drop", steps=12)
    plan.is_over(11)
    source = plan.ledger(plan._ledger, 12).sources[0]  # type: ignore[arg-type]
    assert source.dropped == source.reasons["broken_json"] >= 3
    assert source.learnt_samples is not None
    assert 0 < source.learnt_samples <= source.whole


# --- the end, and waiting -----------------------------------------------------------------------------------------


def test_a_stream_that_ends_early_says_so_and_gives_its_last_rows(tmp_path: Path) -> None:
    plan = planned(stream(function(tmp_path / "s.py", end=21)))
    steps = next(step for step in range(31) if plan.is_over(step))
    assert sorted(len(step) for step in learnt(plan, 0, steps))
    assert sum(map(len, learnt(plan, 0, steps))) == 21
    words = plan.words_of_end(steps)
    assert words is not None
    assert "after 21 rows" in words
    assert f"step {steps} of 30" in words


def test_nobody_waits_any_longer_than_asked(tmp_path: Path) -> None:
    path = lines(tmp_path / "rows.jsonl", 0, 20)
    plan = begun(planned(stream(str(path), stream={"at_end": "wait"})), tmp_path / "run")
    assert not plan.is_over(29, lambda: False), "it is not over: someone asked to stop"
    plan.close()


def test_a_growing_file_is_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "POLL_SECONDS", 0.01)
    path = lines(tmp_path / "rows.jsonl", 0, 10)
    source = Source.model_validate(stream(str(path), stream={"at_end": "wait"}))
    with open(path, "a") as file:
        file.write('{"prompt": "half')
    rows = read_stream(source, Place())
    assert len(rows_read(rows, 10)) == 10
    with open(path, "a") as file:
        file.write(' a row", "response": "a"}\n')
    lines(path, 11, 13)
    late = rows_read(rows, 2)
    assert late[0][0] == f"{path}:11", "half a row was not taken for one"
    assert rows_read(read_stream(source, late[0][1]), 1)[0][0] == f"{path}:12"


def test_files_that_come_later_are_read_in_order_of_their_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reading, "POLL_SECONDS", 0.01)
    folder = tmp_path / "feed"
    folder.mkdir()
    lines(folder / "001.jsonl", 0, 3)
    source = Source.model_validate(stream(str(folder), stream={"at_end": "wait"}))
    rows = read_stream(source, Place())
    rows_read(rows, 2)
    lines(folder / "002.jsonl", 3, 5)
    found = rows_read(rows, 3)
    assert [address for address, _ in found] == [
        f"{folder}/{name}" for name in ("001.jsonl:3", "002.jsonl:1", "002.jsonl:2")
    ]
    assert found[-1][1].rows == 5


@pytest.mark.parametrize(
    ("text", "name", "what"),
    [
        (
            "def rows(start):\n    raise ValueError('no such table')\n    yield",
            "rows",
            "ValueError: no such table",
        ),
        ("def rows():\n    yield 1", "rows", "TypeError"),
        ("x = 1", "rows", "has no function rows"),
        ("import nothing_of_this_name", "rows", "cannot be run"),
    ],
)
def test_a_faulty_function_is_told_in_words(tmp_path: Path, text: str, name: str, what: str) -> None:
    (tmp_path / "s.py").write_text(text)
    with pytest.raises(Exception) as caught:  # noqa: PT011
        planned(stream(f"{tmp_path}/s.py:{name}", format="prompt_response"))
    assert what in caught.value.problems[0].what  # type: ignore[attr-defined]


# --- the recipe ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "what"),
    [
        ({"validation": 0.05}, "no share can be drawn"),
        ({"test": 3}, "no share can be drawn"),
        ({"limit": 5}, "leave limit out"),
        ({"mix": {"temperature": 2}}, "give each source a weight"),
    ],
)
def test_what_no_stream_can_give_is_refused(options: dict[str, Any], what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Data(train=stream("s.py:rows"), **{"validation": None, **options})
