"""The stores that the same things are asked of."""

from __future__ import annotations

import pytest

from relaydet.storage.gcs import GcsStore
from relaydet.storage.local import LocalStore


@pytest.fixture(params=["folder", "bucket"])
def any_store(request, tmp_path):
    """An empty store of each kind."""
    if request.param == "folder":
        return LocalStore(tmp_path / "store")
    return GcsStore(f"gs://{request.getfixturevalue('gcs_bucket')}/some/prefix")
