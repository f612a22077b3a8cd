"""What all tests share: a cache of their own, so that none reads what another run left, nor leaves anything; and fp32
where `auto` decides, so that they say the same on a processor with bf16 matrix units."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

# A shell gives what it starts in the background no Ctrl-C; the tests of it, and the processes they start, need one.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory: pytest.TempPathFactory) -> object:
    """Also for the processes that tests start: the environment tells them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUNESMITH_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("TUNESMITH_FAST_BF16", "0")
        yield


@pytest.fixture
def hangup_heard() -> Iterator[None]:
    """Under `nohup` a closed terminal is not heard, nor by what a test starts; the tests of it hear it all the same."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.fixture
def mkl_multiplies(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a step allocates is the same on every processor; what oneDNN takes beside is kernels/test_product.py's."""
    monkeypatch.setenv("TUNESMITH_ONEDNN", "0")
