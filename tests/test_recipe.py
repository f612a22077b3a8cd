"""The recipe: YAML without its traps, overrides, aliases, and every problem at once with a way out."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from tunesmith import recipe as recipes
from tunesmith.errors import RecipeError
from tunesmith.recipe import diff, dump, load, parse, steps_of
from tunesmith.recipe.plain_yaml import parse_yaml, write_yaml

SMALL: dict[str, Any] = {"model": "m", "data": {"train": "a.jsonl"}}

DESIGN = """
model: Qwen/Qwen2.5-0.5B-Instruct
data:
  train:
    - {path: data/domain.jsonl}
    - {path: data/general.jsonl, weight: 5}
  validation: 0.05
  test: null
  template: auto
  max_length: 2048
  overlength: keep_last_turns
  on_bad_row: error
  limit: null
  packing: true
  tags: null
tuning: {method: lora, rank: 16}
objective: sft
optim: {lr: auto, schedule: cosine, warmup: 0.03, batch_tokens: 16384, batch_growth: null, grad_clip: 1.0,
        weight_decay: 0.1, optimizer: adamw}
budget: {epochs: 1}
compute: {precision: auto, checkpointing: auto, micro_tokens: auto, deterministic: true}
evaluation: {every: 0.1, tasks: [], probes: [], early_stop: null}
checkpoint: {every: 0.1, keep: 2}
rescue: {}
sharding: {devices: auto}
track: []
seed: 0
output: runs/my-first-run
stages: []
"""


def problems(values: dict[str, Any]) -> list[str]:
    with pytest.raises(RecipeError) as error:
        parse(values)
    return [f"{p.where} | {p.what} | {p.fix}" for p in error.value.problems]


def test_the_whole_recipe_of_the_design_is_read_and_is_the_default():
    read = parse(parse_yaml(DESIGN, "design"))
    small = {
        "model": "Qwen/Qwen2.5-0.5B-Instruct",
        "data": {"train": list(read.model_dump()["data"]["train"])},
    }
    assert read == parse(small)


def test_what_is_dumped_is_what_is_loaded(tmp_path: Path):
    for values in (
        SMALL,
        {**SMALL, "tuning": "full", "budget": {"tokens": 5}, "optim": {"batch_growth": {"start_tokens": 9}}},
        {
            **SMALL,
            "tuning": {"method": "freeze", "modules": ["lm_head"]},
            "evaluation": {"every": 3, "probes": ["你好"]},
        },
        {
            "model": {"from_config": {"hidden_size": 8}, "tokenizer": "t"},
            "data": {"train": ["a.txt", "b.txt"]},
        },
    ):
        path = tmp_path / "recipe.yaml"
        path.write_text(dump(parse(values)), encoding="utf-8")
        assert load(path) == parse(values)


def test_yaml_numbers_in_scientific_notation_are_numbers():
    # mutation tried: yaml.SafeLoader's own float pattern, for which 2e-5 is text
    assert parse_yaml("a: 2e-5\nb: 1E3\nc: 3.5e+2\nd: '2e-5'", "t") == {
        "a": 2e-5,
        "b": 1e3,
        "c": 350.0,
        "d": "2e-5",
    }
    assert parse({**SMALL, "optim": parse_yaml("{lr: 2e-5}", "t")}).optim.lr == 2e-5


# mutation tried: PyYAML's own SafeDumper, which leaves the short name of a commit, 7e12345, without quotes
@pytest.mark.parametrize("flow", [False, True])
@given(
    text=st.text()
    | st.from_regex(r"[-+]?[0-9_]*\.?[0-9_]*([eE][-+]?[0-9]+)?", fullmatch=True)
    | st.sampled_from(["7e12345", "2026-11-27", "1:30", "yes", "~", "null", "0x1f", ".5", "=", "<<", ".inf"])
    | st.text(alphabet="\x85\xa0\u2028\ufeff\t\n a")
)
def test_text_that_is_written_is_read_as_text(text: str, flow: bool):
    for value in (text, [text], {"key": text}):
        assert parse_yaml(write_yaml(value, flow=flow), "again") == value


def test_a_key_that_stands_twice_is_named_with_both_lines():
    with pytest.raises(RecipeError, match=r"r.yaml:3: .*'a' stands twice \(first on line 1\)"):
        parse_yaml("a: 1\nb: 2\na: 3", "r.yaml")


def test_every_key_that_stands_twice_is_told() -> None:
    # mutation tried: only the first noted
    with pytest.raises(RecipeError) as error:
        parse_yaml("a: 1\na: 2\nb: {c: 1, d: 2,\n c: 3}\na: 4\n", "r.yaml")
    assert [problem.where for problem in error.value.problems] == ["r.yaml:2", "r.yaml:4", "r.yaml:5"]


@pytest.mark.parametrize(
    "text", ["a: [1", "a: b: c", "\t- x", "&a [*a]", "? {a: 1} : 2", "a: !!python/object:os.system x"]
)
def test_text_that_is_not_plain_yaml_names_the_line(text: str):
    try:
        parse_yaml(text, "r.yaml")
    except RecipeError as error:
        assert error.problems[0].where.startswith("r.yaml")  # noqa: PT017
    else:
        assert text == "&a [*a]"


@given(st.text(max_size=60))
def test_any_text_is_read_or_refused_without_a_traceback(text: str):
    try:
        parse_yaml(text, "r.yaml")
    except RecipeError as error:
        assert error.problems  # noqa: PT017


leaf = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8)
anything = st.recursive(
    leaf,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@given(st.dictionaries(st.sampled_from([*recipes.Recipe.model_fields, "modle"]), anything, max_size=6))
def test_any_values_are_read_or_refused_with_where_what_and_fix(values: dict[str, Any]):
    try:
        parse(values)
    except RecipeError as error:
        assert all(p.where and p.what for p in error.problems)  # noqa: PT017


def test_all_problems_are_reported_at_once_with_the_nearest_key():
    found = problems(
        {
            "modle": "x",
            "data": {"train": [{"path": "x", "wieght": 2}], "max_length": "long"},
            "optim": {"schdule": 1, "lr": -1},
        }
    )
    text = "\n".join(found)
    for expected in (
        "model |",
        "did you mean model?",
        "did you mean weight?",
        "data.max_length",
        "did you mean schedule?",
        "optim.lr",
    ):
        assert expected in text, expected


# mutation tried: no HABITS in problems.py; no _members loop; the "model_type" case left out
@pytest.mark.parametrize(
    ("values", "where", "fix"),
    [
        ({"learning_rate": 1e-4}, "learning_rate", "it is called optim.lr here"),
        ({"tuning": {"method": "lora", "r": 8}}, "tuning.r", "it is called tuning.rank here"),
        ({"max_length": 512}, "max_length", "it belongs into data: data.max_length"),
        ({"data": "rows.jsonl"}, "data", "such as data: {train: ...}"),
        ({"optim": 1e-4}, "optim", "keys there: batch_growth, batch_tokens"),
    ],
)
def test_keys_of_other_tools_and_places_lead_to_ours(values: dict[str, Any], where: str, fix: str):
    with pytest.raises(RecipeError) as error:
        parse({**SMALL, **values})
    (problem,) = error.value.problems
    assert problem.where == f"recipe: {where}"
    assert fix in problem.fix


def test_a_number_where_text_is_meant_asks_for_quotes():
    with pytest.raises(RecipeError, match=r"model\.revision: is no text without quotes \(got 1234567\)"):
        parse({**SMALL, "model": {"path": "m", "revision": 1234567}})


@pytest.mark.parametrize("key", ["[", "lora", "Steps", "str"])
def test_an_unknown_key_is_named_whatever_it_is_called(key: str):
    # mutation tried: parts of pydantic's own locations are left out of the user's key
    with pytest.raises(RecipeError) as caught:
        parse({**SMALL, "optim": {key: 1}})
    assert caught.value.problems[0].where == f"recipe: optim.{key}"


def test_every_habit_leads_to_a_key_that_exists():
    from tunesmith.recipe.habits import HABITS

    for target in HABITS.values():
        section, _, key = target.partition(".")
        if key.startswith("train.0."):
            section, key = "source", key.removeprefix("train.0.")
        assert section == "source" or section in recipes.Recipe.model_fields, target
        tables = {"budget": recipes.Epochs, "tuning": recipes.Lora}
        table = tables.get(section) or getattr(recipes, section.capitalize(), None)
        if key and target not in ("budget.steps", "tuning.method"):
            assert key in table.model_fields, target


def test_a_run_folder_given_for_a_recipe_names_the_recipe_in_it(tmp_path: Path):
    (tmp_path / "recipe.yaml").write_text("model: m\n")
    with pytest.raises(RecipeError) as error:
        load(tmp_path)
    assert str(tmp_path / "recipe.yaml") in error.value.problems[0].fix


def test_no_problem_is_told_twice():
    found = problems({**SMALL, "optim": {"lr": "fast"}, "evaluation": {"every": 2.5}, "track": ["diary"]})
    assert len([line for line in found if "optim.lr" in line]) == 1
    assert len([line for line in found if "evaluation.every" in line]) == 1


@pytest.mark.parametrize(
    ("values", "listed"),
    [
        ({"tuning": {"method": "qlorra"}}, "did you mean qlora? one of: full, freeze"),
        ({"objective": "dpo"}, "pretrain"),
        ({"optim": {"optimizer": "adam8bit"}}, "adamw"),
        ({"data": {"train": "a", "template": "chatlm"}}, "chatml"),
        ({"data": {"train": {"path": "a", "format": "chatbot"}}}, "alpaca"),
        ({"sharding": {"devices": 8}}, "auto"),
    ],
)
def test_values_that_are_not_built_do_not_exist_and_those_that_do_are_listed(
    values: dict[str, Any], listed: str
):
    [found] = problems({**SMALL, **values})
    assert listed in found


def test_only_the_chosen_methods_fields_exist():
    assert "rank" in problems({**SMALL, "tuning": {"method": "full", "rank": 4}})[0]


def test_aliases_are_expanded_in_the_saved_recipe():
    assert (
        parse({**SMALL, "tuning": {"method": "rslora", "rank": 4}}).tuning
        == parse({**SMALL, "tuning": {"method": "lora", "rank": 4, "scaling": "rslora"}}).tuning
    )


@pytest.mark.parametrize(
    "budget", [{}, {"epochs": 1, "steps": 2}, {"hours": 1}, {"steps": 0}, {"epochs": -1}, 5, None]
)
def test_a_budget_is_exactly_one_positive_amount(budget: Any):
    assert problems({**SMALL, "budget": budget})


def test_overrides_are_yaml_and_reach_into_sections(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    read = load(
        path,
        [
            "optim.lr=3e-4",
            "data.limit=5",
            "budget.steps=7",
            "tuning.method=freeze",
            "tuning.last_layers=1",
            "output=x",
        ],
    )
    assert (read.optim.lr, read.data.limit, read.output) == (3e-4, 5, "x")
    assert read.budget == recipes.Steps(steps=7)
    assert read.tuning == recipes.Freeze(method="freeze", last_layers=1)
    assert load(path, ["model.revision=abc"]).model.path == "m"


def test_overrides_reach_the_items_of_a_list(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump({**SMALL, "data": {"train": ["a", {"path": "b"}]}}), encoding="utf-8")
    read = load(path, ["data.train.0.weight=3", "data.train.1.path=c"])
    assert [(source.path, source.weight) for source in read.data.train] == [("a", 3), ("c", None)]
    for key in ("data.train.2.weight", "data.train.x", "data.train.-1.path"):
        with pytest.raises(RecipeError, match="names no item of a list of 2"):
            load(path, [f"{key}=1"])
    path.write_text(yaml.safe_dump({**SMALL, "data": {"train": "a"}}), encoding="utf-8")
    assert load(path, ["data.train.weight=3"]).data.train[0].path == "a"


def test_overrides_that_are_none_are_named(tmp_path: Path):
    path = tmp_path / "r.yaml"
    path.write_text(yaml.safe_dump(SMALL), encoding="utf-8")
    with pytest.raises(RecipeError, match="is not an override"):
        load(path, ["optim.lr"])
    with pytest.raises(RecipeError, match="did you mean"):
        load(path, ["optim.lrr=1"])


@pytest.mark.parametrize(
    ("name", "content"),
    [("gone.yaml", None), ("list.yaml", b"- 1"), ("bytes.yaml", b"\xff\xfe\x00"), ("empty.yaml", b"")],
)
def test_a_file_that_is_no_recipe_says_so(tmp_path: Path, name: str, content: bytes | None):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RecipeError) as error:
        load(path)
    assert name in error.value.problems[0].where
    assert error.value.problems[0].fix


def test_differences_are_named_by_dotted_key():
    one, other = (
        parse(SMALL),
        parse({**SMALL, "optim": {"lr": 1e-3}, "tuning": {"method": "lora", "rank": 4}}),
    )
    assert diff(one, other) == [("tuning.rank", 16, 4), ("optim.lr", "auto", 1e-3)]


@pytest.mark.parametrize(("value", "steps"), [(0.1, 3), (0.001, 1), (7, 7), (0.5, 15)])
def test_a_share_or_a_count_becomes_steps(value: float, steps: int):
    assert steps_of(value, 30) == steps


def test_a_section_has_at_most_twelve_fields_of_its_own_each_with_a_docstring():
    for name, section in vars(recipes).items():
        if (
            isinstance(section, type)
            and issubclass(section, recipes.Section)
            and section not in (recipes.Section, recipes.Recipe)
        ):
            own = set(section.model_fields) - set(recipes.Tuned.model_fields) - {"method"}
            assert len(own) <= 12, name
            undocumented = [
                n
                for n, f in section.model_fields.items()
                if not f.description and n not in ("method", "epochs", "steps", "tokens")
            ]
            assert not undocumented, (name, undocumented)


def test_the_keys_of_a_recipe_are_these():
    """Growing them is a decision."""
    assert sorted(recipes.Recipe.model_fields) == sorted(parse_yaml(DESIGN, "d"))


@pytest.mark.parametrize(
    ("written", "meant"), [("on", "on"), ("off", "off"), ('"on"', "on"), ("auto", "auto")]
)
def test_on_and_off_are_words_where_a_choice_has_them(tmp_path, written, meant):
    path = tmp_path / "r.yaml"
    path.write_text(f"model: m\ndata: {{train: a.jsonl}}\ncompute: {{trunk_cache: {written}}}\n")
    assert load(path).compute.trunk_cache == meant
    assert load(path, ["compute.checkpointing=off"]).compute.checkpointing == "off"


# mutation tried: a message without "; " in tuning.py, and problems.py not parting it from the fix
def test_every_rule_of_a_section_says_what_to_do():
    said = []
    for path in sorted((Path(recipes.__file__).parent).glob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match node:
                case ast.Raise(exc=ast.Call(func=ast.Name(id="ValueError"), args=[ast.Name()])):
                    pass  # stream_fault's, looked at by its own tests
                case ast.Raise(exc=ast.Call(func=ast.Name(id="ValueError"), args=[words])):
                    said.append(ast.unparse(words))
    assert len(said) > 15
    assert [words for words in said if "; " not in words] == []
    with pytest.raises(RecipeError) as caught:
        parse(
            {
                "model": "m",
                "data": {"train": "a.jsonl"},
                "tuning": {"method": "lora", "new_tokens_only": True},
            }
        )
    assert str(caught.value.problems[0].what) == "new_tokens_only is said of no table"
    assert caught.value.problems[0].fix.startswith("name them: also_train: [embed_tokens, lm_head]")
