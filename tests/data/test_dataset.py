"""The one in-memory type: rows of images, and the garbage collector's pause."""

from __future__ import annotations

import gc
import weakref

import pytest

from relaydet.data.dataset import gc_paused


class Cycle:
    def __init__(self) -> None:
        self.me = self


@pytest.mark.parametrize("frozen", [False, True], ids=["plain", "with frozen objects"])
def test_the_collector_goes_on_after_a_pause(frozen):
    gc.collect()
    if frozen:
        gc.freeze()
    count = gc.get_freeze_count()
    with gc_paused():
        assert not gc.isenabled()
        with gc_paused():
            garbage = weakref.ref(Cycle())
        assert not gc.isenabled()
    assert gc.isenabled()
    assert gc.get_freeze_count() == count
    gc.collect()
    assert garbage() is None
    gc.unfreeze()
