"""The demo set in a bucket: any other machine finds its images there, and the store may move."""

from __future__ import annotations

import io
import json
from functools import partial

import PIL.Image
import pytest
from gcs_server import connect
from webserver import isolate

from relaydet.config import DEMO, MergeConfig
from relaydet.data.demo import write_demo
from relaydet.data.saved import annotations_name, load_dataset, open_sources
from relaydet.jobs.merge import merge
from relaydet.storage.store import open_store

SIZES = (4, 3, 2)


@pytest.fixture(scope="module")
def once(gcs_server, tmp_path_factory) -> MergeConfig:
    """What a small demo set was merged with, into a bucket."""
    address, make_bucket = gcs_server
    config = MergeConfig("people", DEMO, store=f"gs://{make_bucket()}/some/where")
    with pytest.MonkeyPatch.context() as patch:
        isolate(patch, tmp_path_factory.mktemp("merged"))
        connect(patch, address)
        patch.setattr("relaydet.jobs.merge.write_demo", partial(write_demo, sizes=SIZES))
        merge(config, say=str)
    return config


@pytest.fixture
def merged(once, gcs_server, monkeypatch, tmp_path) -> MergeConfig:
    """The same, on another machine, which has none of the images."""
    isolate(monkeypatch, tmp_path)
    connect(monkeypatch, gcs_server[0])
    monkeypatch.setattr("relaydet.jobs.merge.write_demo", partial(write_demo, sizes=SIZES))
    return once


def facts(store, name: str) -> dict:
    return json.loads(store.read(annotations_name(name)))["info"]["sources"]


def test_the_demo_in_a_bucket_is_found_by_another_machine(merged):
    store = open_store(merged.store)
    for name, sources in (("people", {"street", "search"}), ("people_heldout", {"inhouse"})):
        saved = load_dataset(store, name)
        images = open_sources(saved)
        assert set(images) == sources
        for image in saved.dataset.images:
            source, file_name = image.file_name.split("/", 1)
            place = f"{facts(store, name)[source]['images']}/{file_name}"
            data = images[source].read(file_name)
            assert data == store.read(place)
            assert PIL.Image.open(io.BytesIO(data)).size == (image.width, image.height)


def test_the_demos_images_are_recorded_by_their_place_in_the_store(merged):
    store = open_store(merged.store)
    assert {s: f["images"] for s, f in facts(store, "people").items()} == {
        "street": "demo_scenes/street/images",
        "search": "demo_scenes/search/Image/SSM",
    }
    saved = load_dataset(store, "people")
    assert saved.locations["street"] == f"{merged.store}/demo_scenes/street/images"


def test_the_scenes_are_carried_once_and_anew_where_they_are_of_another_version(merged):
    store = open_store(merged.store)
    name = store.names("demo_scenes/street/images")[0]
    before = store.read(name)
    store.write(name, before + b"\0")  # a byte that no decoder looks at
    merge(merged, say=str)
    assert store.read(name) == before + b"\0", "what was there was left alone"
    store.write("demo_scenes/demo.json", b'{"version": 0}')
    merge(merged, say=str)
    assert store.read(name) == before, "old pictures under new annotations would be wrong"


@pytest.mark.parametrize("to", ["folder", "bucket"])
def test_a_bucket_may_be_copied_elsewhere(merged, gcs_server, tmp_path, to):
    store = open_store(merged.store)
    where = f"gs://{gcs_server[1]()}/new" if to == "bucket" else str(tmp_path / "copy")
    copy = open_store(where)
    places = [facts(store, "people")[source]["images"] for source in ("street", "search")]
    for name in [n for place in places for n in store.names(place)]:
        copy.write(name, store.read(name))
    copy.write(annotations_name("people"), store.read(annotations_name("people")))
    saved = load_dataset(copy, "people")
    assert all(location.startswith(where) for location in saved.locations.values())
    for source, images in open_sources(saved).items():
        assert saved.locations[source] in images.describe()
        name = next(i.file_name for i in saved.dataset.images if i.source == source)
        assert images.read(name.split("/", 1)[1])


def test_a_folder_may_be_carried_to_a_bucket(gcs_bucket, monkeypatch, tiny_demo, tmp_path):
    isolate(monkeypatch, tmp_path)
    bucket = open_store(f"gs://{gcs_bucket}/x")
    for path in tiny_demo.root.rglob("*"):
        if path.is_file():
            bucket.write(path.relative_to(tiny_demo.root).as_posix(), path.read_bytes())
    saved = load_dataset(bucket, "demo")
    assert saved.locations["street"] == f"gs://{gcs_bucket}/x/demo_scenes/street/images"
    image = saved.dataset.images[0]
    source, name = image.file_name.split("/", 1)
    here = tiny_demo.read(f"{facts(tiny_demo, 'demo')[source]['images']}/{name}")
    assert open_sources(saved)[source].read(name) == here
