"""A known source from a server that breaks connections: only what is missing is asked for."""

from __future__ import annotations

import io
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from webserver import isolate, serve

from relaydet.config import MergeConfig
from relaydet.data import known
from relaydet.data.demo import write_demo
from relaydet.data.saved import load_dataset, open_sources
from relaydet.jobs.merge import merge
from relaydet.storage.local import LocalStore


def quiet(_line: str) -> None:
    pass


@pytest.fixture
def web(monkeypatch, tmp_path):
    """A server with the demo's street scenes, laid out like COCO's downloads."""
    isolate(monkeypatch, tmp_path)
    street, _, _ = write_demo(tmp_path / "scenes", sizes=(10, 1, 1))
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.write(street.annotations, "annotations/instances.json")
    with serve() as web:
        web.files["/annotations.zip"] = zipped.getvalue()
        for path in Path(street.images).iterdir():
            web.files[f"/photos/{path.name}"] = path.read_bytes()
        source = replace(
            street,
            name="far-street",
            annotations=f"{web.address}/annotations.zip/annotations/instances.json",
            images=f"{web.address}/photos",
            categories=("person",),
        )
        monkeypatch.setitem(known.KNOWN, "far-street", source)
        yield web


def photos_asked(web) -> set[str]:
    return {path for path in web.paths() if path.startswith("/photos/")}


def test_only_what_is_missing_is_fetched(web, tmp_path):
    config = MergeConfig("far", ("far-street",), (), str(tmp_path / "store"), max_images=3)
    web.break_after = [700, 2000, 50, 1500]
    few = merge(config, say=quiet)
    assert len(few.dataset.images) == len(photos_asked(web)) == 3
    assert {c.name for c in few.dataset.categories} == {"person"}
    first = photos_asked(web)

    web.asked.clear()
    everything = merge(replace(config, max_images=None), say=quiet)
    assert len(everything.dataset.images) > 3
    assert not photos_asked(web) & first
    assert "/annotations.zip" not in web.paths()

    web.asked.clear()
    saved = load_dataset(LocalStore(tmp_path / "store"), "far")
    images = open_sources(saved)["far-street"]
    name = saved.dataset.images[0].file_name.split("/", 1)[1]
    assert images.read(name) == web.files[f"/photos/{name}"]
    assert web.paths() == []
