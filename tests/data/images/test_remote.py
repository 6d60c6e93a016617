"""Images at addresses: only what is missing is fetched, and a failed fetch goes on later."""

from __future__ import annotations

import io
import os
import pickle
import zipfile

import pytest
from webserver import isolate, serve

from relaydet.data.images import open_images
from relaydet.errors import RelayError
from relaydet.storage import http

FILES = {f"{n}.jpg": os.urandom(1500 + n) for n in range(20)} | {"in/a b#?%é.jpg": b"odd"}
GS = "/download/storage/v1/b/bucket/o"


@pytest.fixture
def web(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    with serve() as web:
        web.files = {f"/photos/{name}": data for name, data in FILES.items()}
        web.files |= {f"{GS}/p/photos/{n}?alt=media": data for n, data in FILES.items()}
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.address)
        yield web


@pytest.fixture(params=["http", "gs"])
def location(request, web):
    return {"http": f"{web.address}/photos", "gs": "gs://bucket/p/photos"}[request.param]


def test_images_are_fetched_then_read(location, web):
    images = open_images(location)
    assert not images.exists("1.jpg")
    images.fetch(list(FILES))
    again = pickle.loads(pickle.dumps(open_images(location)))
    assert {name: again.read(name) for name in FILES} == FILES
    assert location in again.describe()
    again.fetch(list(FILES))
    assert len(web.asked) == len(FILES)


def test_only_what_is_missing_is_fetched(location, web):
    images = open_images(location)
    images.fetch(["1.jpg", "2.jpg", "1.jpg"])
    assert len(web.asked) == 2
    images.fetch([f"{n}.jpg" for n in range(5)])
    assert len(web.asked) == 5
    assert not images.exists("7.jpg")
    with pytest.raises(RelayError, match=r"7\.jpg: the image cannot be read"):
        images.read("7.jpg")


def test_what_is_not_there_is_left_out(location, web):
    images = open_images(location)
    images.fetch(["1.jpg", "none.jpg", "n" * 400, "\ud800.jpg", "../1.jpg"])
    assert images.exists("1.jpg")
    assert not any(map(images.exists, ["none.jpg", "n" * 400, "\ud800.jpg"]))
    with pytest.raises(RelayError, match="does not stay inside"):
        images.exists("../1.jpg")


def test_broken_connections_and_busy_servers_are_survived(location, web):
    web.break_after = [0, 1000, 3, 1400, 20, 0]
    web.answers = {path: [503] for path in list(web.files)[::3]}
    images = open_images(location)
    images.fetch(list(FILES))
    assert {name: images.read(name) for name in FILES} == FILES


def test_a_failed_fetch_tells_what_is_here_and_goes_on(location, web, monkeypatch):
    monkeypatch.setattr(http, "THREADS", 1)
    for path in web.files:
        if "10.jpg" in path:
            web.answers[path] = [500] * 5
    images = open_images(location)
    with pytest.raises(RelayError, match=r"10 of 21 images are here, and running again goes on"):
        images.fetch(list(FILES))
    asked = len(web.asked)
    images.fetch(list(FILES))
    assert len(web.asked) - asked == 11
    assert {name: images.read(name) for name in FILES} == FILES


def test_no_way_there_is_told_when_something_is_missing(web):
    images = open_images("http://127.0.0.1:9/photos")
    images.fetch([])
    with pytest.raises(RelayError, match=r"no connection to 127\.0\.0\.1.*0 of 1 images are here"):
        images.fetch(["a.jpg"])


@pytest.fixture
def zipped(web):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in FILES.items():
            archive.writestr(f"train/{name}", data)
    web.files["/x/all.zip"] = web.files[f"{GS}/x/all.zip?alt=media"] = buffer.getvalue()
    return web


@pytest.mark.parametrize("place", ["{}/x/all.zip", "gs://bucket/x/all.zip"])
@pytest.mark.parametrize("folder", ["", "/train"])
def test_a_zip_is_downloaded_once(place, folder, zipped):
    place = place.format(zipped.address)
    zipped.break_after = [10_000]
    images = open_images(place + folder)
    images.fetch(list(FILES))
    assert {name: images.read(name) for name in FILES} == FILES
    assert place in images.describe()
    asked = len(zipped.asked)
    assert open_images(place + folder).exists("1.jpg")
    assert len(zipped.asked) == asked


def test_what_is_no_zip_does_not_stay(zipped):
    good = zipped.files["/x/all.zip"]
    zipped.files["/x/all.zip"] = b"<html>log in first</html>"
    with pytest.raises(RelayError, match=r"all\.zip: what came is not a whole zip; it was thrown"):
        open_images(f"{zipped.address}/x/all.zip")
    zipped.files["/x/all.zip"] = good
    assert open_images(f"{zipped.address}/x/all.zip").exists("1.jpg")
