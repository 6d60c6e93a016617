"""Stores that Kaggle attaches: what is looked for is found, and the store itself goes first."""

from __future__ import annotations

import pytest

from relaydet.runtime import attached
from relaydet.runtime.attached import attached_stores, first_having
from relaydet.runtime.detect import Runtime
from relaydet.storage.local import LocalStore

KAGGLE = Runtime("kaggle", "by the test")
NAME = "datasets/de[m]o/annotations.json"


def put(folder) -> None:
    file = folder / NAME
    file.parent.mkdir(parents=True)
    file.write_text("{}")


def test_outputs_are_found_at_each_depth_and_no_deeper(tmp_path):
    for folder in ("b", "a/2", "notebooks/ada/x", "too/deep/by/one"):
        put(tmp_path / folder)
    found = [store.root for store in attached_stores(KAGGLE, NAME, tmp_path)]
    assert found == [tmp_path / "a/2", tmp_path / "b", tmp_path / "notebooks/ada/x"]


@pytest.mark.parametrize("name", ["colab", "local", "gcp_notebook"])
def test_only_kaggle_attaches_anything(tmp_path, name):
    put(tmp_path / "a")
    assert attached_stores(Runtime(name, ""), NAME, tmp_path) == []
    assert attached_stores(KAGGLE, NAME, tmp_path / "absent") == []


def test_the_store_goes_first_then_what_is_attached(tmp_path, monkeypatch):
    monkeypatch.setattr(
        attached.attached_stores, "__defaults__", (tmp_path / "input",), raising=True
    )
    store = LocalStore(tmp_path / "store")
    assert first_having(store, KAGGLE, NAME) is store, "then it says what is missing"
    put(tmp_path / "input/earlier")
    assert first_having(store, KAGGLE, NAME).root == tmp_path / "input/earlier"
    put(tmp_path / "store")
    assert first_having(store, KAGGLE, NAME) is store
