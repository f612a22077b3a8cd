"""The device is found from what the system says, within a container's limits, and without torch."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tunesmith.plan import device
from tunesmith.plan.device import Device, find_device

CPUINFO = (
    "processor\t: 0\nmodel name\t: Brand X\nflags\t\t: fpu sse avx2{more}\nprocessor\t: 1\nmodel name\t: Y\n"
)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with no card, whose /proc and cgroup are files of the test."""
    find_device.cache_clear()
    (tmp_path / "cpuinfo").write_text(CPUINFO.format(more=""))
    monkeypatch.setattr(device, "PROC", tmp_path)
    monkeypatch.setattr(device, "CGROUP", tmp_path)
    monkeypatch.setattr(device.importlib.metadata, "version", lambda _: "2.13.0+cpu")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    yield tmp_path
    find_device.cache_clear()


def nvidia(
    monkeypatch: pytest.MonkeyPatch, answer: str | None, version: str = "2.13.0+cu130"
) -> list[list[str]]:
    """A machine where nvidia-smi gives this answer (None: there is no nvidia-smi); returns the calls."""
    calls: list[list[str]] = []

    def run(command: list[str], **_: Any) -> Any:
        calls.append(command)
        if answer is None:
            raise FileNotFoundError(command[0])
        return subprocess.CompletedProcess(command, 0 if answer else 9, stdout=answer, stderr="")

    monkeypatch.setattr(device.subprocess, "run", run)
    monkeypatch.setattr(device.importlib.metadata, "version", lambda _: version)
    return calls


def test_a_processor_has_its_name_and_all_memory(machine: Path) -> None:
    found = find_device()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert found == Device("cpu", "Brand X", total, bf16=False)


# mutation tried: any AVX-512 will do
@pytest.mark.parametrize(
    ("flags", "fast"),
    [(" avx512f avx512_vnni", False), (" avx512f avx512_bf16", True), (" amx_bf16 amx_tile", True)],
)
def test_bf16_is_fast_where_the_processor_multiplies_it(
    machine: Path, flags: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TUNESMITH_FAST_BF16", raising=False)
    (machine / "cpuinfo").write_text(CPUINFO.format(more=flags))
    assert find_device().bf16 == fast


# mutation tried: BF16_FROM at 0
def test_a_narrow_model_is_quicker_in_fp32_on_a_processor() -> None:
    amx, card = (Device(kind, "", 1 << 34, bf16=True) for kind in ("cpu", "cuda"))  # type: ignore[arg-type]
    assert [amx.precision(width) for width in (192, 320, 384, 4096)] == ["fp32", "fp32", "bf16", "bf16"]
    assert card.precision(192) == "bf16"
    assert replace(amx, bf16=False).precision(4096) == "fp32"


@pytest.mark.parametrize(("told", "fast"), [("0", False), ("1", True)])
def test_what_the_environment_says_of_bf16_stands(
    machine: Path, told: str, fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (machine / "cpuinfo").write_text(CPUINFO.format(more="" if fast else " amx_bf16"))
    monkeypatch.setenv("TUNESMITH_FAST_BF16", told)
    assert find_device().bf16 == fast


# mutation tried: ignoring the cgroup
@pytest.mark.parametrize("file", ["memory.max", "memory/memory.limit_in_bytes"])
def test_a_containers_limit_is_the_memory(machine: Path, file: str) -> None:
    (machine / file).parent.mkdir(exist_ok=True)
    (machine / file).write_text("1073741824\n")
    assert find_device().memory_bytes == 2**30


def test_a_container_without_limit_has_the_machines_memory(machine: Path) -> None:
    (machine / "memory.max").write_text("max\n")
    assert find_device().memory_bytes == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def test_a_machine_without_cpuinfo_is_still_a_device(machine: Path) -> None:
    (machine / "cpuinfo").unlink()
    assert find_device().kind == "cpu"
    assert find_device().name


def test_a_card_that_torch_can_use_is_the_device(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia(monkeypatch, "NVIDIA H200, 143771, 9.0\n")
    assert find_device() == Device("cuda", "NVIDIA H200", 143771 * 2**20, bf16=True)


def test_an_old_card_has_no_bf16(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia(monkeypatch, "Tesla T4, 15360, 7.5\n")
    assert not find_device().bf16


@pytest.mark.parametrize("answer", [None, "", "N/A\n", "Card, [N/A], 9.0\n"])
def test_a_card_that_does_not_answer_is_no_device(
    machine: Path, monkeypatch: pytest.MonkeyPatch, answer: str | None
) -> None:
    nvidia(monkeypatch, answer)
    assert find_device().kind == "cpu"


def test_a_torch_without_cuda_makes_the_processor_the_device(
    machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = nvidia(monkeypatch, "NVIDIA H200, 143771, 9.0\n", version="2.13.0+cpu")
    assert find_device().kind == "cpu"
    assert calls == []


@pytest.mark.parametrize("hidden", ["", "-1"])
def test_hidden_cards_are_not_used(machine: Path, monkeypatch: pytest.MonkeyPatch, hidden: str) -> None:
    nvidia(monkeypatch, "NVIDIA H200, 143771, 9.0\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", hidden)
    assert find_device().kind == "cpu"


def test_the_first_visible_card_is_asked(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = nvidia(monkeypatch, "NVIDIA H200, 143771, 9.0\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,1")
    find_device()
    assert calls[0][-1] == "--id=3"
