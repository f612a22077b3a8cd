"""bitsandbytes without its look at the hub: on some processors its import fetches a kernel, which is never used here.

Where the package `kernels` is installed and the processor multiplies in bf16 (AVX512), `import bitsandbytes` (0.50, as
PEFT does by itself) calls `get_kernel("kernels-community/...")`, and has no switch against it. So whatever needs it
calls `load` first: within, `kernels` counts as not installed; afterwards it is there for whoever uses it.
It takes 0.7 s and 17 MiB, torch's compiler with it, so it is loaded only for what is held in 4 bits or paged.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator
from typing import Any


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Within, importing the module `name` fails as if it were not there."""
    modules: dict[str, Any] = sys.modules
    before = modules.get(name, ...)
    modules[name] = None
    try:
        yield
    finally:
        del modules[name]
        if before is not ...:
            modules[name] = before


def load() -> None:
    """Load it, where it is there and nobody has yet; says nothing of the kernel that it misses."""
    if sys.modules.get("bitsandbytes") is not None:
        return
    told = logging.getLogger("bitsandbytes.backends.cpu.ops")
    level = told.level
    told.setLevel(logging.ERROR)
    try:
        with _without("kernels"), contextlib.suppress(ImportError):
            import bitsandbytes  # noqa: F401
    finally:
        told.setLevel(level)


@contextlib.contextmanager
def only_if_loaded() -> Iterator[None]:
    """Within, there is no bitsandbytes, unless it is loaded: nothing that is there can be one of its layers."""
    if sys.modules.get("bitsandbytes") is not None:
        yield
        return
    with _without("bitsandbytes"):
        yield
