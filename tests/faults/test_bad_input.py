"""Bad input is answered: a code, where it stands and what to do, without a traceback, all at once and at once."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import bad_models, bad_recipes, bad_rows, bad_words
from tests.faults.trying import Case, check
from tests.folders import make_model

TABLES = {
    "recipe": bad_recipes.CASES,
    "rows": bad_rows.CASES,
    "model": bad_models.CASES,
    "words": bad_words.CASES,
}
EVERY = {f"{table}: {case.name}": case for table, cases in TABLES.items() for case in cases}
SECONDS = 2.0  # of the processor, until the message, where no model is loaded
READS_A_GIGABYTE = "rows: a line of 1 GB"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds a good model."""
    folder = tmp_path_factory.mktemp("bad")
    make_model(folder / "model")
    return folder


# mutation tried: require_whole looks at nothing; a recipe's unknown keys are ignored
@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=pytest.mark.slow) if name == READS_A_GIGABYTE else name for name in EVERY],
)
def test_it_is_told_what_where_and_what_to_do(
    name: str, base: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = base / f"case-{list(EVERY).index(name)}"
    folder.mkdir()
    monkeypatch.chdir(folder)  # a path that is not absolute lands here
    case: Case = EVERY[name]
    seconds = check(case, folder, base / "model")
    if "train" not in case.words and name != READS_A_GIGABYTE:
        assert seconds < SECONDS
    assert not (folder / "CANARY").exists(), "a pickle was opened"


def test_the_table_is_as_long_as_promised() -> None:
    assert len(EVERY) >= 150
    assert len(EVERY) == sum(map(len, TABLES.values())), "two cases of one name"
