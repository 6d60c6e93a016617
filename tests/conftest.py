"""What all tests share: the real files, a tiny demo set, and what needs a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from relaydet.config import MergeConfig
from relaydet.data.demo import write_demo
from relaydet.jobs.merge import merge
from relaydet.storage.local import LocalStore

SHARED_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip(f"{item.name} needs a CUDA device")


@pytest.fixture(scope="session")
def shared():
    """Path of a real file or folder; skips the test, naming it, where it is absent."""

    def find(*parts: str) -> Path:
        path = SHARED_DATA.joinpath(*parts)
        if not path.exists():
            pytest.skip(f"../shared/data/{'/'.join(parts)} is not there")
        return path

    return find


@pytest.fixture(scope="session")
def tiny_demo(tmp_path_factory) -> LocalStore:
    """A store with the datasets demo (18 images) and demo_heldout (6); only to be read."""
    store = LocalStore(tmp_path_factory.mktemp("tiny_demo"))
    *sources, heldout = write_demo(store.path("demo_scenes"), sizes=(12, 6, 6))
    for name, parts in (("demo", tuple(sources)), ("demo_heldout", (heldout,))):
        merge(MergeConfig(name, parts, ("person",), str(store.root)), say=lambda line: None)
    return store
