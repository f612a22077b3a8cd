"""The Triton kernels against their plain twins, in Triton's interpreter: no CUDA is needed, nor touched."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(importlib.util.find_spec("triton") is None, reason="triton is not installed")

CHECKS = Path(__file__).with_name("triton_checks.py")


@pytest.fixture(scope="module")
def found() -> dict[str, str]:
    """Every check, run once in a process in which Triton interprets: the switch is read when Triton is imported."""
    done = subprocess.run(
        [sys.executable, str(CHECKS)], capture_output=True, text=True, timeout=240,
        env={**os.environ, "TRITON_INTERPRET": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    result: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return result


# mutations tried: low nibble before high; scales of scales not added to their offset; onehot left out; slope of the cap
# left out; z_loss without its factor 2; a token's weight left out of the gradient
@pytest.mark.parametrize(
    "check",
    ["nf4", "nf4_double_quant", "fp4", "nf4_fp16", "nf4_uneven", "table", "head", "head_bf16", "head_capped",
     "head_weighted", "head_z_loss", "head_all", "summed_loss", "norm", "norm_scaled", "norm_offset", "norm_fp16",
     "norm_of_heads", "norm_wide", "gate_silu", "gate_gelu", "gate_gelu_tanh", "gate_fp16", "rotary", "rotary_shared",
     "rotary_fp16", "rotary_wide", "rotary_alone", "adam8", "adam8_uneven"],
)  # fmt: skip
def test_the_kernel_says_what_its_plain_twin_says(check: str, found: dict[str, str]) -> None:
    assert found[check] == "equal"


def test_nothing_is_compiled_anew_for_a_batch_of_another_size() -> None:
    # a number that 16 divides is a variant of its own; on an H200 one cost a second in the middle of a run
    from tunesmith.kernels import triton_adam, triton_rows

    for kernel, changing in (
        (triton_rows._norm, {"count"}),
        (triton_rows._norm_back, {"count", "each"}),
        (triton_rows._rotate, {"tokens", "x_batch", "y_batch", "t_batch"}),
        (triton_adam._step, {"seed"}),
    ):
        numbers = {one.name for one in kernel.params if one.do_not_specialize}
        assert changing <= numbers, kernel
