"""Large tables of zeros: as torch's, and the machine is asked for large pages."""

from pathlib import Path

import pytest
import torch

from tunesmith.kernels import pages

SMAPS = Path("/proc/self/smaps")


def _flags_at(address: int) -> list[str]:
    """The kernel's flags of the mapping that holds an address (proc(5), VmFlags)."""
    inside = False
    for line in SMAPS.read_text().splitlines():
        first = line.split()[0]
        if not first.endswith(":"):
            begin, end = (int(x, 16) for x in first.split("-"))
            inside = begin <= address < end
        elif inside and first == "VmFlags:":
            return line.split()[1:]
    raise AssertionError("no such mapping")


@pytest.mark.parametrize("rows", [3, 2**15])
def test_zeros_are_torchs_own(rows):
    made = pages.zeros((rows, 300), torch.float32, torch.device("cpu"))
    assert torch.equal(made, torch.zeros(rows, 300))


# mutation tried: no advice; the address not rounded up to a page
@pytest.mark.skipif(not SMAPS.exists(), reason="Linux alone tells a mapping's flags")
def test_a_large_table_asks_for_large_pages():
    if not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists():
        pytest.skip("this kernel has no large pages to give")
    made = pages.zeros((2**15, 600), torch.float32, torch.device("cpu"))
    assert "hg" in _flags_at(made.data_ptr() + made.numel() * 2)
    small = pages.zeros((100, 10), torch.float32, torch.device("cpu"))
    assert "hg" not in _flags_at(small.data_ptr())
