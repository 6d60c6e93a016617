"""Stores that are attached to this machine, only to be read: outputs of earlier Kaggle versions."""

from __future__ import annotations

import glob
from pathlib import Path

from relaydet.places import KAGGLE_INPUT
from relaydet.runtime.detect import Runtime
from relaydet.storage.local import LocalStore
from relaydet.storage.store import Store

_DEPTH = 3
"""How many folders below /kaggle/input an attached output may have its runs/ in."""


def attached_stores(
    runtime: Runtime, having: str, attached: Path = KAGGLE_INPUT
) -> list[LocalStore]:
    """Stores that have a file, sorted by their folder.

    Args:
        runtime: where this is; only Kaggle attaches anything.
        having: name of the file, as the store has it: runs/demo/config.json.
        attached: where Kaggle mounts the outputs of earlier versions.
    """
    if runtime.name != "kaggle" or not attached.is_dir():
        return []
    patterns = ("*/" * depth + glob.escape(having) for depth in range(1, _DEPTH + 1))
    found = [path for pattern in patterns for path in attached.glob(pattern)]
    up = having.count("/")
    return [LocalStore(path.parents[up]) for path in sorted(found)]


def first_having(store: Store, runtime: Runtime, name: str) -> Store:
    """The store if it has a file, else an attached one that has; the store where none has."""
    if store.exists(name):
        return store
    return next(iter(attached_stores(runtime, name)), store)
