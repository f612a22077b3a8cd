"""Without the super-user's rights to read and write anything, where the tests run as root."""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator

_VERSION = 0x20080522  # of capget(2): two words each
_READ_AND_WRITE_ANYTHING = (1, 2, 3)  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH, CAP_FOWNER


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inheritable", ctypes.c_uint32),
    )


@contextlib.contextmanager
def ordinary_rights() -> Iterator[None]:
    """Within, this thread meets permissions as a user does: capabilities are put aside, then taken up again."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, before, after = _Header(_VERSION, 0), (_Data * 2)(), (_Data * 2)()
    assert libc.capget(ctypes.byref(header), before) == 0
    ctypes.memmove(after, before, ctypes.sizeof(before))
    for number in _READ_AND_WRITE_ANYTHING:
        after[0].effective &= ~(1 << number)
    assert libc.capset(ctypes.byref(header), after) == 0
    try:
        yield
    finally:
        assert libc.capset(ctypes.byref(header), before) == 0
