"""Bad input is answered: a code, where it stands and what to do, without a traceback, all at once and at once."""

from __future__ import annotations

import contextlib
import copy
import io
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from tests.faults import bad_models, bad_recipes, bad_rows, bad_words
from tests.faults.trying import Case, check
from tests.folders import make_model
from tunesmith.app.cli import main
from tunesmith.errors import Problem, RecipeError
from tunesmith.recipe import Recipe, dump, parse
from tunesmith.recipe.plain_yaml import parse_yaml

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


GOOD: dict[str, Any] = {
    "model": {"path": "m", "dtype": "auto"}, "data": {"train": [{"path": "a.jsonl"}], "validation": 0.1, "mix": {}},
    "tuning": {"method": "lora", "rank": 4}, "objective": "sft", "optim": {"lr": 1e-3, "warmup": 0.1},
    "budget": {"steps": 3}, "compute": {}, "evaluation": {"tasks": [{"name": "a", "kind": "loss", "path": "b"}]},
    "checkpoint": {}, "rescue": {}, "sharding": {}, "track": [], "seed": 0, "output": "runs/x",
}  # fmt: skip
KEYS = sorted(
    {
        f"{key}.{part}".rstrip(".")
        for key, field in Recipe.model_fields.items()
        for part in (*getattr(field.annotation, "model_fields", {}), "", "odd", "0", "0.path")
    }
)
NAMES = sorted(
    {key.rsplit(".", 1)[-1] for key in KEYS} | {"method", "steps", "rank", "name", "kind", "window"}
)
SCRAPS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.dates()
    | st.binary(max_size=3)
)
USUAL = [1, 0.5, -1, "auto", "lora", "qlora", "full", "1e-3", [], {}, 10**400, {"path": "a"}, {1: 2}]
VALUES = st.recursive(
    SCRAPS | st.sampled_from(USUAL),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(NAMES) | st.text(max_size=3), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(changes=st.lists(st.tuples(st.sampled_from(KEYS), VALUES), min_size=1, max_size=4))
# found by runs of this test
@example(changes=[("data.tags", [[]])])
@example(changes=[("model.revision", "7e12345")])
@example(changes=[("tuning", {"method": []})])
@example(changes=[("stages", [{"[": None}])])
@example(changes=[("model.revision", "\xa0")])
def test_whatever_a_recipe_holds_is_answered(changes: list[tuple[str, Any]]) -> None:
    """Random values at random keys of a good recipe: taken, and written and read back the same, or told in words."""
    values = copy.deepcopy(GOOD)
    for key, value in changes:
        *parents, last = key.split(".")
        here: Any = values
        for name in parents:
            here = here.get(name) if isinstance(here, dict) else None
        if isinstance(here, dict):
            here[last] = value
    problems: tuple[Problem, ...] = ()
    try:
        found = parse(values)
    except RecipeError as error:
        problems = error.problems
    else:
        assert parse(parse_yaml(dump(found), "again")) == found
    assert all(problem.where and problem.what and problem.fix for problem in problems)


WORDS = st.sampled_from(
    ["nothing", "--json", "--help", "--", "-", "", "--rows", "--out", "=", "a=b", "seed=1", "--model", "nothing=1",
     "\0", "--prompt", "--to", "merged", "--resume", "--steps", "-1", "1e9", "nan", "../..", "--tasks", "--png", "失眠"]
) | st.text(max_size=5)  # fmt: skip
VERBS = ["train", "plan", "eval", "chat", "export", "runs show", "runs compare", "methods", "import", "lr-find",
         "sweep", "data show", "data stats", "vocab", "init", "tarin", ""]  # fmt: skip


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(verb=st.sampled_from(VERBS), words=st.lists(WORDS, max_size=5))
def test_whatever_words_are_typed_is_answered(verb: str, words: list[str]) -> None:
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main([*verb.split(), *words])
    assert code in (0, 2), (verb, words, err.getvalue())
    assert "Traceback" not in err.getvalue()


def test_the_table_is_as_long_as_promised() -> None:
    assert len(EVERY) >= 350
    assert len(EVERY) == sum(map(len, TABLES.values())), "two cases of one name"
