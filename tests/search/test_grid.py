"""What a sweep tries: values as the recipe reads them, every combination once, draws that can be repeated."""

from __future__ import annotations

import pytest

from tunesmith.errors import RecipeError
from tunesmith.search.grid import Axis, Range, make_cells, read_axes, spell


def test_keys_with_several_values_are_axes_and_the_rest_is_fixed() -> None:
    fixed, axes = read_axes(["tuning.rank=8,32", "optim.lr=1e-4,3e-4", "seed=1"])
    assert fixed == ["seed=1"]
    assert axes == [Axis("tuning.rank", (8, 32)), Axis("optim.lr", (1e-4, 3e-4))]


def test_lists_and_nulls_are_values_like_any_other() -> None:
    _, axes = read_axes(["tuning.targets=all_linear,[q_proj, v_proj]", "data.validation=null,0.1"])
    assert axes[0].values == ("all_linear", ["q_proj", "v_proj"])
    assert axes[1].values == (None, 0.1)


def test_a_grid_holds_every_combination_once() -> None:
    cells = make_cells([Axis("tuning.rank", (8, 32)), Axis("optim.lr", (1e-4, 3e-4, 1e-3))])
    assert len({tuple(cell.changes.items()) for cell in cells}) == 6
    assert len({cell.name for cell in cells}) == 6
    assert cells[0].name == "rank=8,lr=0.0001"


def test_a_method_is_set_before_what_belongs_to_it() -> None:
    cells = make_cells([Axis("tuning.rank", (8, 4)), Axis("tuning.method", ("lora", "vera"))])
    assert cells[0].overrides() == ["tuning.method=lora", "tuning.rank=8"]


def test_a_draw_is_the_same_for_a_seed_and_its_cells_differ() -> None:
    axes = [Axis("optim.lr", Range(1e-5, 1e-3)), Axis("tuning.rank", Range(4, 64))]
    first = make_cells(axes, 8, seed=3)
    assert first == make_cells(axes, 8, seed=3)
    assert first != make_cells(axes, 8, seed=4)
    assert len({tuple(cell.changes.items()) for cell in first}) == 8
    for cell in first:
        assert 1e-5 <= cell.changes["optim.lr"] <= 1e-3
        assert isinstance(cell.changes["tuning.rank"], int)


def test_rates_are_drawn_evenly_over_their_powers_of_ten() -> None:
    cells = make_cells([Axis("optim.lr", Range(1e-5, 1e-1))], 60)
    assert 20 <= sum(cell.changes["optim.lr"] < 1e-3 for cell in cells) <= 40


def test_a_draw_of_more_than_there_is_gives_what_there_is() -> None:
    assert len(make_cells([Axis("tuning.rank", (8, 16))], 10)) == 2


def test_names_that_are_no_file_names_are_made_some() -> None:
    cells = make_cells([Axis("model", ("a/b", "a_b"))])
    assert [cell.name for cell in cells] == ["model=a_b", "model=a_b~2"]


def test_a_value_is_spelt_as_it_would_be_typed() -> None:
    assert [spell(v) for v in (None, True, 1e-5, 0.123456789, "lora", ["a", "b"])] == [
        "null", "true", "1e-05", "0.123456789", "lora", "[a, b]",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "nothing to compare"),
        (["tuning.rank=8"], "nothing to compare"),
        (["tuning.rank"], "names no values"),
        (["=1,2"], "names no values"),
        (["tuning.rank=8,16", "tuning.rank=32,64"], "stands twice"),
        (["optim.lr=1e-3..1e-5"], "not below"),
        (["tuning.rank=[8,16"], "not valid YAML"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: list[str], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read_axes(words)


@pytest.mark.parametrize(
    ("axes", "drawn", "said"),
    [
        ([Axis("optim.lr", Range(1e-5, 1e-3))], None, "--random"),
        ([Axis("a", tuple(range(9))), Axis("b", tuple(range(9)))], None, "81 runs are too many"),
        ([Axis("a", (1, 2))], 0, "1 to 64"),
    ],
)
def test_sweeps_without_an_end_are_refused(axes: list[Axis], drawn: int | None, said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        make_cells(axes, drawn)
