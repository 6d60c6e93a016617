"""Merged datasets in the store: written, found again, moved, damaged."""

from __future__ import annotations

import hashlib
import json
import shutil

import pytest

from relaydet.config import parse_images
from relaydet.data.dataset import Annotation, Category, Dataset, Image
from relaydet.data.findings import Finding
from relaydet.data.saved import annotations_name, load_dataset, open_sources, portable, save_dataset
from relaydet.errors import RelayError
from relaydet.storage import troubles
from relaydet.storage.gcs import GcsStore
from relaydet.storage.local import LocalStore

NAME = annotations_name("people")


@pytest.fixture
def store(tmp_path):
    store = LocalStore(tmp_path / "store")
    (store.root / "pictures").mkdir(parents=True)
    return store


def a_dataset(**info) -> Dataset:
    return Dataset(
        [Image(1, "a/1.jpg", 20, 10, source="a")],
        [Annotation(1, 1, 1, (1.0, 2.0, 3.0, 4.0), 12.0)],
        [Category(1, "person")],
        {"sources": {"a": {"images": "pictures"}}, **info},
    )


def test_what_was_saved_is_loaded(store):
    finding = Finding("box-clamped", "info", "a", "a box", "clamped")
    save_dataset(store, "people", a_dataset(), {"merged": {"images": 1}}, [finding])
    saved = load_dataset(store, "people")
    assert saved.dataset == a_dataset()
    assert open_sources(saved)["a"].root == store.root / "pictures"
    assert saved.sha256 == hashlib.sha256(store.read(NAME)).hexdigest()
    report = json.loads(store.read("datasets/people/report.json"))
    assert report["merged"] == {"images": 1}
    assert [f["code"] for f in report["findings"]] == ["box-clamped"]


def test_a_store_may_be_moved(tiny_demo, tmp_path):
    moved = LocalStore(shutil.copytree(tiny_demo.root, tmp_path / "elsewhere"))
    saved = load_dataset(moved, "demo")
    folders = open_sources(saved)
    for image in saved.dataset.images:
        source, name = image.file_name.split("/", 1)
        folder = folders[source]
        assert folder.root.is_relative_to(moved.root)
        assert folder.exists(name)


@pytest.mark.parametrize(
    ("inside", "recorded"),
    [(True, "pictures/train"), (False, None)],
    ids=["inside the store", "outside"],
)
def test_locations_are_recorded_so_that_they_move_along(store, tmp_path, inside, recorded):
    location = (store.root if inside else tmp_path) / "pictures" / "train"
    assert portable(store, str(location)) == (recorded or str(location))


def edited(**changes) -> bytes:
    file = {"images": [], "annotations": [], "categories": [], "info": {"sources": {}}}
    return json.dumps({**file, **changes}).encode()


@pytest.mark.parametrize(
    ("data", "message"),
    [
        pytest.param(None, "there is no dataset 'people'.*DATASET", id="missing"),
        pytest.param(b"", "not valid JSON", id="empty"),
        pytest.param(edited()[:40], "not valid JSON", id="truncated"),
        pytest.param(b"[]", r"annotations\.json", id="a list"),
        pytest.param(edited(info={}), "info.sources is missing", id="not merged"),
        pytest.param(edited(info={"sources": 3}), "not a file that a merge wrote", id="no sources"),
        pytest.param(
            edited(info={"sources": {"a": {}}}), "not a file that a merge wrote", id="no images"
        ),
        pytest.param(
            edited(images=[{"id": 1, "file_name": "a.jpg", "width": 1, "height": 1}]),
            "an image has no source",
            id="an image of no source",
        ),
        pytest.param(
            edited(annotations=[{"id": 1}]), "not a file that a merge wrote", id="half a record"
        ),
    ],
)
def test_what_cannot_be_used_is_explained(store, data, message):
    if data is not None:
        store.write(NAME, data)
    with pytest.raises(RelayError, match=message):
        load_dataset(store, "people")


def test_images_that_are_elsewhere(store, tmp_path):
    save_dataset(store, "people", a_dataset(), {}, [])
    saved = load_dataset(store, "people")
    (tmp_path / "other").mkdir()
    assert open_sources(saved, {"a": f"{tmp_path}/other"})["a"].root == tmp_path / "other"
    (store.root / "pictures").rmdir()
    with pytest.raises(RelayError, match=r"source 'a': .*does not exist.*set IMAGES"):
        open_sources(saved)


@pytest.mark.parametrize(
    ("entry", "message"),
    [("a", 'not "source=location"'), ("a=", "not"), ("b=x", "no source 'b'; there are a")],
)
def test_a_wrong_place_is_named(entry, message):
    with pytest.raises(RelayError, match=f"IMAGES: .*{message}"):
        parse_images([entry], ["a"])


def test_places_in_the_home_folder(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    assert parse_images(["a=~/photos"], ["a"]) == {"a": "/home/someone/photos"}


def test_a_source_without_images_stays_unopened(store):
    dataset = a_dataset(sources={"a": {"images": "pictures"}, "b": {"images": "gone"}})
    save_dataset(store, "people", dataset, {}, [])
    assert list(open_sources(load_dataset(store, "people"))) == ["a"]


def test_large_metadata_is_read_again(store):
    notes = [f"a long note on how image {n} came to be here and who drew it" for n in range(40_000)]
    save_dataset(store, "people", a_dataset(notes=notes), {}, [])
    assert load_dataset(store, "people").dataset.info["notes"] == notes


def test_the_way_to_a_place_in_the_store_does_not_matter(store, tmp_path):
    (tmp_path / "link").symlink_to(store.root)
    for location in (f"{tmp_path}/link/pictures", f"{store.root}/../store/pictures"):
        assert portable(store, location) == "pictures"


@pytest.mark.parametrize("location", ["gs://bucket/photos", "http://host/photos.zip"])
def test_locations_far_away_are_recorded_as_they_are(store, location):
    assert portable(store, location) == location


@pytest.mark.parametrize(
    ("location", "recorded"),
    [
        ("gs://bucket/store/pictures", "pictures"),
        ("gs://bucket/store/a/b.zip", "a/b.zip"),
        ("gs://bucket/storehouse/pictures", "gs://bucket/storehouse/pictures"),
        ("gs://bucket/elsewhere", "gs://bucket/elsewhere"),
        ("gs://other/store/pictures", "gs://other/store/pictures"),
        ("https://host/store/pictures", "https://host/store/pictures"),
        ("/disk/pictures", "/disk/pictures"),
    ],
)
@pytest.mark.parametrize("where", ["gs://bucket/store", "gs://bucket/store/"])
def test_what_is_in_a_bucket_is_recorded_so_that_it_moves_along(where, location, recorded):
    assert portable(GcsStore(where), location) == recorded


@pytest.mark.parametrize("kind", ["folder", "bucket"])
@pytest.mark.parametrize(
    "place", ["inside", "inside/a.zip", "/disk/pictures", "gs://other/x", "http://host/x.zip"]
)
def test_what_was_recorded_is_found_again(kind, place, gcs_bucket, tmp_path):
    store = LocalStore(tmp_path) if kind == "folder" else GcsStore(f"gs://{gcs_bucket}/x")
    location = store.place(place) if place.startswith("inside") else place
    dataset = a_dataset(sources={"a": {"images": portable(store, location)}})
    save_dataset(store, "people", dataset, {}, [])
    assert load_dataset(store, "people").locations == {"a": location}


@pytest.mark.parametrize("size", [0, 1000], ids=["nothing", "half of it"])
def test_what_drive_has_not_uploaded_is_told(tmp_path, monkeypatch, tiny_demo, size):
    monkeypatch.setattr(troubles, "DRIVE", tmp_path / "drive")
    whole = tiny_demo.read("datasets/demo/annotations.json")
    for where, words in (
        ("drive", "run 1_merge_data again, and leave"),
        ("disk", "not valid JSON"),
    ):
        store = LocalStore(tmp_path / where / "store")
        store.write("datasets/demo/annotations.json", whole[:size])
        with pytest.raises(RelayError, match=words):
            load_dataset(store, "demo")
