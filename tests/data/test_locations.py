"""Single files by their location: paths, zips, addresses, and files in zips behind addresses."""

from __future__ import annotations

import hashlib
import io
import re
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from webserver import isolate, serve

from relaydet.data import locations
from relaydet.data.images import open_images
from relaydet.data.locations import (
    is_other_archive,
    is_remote,
    local_copy,
    read_bytes,
    split_zip_address,
    split_zip_path,
)
from relaydet.errors import RelayError

JSON = b'{"images": []}'


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def packed() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("annotations/train 1.json", JSON)
        archive.writestr("annotations/val.json", b"{}")
    return buffer.getvalue()


@pytest.fixture
def web(packed, monkeypatch):
    with serve() as web:
        web.files = {
            "/a.json": JSON,
            "/x/all.zip": packed,
            "/x/key.zip?key=1": packed,
            "/broken.zip": b"<html>log in first</html>",
            "/download/storage/v1/b/bucket/o/d/a.json?alt=media": JSON,
            "/download/storage/v1/b/bucket/o/all.zip?alt=media": packed,
        }
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.address)
        yield web


@pytest.mark.parametrize(
    ("location", "remote"),
    [
        ("http://h/a", True),
        ("HTTPS://h/a", True),
        ("gs://b/a", True),
        ("a/b.zip", False),
        ("/gs://b", False),
        ("C:\\a", False),
        ("", False),
    ],
)
def test_is_remote(location, remote):
    assert is_remote(location) is remote


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("http://h/a.zip", ("http://h/a.zip", "")),
        ("http://h/a.zip/", ("http://h/a.zip", "")),
        ("http://h/x/A.ZIP/b/c d", ("http://h/x/A.ZIP", "b/c d")),
        ("http://h/a.zip/b%20c?key=1#top", ("http://h/a.zip?key=1", "b c")),
        ("http://h/a.zip/b.zip", ("http://h/a.zip", "b.zip")),
        ("http://h.zip/a", None),
        ("http://h/azip/b?x=.zip", None),
        ("gs://b/p/a.zip/c#1?/d%20", ("gs://b/p/a.zip", "c#1?/d%20")),
        ("gs://b.zip/p", None),
    ],
)
def test_zips_in_addresses(location, expected):
    assert split_zip_address(location) == expected


@pytest.mark.parametrize("inside", ["", "b/c.json", ".hidden", "../x"])
def test_zips_in_paths(inside, tmp_path):
    file = tmp_path / "a.zip"
    file.write_bytes(b"")
    assert split_zip_path(str(file / inside)) == (file, inside)
    assert split_zip_path(str(tmp_path / "b.zip" / inside)) is None
    (tmp_path / "b.zip").mkdir()
    assert split_zip_path(str(tmp_path / "b.zip" / inside)) is None


@pytest.mark.parametrize("name", ["a.tar", "a.tar.gz", "a.TGZ", "a.7z", "a.rar", "a.tar.xz"])
@pytest.mark.parametrize("form", ["{}", "http://h/{}", "https://h/{}?key=1", "gs://b/{}"])
def test_other_archives_are_refused(name, form):
    location = form.format(name)
    assert is_other_archive(location)
    with pytest.raises(RelayError, match="unpack it and give the folder, or pack it as a zip"):
        open_images(location)
    assert not is_other_archive(form.format("a.zip"))


def test_local_files_are_read(tmp_path, packed):
    Path("a.json").write_bytes(JSON)
    Path("all.zip").write_bytes(packed)
    assert read_bytes("a.json") == JSON
    assert read_bytes("all.zip") == packed
    assert read_bytes("all.zip/annotations/train 1.json") == JSON
    assert read_bytes("all.zip/val.json") == b"{}", (
        "the folder that all files are in may be left out"
    )


@pytest.mark.parametrize(
    ("location", "data"),
    [
        ("{}/a.json", JSON),
        ("{}/x/all.zip/annotations/train 1.json", JSON),
        ("{}/x/all.zip/annotations/train%201.json", JSON),
        ("{}/x/key.zip/annotations/val.json?key=1", b"{}"),
        ("gs://bucket/d/a.json", JSON),
        ("gs://bucket/all.zip/annotations/val.json", b"{}"),
    ],
)
def test_remote_files_are_read(location, data, web):
    location = location.format(web.address)
    web.break_after = [5]
    assert read_bytes(location) == data
    sent = web.sent.total()
    assert read_bytes(location) == data
    assert web.sent.total() == sent


def test_a_changed_file_is_read_anew_but_not_a_zip(web, packed):
    read_bytes(f"{web.address}/a.json")
    web.files["/a.json"] = b"new"
    assert read_bytes(f"{web.address}/a.json") == b"new"
    read_bytes(f"{web.address}/x/all.zip/annotations/val.json")
    asked = len(web.asked)
    read_bytes(f"{web.address}/x/all.zip/annotations/train 1.json")
    assert len(web.asked) == asked


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("none.json", "cannot be read"),
        (".", "cannot be read"),
        ("", "cannot be read"),
        ("a\0b", "cannot be read"),
        ("n" * 5000, "cannot be read"),
        ("all.zip/none.json", "has no file 'none.json'; it has annotations/train 1.json, "),
        ("all.zip/../all.zip", "has no file"),
        ("text.txt/none.json", "not a whole zip"),
        ("{}/none.json", "no such file"),
        ("{}/x/all.zip/none.json", "has no file 'none.json'"),
        ("{}/broken.zip/a.json", "not a whole zip"),
        ("gs://bucket/none.json", "no such file"),
        ("gs://", "names no bucket"),
        ("http://", "names no host"),
        ("http://[x/a.json", "not an address"),
    ],
)
def test_what_cannot_be_read_is_told(location, message, web, packed):
    Path("all.zip").write_bytes(packed)
    Path("text.txt").write_bytes(b"text")
    with pytest.raises(RelayError, match=message):
        read_bytes(location.format(web.address))


@settings(
    max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    st.text(max_size=30),
    st.sampled_from(["", "http://127.0.0.1:9/", "gs://b/", "http://", "gs://"]),
)
@example("\ud800", "")
@example("\ud800", "http://127.0.0.1:9/")
@example("\ud800", "gs://b/")
@example("..", "http://127.0.0.1:9/")
def test_any_location_is_read_or_refused(monkeypatch, text, scheme):
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:9")
    for call in (read_bytes, lambda location: open_images(location).exists("a.jpg")):
        try:
            call(scheme + text)
        except RelayError:
            continue


def test_a_slash_behind_a_zip_changes_nothing(web, packed):
    assert read_bytes(f"{web.address}/x/all.zip/") == packed
    assert open_images(f"{web.address}/x/all.zip/").exists("val.json")


def test_what_is_no_zip_does_not_stay(web, packed):
    for _ in range(2):
        with pytest.raises(RelayError, match="what came is not a whole zip; it was thrown away"):
            read_bytes(f"{web.address}/broken.zip/annotations/val.json")
    web.files["/broken.zip"] = packed
    assert read_bytes(f"{web.address}/broken.zip/annotations/val.json") == b"{}"


def test_threads_that_find_no_zip_do_not_disturb_each_other(web, monkeypatch):
    together = threading.Barrier(6)
    unlink = Path.unlink

    def slow_unlink(self, missing_ok=False):
        time.sleep(0.02 * (self.suffix == ".zip"))
        unlink(self, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", slow_unlink)

    def open_one(call) -> str:
        together.wait()
        with pytest.raises(RelayError) as caught:
            call(f"{web.address}/broken.zip/a.json")
        return str(caught.value)

    with ThreadPoolExecutor(6) as pool:
        said = set(pool.map(open_one, [open_images, read_bytes] * 3))
    assert len(said) == 1
    assert "not a whole zip" in said.pop()


def test_reading_from_the_disk_does_not_wait_for_what_the_web_takes():
    code = (
        "import sys, relaydet.data.formats, relaydet.data.images;"
        "sys.exit(', '.join({'requests', 'urllib3', 'google.cloud'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_known_files_are_checked(web, monkeypatch, packed):
    address = f"{web.address}/x/all.zip"
    known = {address: (len(packed), "sha256", hashlib.sha256(packed).hexdigest())}
    monkeypatch.setattr(locations, "CHECKSUMS", known)
    assert local_copy(address).read_bytes() == packed
    other = f"{web.address}/broken.zip"
    monkeypatch.setattr(locations, "CHECKSUMS", {other: (5, "sha256", "0" * 64)})
    with pytest.raises(RelayError, match="not the right file"):
        local_copy(other)


def test_copies_lie_where_the_environment_says(web, tmp_path, monkeypatch):
    copy = local_copy(f"{web.address}/a.json")
    assert copy.is_relative_to(tmp_path / "cache")
    assert "127.0.0.1" in copy.parent.name
    monkeypatch.delenv("RELAYDET_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert local_copy(f"{web.address}/a.json").is_relative_to(tmp_path / "home/.cache/relaydet")


@pytest.mark.parametrize("name", ["..", ".", "é" * 200, "a" * 400 + ".json", "a:b*c?", "-"])
def test_copies_have_names_that_any_disk_can_hold(name, web, tmp_path):
    web.files[f"/download/storage/v1/b/bucket/o/d/{name}?alt=media"] = JSON
    copy = local_copy(f"gs://bucket/d/{name}")
    assert copy.read_bytes() == JSON
    assert copy.resolve().parents[1] == tmp_path / "cache"
    assert re.fullmatch(r"[\w.-]{1,100}", copy.name, re.ASCII)
