"""kill -9 and SIGTERM of verbs: nothing half done passes for whole, a run is untouched, again gives the same bytes."""

from __future__ import annotations

import json
import random
import shutil
import signal
import time
from pathlib import Path

import pytest

from tests.faults.verb_kills import bytes_of, carry_out
from tests.folders import make_model, write_rows
from tunesmith import run
from tunesmith.recipe import parse

EXPORTS = {
    "merged": (["export", "run", "--to", "merged"], "run/exports/merged"),
    "adapter": (["export", "run", "--to", "adapter"], "run/exports/adapter"),
    "sum": (["export", "model", "--adapter", "run=0.5", "--to", "merged", "--out", "out/sum"], "out/sum"),
}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, its data and a run of three steps."""
    place = tmp_path_factory.mktemp("verbs") / "place"
    make_model(place / "model")
    write_rows(place / "rows.jsonl")
    (place / "out").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(place)
        run.train(
            parse(
                {
                    "model": "model", "output": "run", "tuning": {"method": "lora", "rank": 2},
                    "data": {"train": "rows.jsonl", "validation": 3, "max_length": 128},
                    "optim": {"lr": 1e-2, "batch_tokens": 64}, "budget": {"steps": 2},
                    "compute": {"precision": "fp32"}, "evaluation": {"probes": ["say 3"]},
                }
            )
        )  # fmt: skip
    return place


def copied(made: Path, place: Path) -> Path:
    shutil.copytree(made, place)
    return place


def older_export(folder: Path) -> dict[str, str]:
    """An export of another day, told from the new one by its certificate."""
    folder.mkdir(parents=True)
    (folder / "certificate.json").write_text('{"of": "another day"}')
    (folder / "model.safetensors").write_text("another day's weights")
    return bytes_of(folder)


class Exports:
    """One form of export, undisturbed once; then killed, looked at, and carried out again."""

    def __init__(self, made: Path, place: Path, form: str, older: bool) -> None:
        self.words, self.where = EXPORTS[form]
        self.made, self.place, self.older = made, place, older
        whole = self.begin("whole")
        began = time.monotonic()
        code, self.said = carry_out(self.words, whole)
        self.seconds = time.monotonic() - began
        assert code == 0
        self.expected, self.run = bytes_of(whole / self.where), bytes_of(made / "run")
        self.left = bytes_of(whole, without=("cache",))

    def begin(self, name: str) -> Path:
        place = copied(self.made, self.place / name)
        self.there = older_export(place / self.where) if self.older else {}
        return place

    def killed(self, name: str, at: int = 0, seconds: float | None = None) -> bool:
        """Whether it was killed in time; all that must hold then does."""
        place = self.begin(name)
        code, _ = carry_out(self.words, place, at, seconds)
        assert code in (0, -signal.SIGKILL)
        assert bytes_of(place / "run", without=("exports",)) == self.run
        assert bytes_of(place / self.where) in (self.there, self.expected)
        again, said = carry_out(self.words, place)
        assert again == 0
        assert json.loads(said["answer"]) == json.loads(self.said["answer"])
        assert bytes_of(place, without=("cache",)) == self.left
        shutil.rmtree(place)
        return code != 0


def test_an_export_that_is_killed_is_absent_or_whole_and_comes_again(made: Path, tmp_path: Path) -> None:
    # mutation tried: the older export deleted before the new one is there
    exports = Exports(made, tmp_path, "merged", older=True)
    changes = exports.said["changes"]
    chosen = (changes // 2, changes - 1)  # within the weights; as the folders are swapped
    assert all(exports.killed(f"at{at}", at) for at in chosen)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_merge_that_is_killed_before_each_change_of_a_file(made: Path, tmp_path: Path) -> None:
    exports = Exports(made, tmp_path, "merged", older=True)
    assert all(exports.killed(f"at{at}", at) for at in range(1, exports.said["changes"] + 1))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("older", [True, False])
@pytest.mark.parametrize("form", EXPORTS)
def test_an_export_that_is_killed_at_random_moments(
    form: str, older: bool, made: Path, tmp_path: Path
) -> None:
    exports, draw = Exports(made, tmp_path, form, older), random.Random(7)
    for n in range(3):
        assert exports.killed(f"at{n}", draw.randint(1, exports.said["changes"]))
    for n in range(3):
        exports.killed(f"n{n}", seconds=draw.uniform(0, exports.seconds))


EVAL = ["eval", "run", "--baseline", "model"]


@pytest.mark.parametrize("moments", [1, pytest.param(4, marks=pytest.mark.slow)])
def test_an_evaluation_that_is_killed_leaves_the_run_as_it_was_and_says_the_same_again(
    moments: int, made: Path, tmp_path: Path
) -> None:
    whole = copied(made, tmp_path / "whole")
    began = time.monotonic()
    code, expected = carry_out(EVAL, whole)
    seconds = time.monotonic() - began
    assert code == 0
    assert expected["changes"] > 5  # the shards of the held-out rows, in the cache
    draw = random.Random(3)
    exact = draw.sample(range(1, expected["changes"] + 1), moments)
    for at, after in [(each, None) for each in exact] + [
        (0, draw.uniform(0, seconds)) for _ in range(moments - 1)
    ]:
        place = copied(made, tmp_path / "killed")
        code, _ = carry_out(EVAL, place, at, after)
        assert code == -signal.SIGKILL or after is not None
        assert bytes_of(place, without=("cache",)) == bytes_of(made)
        again, said = carry_out(EVAL, place)
        assert again == 0
        assert json.loads(said["answer"]) == json.loads(expected["answer"])
        shutil.rmtree(place)


STOPPED = "stopped on request; nothing is left half done"


def test_an_evaluation_that_is_stopped_says_so_and_leaves_the_run_as_it_was(
    made: Path, tmp_path: Path
) -> None:
    place = copied(made, tmp_path / "place")
    code, said = carry_out(EVAL, place, at=3, by=signal.SIGTERM)
    assert code == 130
    problem = json.loads(said["answer"])["error"]["problems"][0]
    assert problem["what"] == STOPPED
    assert problem["fix"].endswith("tunesmith eval run --baseline model --json")
    assert bytes_of(place, without=("cache",)) == bytes_of(made)


# Verbs that write, and what each makes.
WRITERS = {
    "export": (EXPORTS["merged"][0], ["run/exports"]),
    "convert": (["data", "convert", "rows.jsonl", "--to", "messages", "--out", "new.jsonl"], ["new.jsonl"]),
    "split": (["data", "split", "rows.jsonl", "--validation", "3", "--out", "parts"], ["parts"]),
    "sample": (["data", "sample", "rows.jsonl", "--number", "5", "--out", "new.jsonl"], ["new.jsonl"]),
    "augment": (["data", "augment", "long.jsonl", "--out", "new.jsonl"], ["new.jsonl"]),
    "clean": (["data", "clean", "rows.jsonl", "--out", "cleaned"], ["cleaned"]),
    "vocab": (
        ["vocab", "--data", "long.jsonl", "--model", "model", "--output", "new", "--tokens", "4", "--min-count", "2"],
        ["new"],
    ),
    "init": (["init", "--model", "model", "--data", "rows.jsonl"], ["recipe.yaml", "recipe.general.jsonl"]),
}  # fmt: skip


def _made_since(before: dict[str, str], place: Path) -> dict[str, str]:
    """What stands there by now, as sums; of the one file that tells speeds, its keys."""
    after = bytes_of(place, without=("cache",))
    if (speeds := "new/vocabulary.json") in after:
        after[speeds] = str(sorted(json.loads((place / speeds).read_text())))
    return {path: digest for path, digest in after.items() if before.get(path) != digest}


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("verb", WRITERS)
def test_a_verb_that_is_stopped_at_any_change_of_a_file_leaves_nothing_half_done(
    verb: str, made: Path, tmp_path: Path
) -> None:
    words, makes = WRITERS[verb]
    begun = copied(made, tmp_path / "begun")
    row = {"prompt": "what do you say of the old house by the river", "response": "it is a big old house"}
    (begun / "long.jsonl").write_text("".join(json.dumps(row | {"n": n}) + "\n" for n in range(12)))
    before = bytes_of(begun)
    code, said = carry_out(words, whole := copied(begun, tmp_path / "whole"))
    assert code == 0
    made_whole = _made_since(before, whole)
    assert made_whole
    assert all(path.startswith(tuple(makes)) for path in made_whole)
    changes = said["changes"]  # a stop is heard at the next line of Python: neighbours are much alike
    for at in sorted({1, 2, changes // 2, *range(max(1, changes - 4), changes + 1)}):
        place = copied(begun, tmp_path / f"at{at}")
        code, stopped = carry_out(words, place, at, by=signal.SIGTERM)
        assert code == 130
        assert STOPPED in stopped["answer"]
        left = _made_since(before, place)
        # each file is whole; and of an export or a new model all are there, or none
        assert left.items() <= made_whole.items()
        assert left in ({}, made_whole), (at, left)
        if not left:
            assert carry_out(words, place)[0] == 0
        shutil.rmtree(place)
