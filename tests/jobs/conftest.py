"""What several tests of jobs start from."""

from __future__ import annotations

import pytest

from relaydet.config import MergeConfig
from relaydet.data.demo import write_demo
from relaydet.jobs.merge import merge


@pytest.fixture(scope="module")
def tiny_store(tmp_path_factory):
    """A store with a tiny dataset, five steps an epoch at batch 4; its images are elsewhere."""
    folder = tmp_path_factory.mktemp("store")
    street, search, _ = write_demo(tmp_path_factory.mktemp("scenes"), sizes=(14, 6, 2))
    merge(MergeConfig("tiny", (street, search), ("person",), str(folder)), say=lambda _: None)
    return folder
