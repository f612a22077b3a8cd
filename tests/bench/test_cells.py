"""The matrix of bench --memory: wide enough, and a cell measured as it is forecast."""

from __future__ import annotations

import pytest

from tunesmith.bench.cells import MATRIX, Cell


def test_the_matrix_is_wide() -> None:
    assert len(MATRIX) >= 24
    assert len({cell.family for cell in MATRIX}) >= 8
    assert len({str(cell.tuning) for cell in MATRIX}) >= 10
    assert len({cell.length for cell in MATRIX}) >= 4
    assert {"off", "full", 2} <= {cell.checkpointing for cell in MATRIX}
    assert {cell.micro_batches for cell in MATRIX} == {1, 2}
    assert len({str(cell.to_json()) for cell in MATRIX}) == len(MATRIX)


@pytest.mark.usefixtures("mkl_multiplies")
def test_a_cell_is_measured_as_it_is_forecast() -> None:
    from tunesmith.bench.cell import measure

    cell = Cell("llama", {"method": "full"}, tokens=256, length=64)
    found = measure(cell, "cpu")
    assert abs(cell.forecast("cpu").allocated_bytes / found["allocated_bytes"] - 1) < 0.05
    assert found["resident_bytes"] > found["allocated_bytes"] / 2
