"""A batch too large for the memory that is left: 16 thousand tokens, and a limit on this process alone."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from tests.tiny import random_samples


@contextmanager
def samples() -> Iterator[None]:
    """Let make_run learn from long rows, many in a step."""
    long = random_samples(400, seed=1, longest=250)
    with mock.patch("tests.engine.test_loop.random_samples", return_value=long):
        yield


@contextmanager
def limited(extra: int) -> Iterator[None]:
    """Within: the process may take `extra` bytes of address space more than it has."""
    status = Path("/proc/self/status").read_text()
    size = next(int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("VmSize:"))
    before = resource.getrlimit(resource.RLIMIT_AS)
    resource.setrlimit(resource.RLIMIT_AS, (size + extra, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
