"""Files over HTTP: whole or absent whatever the connection does, and nothing brought twice."""

from __future__ import annotations

import errno
import gzip
import hashlib
import io
import multiprocessing
import os
import shutil
import signal
import threading
import time
from collections import namedtuple
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from webserver import BLOCK, isolate, serve

from relaydet.bars import no_bar
from relaydet.errors import RelayError
from relaydet.storage import http, parts, servers, tries
from relaydet.storage.http import download, fetch_files
from relaydet.storage.limits import Limits
from relaydet.storage.parts import Checksum
from relaydet.storage.servers import Server, web_server
from relaydet.storage.tries import NotThereError

DATA = os.urandom(300_000)
NAME = "/big.bin"


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)


@pytest.fixture
def web():
    with serve() as web:
        web.files[NAME] = DATA
        yield web


@pytest.fixture
def get(web, tmp_path):
    """Download the file, or what is left of it."""

    def get(**options) -> bytes:
        return download(
            web_server(), web.address + NAME, tmp_path / "to" / "big.bin", **options
        ).read_bytes()

    return get


def counting_bar(shown: list):
    class Bar:
        def __init__(self, label, total, unit):
            shown.append([label, total, unit, 0])

        def __enter__(self):
            def advance(amount):
                assert amount >= 0
                shown[-1][3] += amount

            return advance

        def __exit__(self, *error):
            return None

    return Bar


def test_a_file_is_downloaded_once(web, get, tmp_path):
    bars = []
    assert get(bar=counting_bar(bars)) == DATA
    assert bars == [["downloading big.bin from 127.0.0.1", len(DATA), "B", len(DATA)]]
    assert get() == DATA
    assert len(web.asked) == 1
    left = {path.name for path in (tmp_path / "to").iterdir()}
    assert left == {"big.bin", "big.bin.facts", "big.bin.lock"}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(breaks=st.lists(st.integers(0, 400_000), max_size=12))
def test_only_missing_bytes_are_asked_for_after_breaks(breaks, tmp_path_factory):
    with serve() as web:
        web.files[NAME] = DATA
        web.break_after = list(breaks)
        target = tmp_path_factory.mktemp("breaks") / "big.bin"
        for _ in range(len(breaks) + 1):
            try:
                download(web_server(), web.address + NAME, target)
            except RelayError:
                continue
            break
        assert target.read_bytes() == DATA
        assert web.sent[NAME] <= len(DATA) + BLOCK * len(breaks)


@pytest.mark.parametrize("trouble", ["ranges", "etags", "lengths"])
def test_servers_that_cannot_go_on_send_it_again(trouble, web, get):
    setattr(web, trouble, False)
    web.break_after = [] if trouble == "lengths" else [1000, 100_000, 5]
    assert get() == DATA
    assert len(web.asked) == (1 if trouble == "lengths" else 4)


@pytest.mark.parametrize("etag", [True, False])
@pytest.mark.parametrize("if_range", [True, False])
@pytest.mark.parametrize("length", [len(DATA), len(DATA) + 10])
def test_a_file_that_changes_between_tries_is_started_again(etag, if_range, length, web, get):
    """Whatever tells it: the server itself, another ETag, or (without one) another length."""
    if not etag and not if_range and length == len(DATA):
        pytest.skip("nothing in the answers tells it")
    other = os.urandom(length)
    web.if_range = if_range
    web.break_after = [200_000]

    def change(path):
        if len(web.asked) == 2:
            web.files[NAME] = other
            web.etags = etag

    web.before = change
    assert get() == other


def test_a_range_that_begins_elsewhere_is_not_taken(web, get):
    web.break_after = [200_000]
    web.skew = 1000
    web.before = lambda path: setattr(web, "skew", 1000 * (len(web.asked) == 2))
    assert get() == DATA


def test_a_weak_etag_does_not_vouch_for_the_rest(web, get):
    web.weak = "W/"
    web.break_after = [200_000]
    assert get() == DATA
    assert [start for _, start in web.asked] == [None, None]


def test_many_breaks_that_each_bring_something_are_no_failure(web, get):
    web.break_after = [20_000] * 12
    assert get() == DATA
    assert len(web.asked) == 13


def test_a_short_body_is_noticed_where_the_client_library_does_not(web, get, tmp_path):
    """urllib3 1.26, which some runtimes have, takes a body that ends early for all of it."""
    server = web_server()

    def cut_first(url, headers):
        response = server.get(url, headers)
        if len(web.asked) == 1:
            response.raw = io.BytesIO(DATA[:50_000])
        return response

    target = tmp_path / "short.bin"
    download(Server(cut_first), web.address + NAME, target)
    assert target.read_bytes() == DATA
    assert web.asked[-1] == (NAME, "bytes=50000-")


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504, 408])
@pytest.mark.parametrize("after", ["", "0", "3600", "Wed, 21 Oct 2015 07:28:00 GMT", "nonsense"])
def test_passing_trouble_is_waited_for(status, after, web, get):
    web.answers[NAME] = [status] * 3
    web.headers = {"Retry-After": after} if after else {}
    assert get() == DATA
    assert len(web.asked) == 4


@pytest.mark.parametrize(
    ("statuses", "message", "requests"),
    [
        ([503] * 99, "gave up after 5 tries .*503", 5),
        ([403], "access is denied", 1),
        ([404], "no such file", 1),
        ([400], "cannot be had .*400", 1),
        ([204], "cannot be had .*204", 1),
    ],
)
def test_lasting_trouble_is_told(statuses, message, requests, web, get):
    web.answers[NAME] = statuses
    with pytest.raises(RelayError, match=message):
        get()
    assert len(web.asked) == requests


def test_a_later_process_goes_on(web, get, tmp_path, monkeypatch):
    monkeypatch.setattr(tries, "TRIES", 1)
    web.break_after = [123_456]
    with pytest.raises(RelayError, match="run again to go on"):
        get()
    assert (tmp_path / "to" / "big.bin.part").stat().st_size == 123_456
    assert get() == DATA
    assert web.asked[-1] == (NAME, "bytes=123456-")
    assert not (tmp_path / "to" / "big.bin.part").exists()


@pytest.mark.parametrize("damage", ["note gone", "note cut", "part longer", "part whole"])
def test_what_a_killed_process_left_does_no_harm(damage, web, get, tmp_path, monkeypatch):
    monkeypatch.setattr(tries, "TRIES", 1)
    web.break_after = [123_456]
    with pytest.raises(RelayError):
        get()
    part, note = (tmp_path / "to" / f"big.bin.{ending}" for ending in ("part", "json"))
    if damage == "note gone":
        note.unlink()
    elif damage == "note cut":
        note.write_bytes(note.read_bytes()[:20])
    elif damage == "part longer":
        part.write_bytes(DATA + b"x")
        monkeypatch.setattr(tries, "TRIES", 2)
    else:
        part.write_bytes(DATA)
    before = len(web.asked)
    assert get() == DATA
    assert len(web.asked) - before == {"part whole": 0, "part longer": 2}.get(damage, 1)


@pytest.mark.parametrize(
    ("checksum", "wrong"),
    [
        (Checksum("sha256", hashlib.sha256(DATA).hexdigest(), len(DATA)), None),
        (Checksum("md5", hashlib.md5(DATA).hexdigest().upper()), None),
        (Checksum("sha256", "0" * 64, len(DATA)), "its sha256 is not 0000"),
        (Checksum("sha256", "0" * 64, 5), "300000 bytes instead of 5"),
    ],
)
def test_a_checksum_is_kept_to(checksum, wrong, web, get, tmp_path):
    if wrong is None:
        assert get(expected=checksum) == DATA
        return
    with pytest.raises(RelayError, match=wrong):
        get(expected=checksum)
    assert [path.name for path in (tmp_path / "to").iterdir()] == ["big.bin.lock"]


def test_a_newer_file_is_noticed_when_asked_for(web, get):
    assert get(newest=True) == get(newest=True) == DATA
    assert web.sent[NAME] == len(DATA)
    web.files[NAME] = b"new"
    assert get() == DATA
    assert get(newest=True) == b"new"
    web.files[NAME] = b"newest"
    web.answers[NAME] = [503] * 5
    with pytest.raises(RelayError):
        get(newest=True)
    assert get() == b"new"
    assert get(newest=True) == b"newest"


@pytest.mark.parametrize("how", ["weak ETag", "no length"])
def test_an_update_that_broke_off_says_nothing_of_the_old_file(how, web, get, monkeypatch):
    """What came of it cannot be gone on with, so nothing of it stays; nor may its ETag."""
    web.weak = "W/" if how == "weak ETag" else ""
    web.chunked = how == "no length"
    assert get(newest=True) == DATA
    web.files[NAME] = DATA[::-1]
    web.break_after = [200_000]
    with monkeypatch.context() as patch:
        patch.setattr(tries, "TRIES", 1)
        with pytest.raises(RelayError):
            get(newest=True)
    assert get() == DATA
    assert get(newest=True) == DATA[::-1]


def test_a_process_killed_while_it_publishes_does_no_harm(web, get, tmp_path, monkeypatch):
    assert get(newest=True) == DATA
    web.files[NAME] = DATA[::-1]
    replace = Path.replace

    def die(self, target):
        replace(self, target)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", die)
        with pytest.raises(KeyboardInterrupt):
            get(newest=True)
    web.files[NAME] = DATA
    assert get(newest=True) == DATA


@pytest.mark.parametrize("newest", [True, False])
def test_a_304_that_was_not_asked_for_is_a_failed_try(newest, web, get):
    web.answers[NAME] = [304]
    assert get(newest=newest) == DATA
    assert len(web.asked) == 2


def test_a_stalled_connection_is_given_up(web, get, monkeypatch):
    monkeypatch.setattr(servers, "STALL_SECONDS", 0.05)
    over = threading.Event()
    web.before = lambda path: over.wait(5) if len(web.asked) == 1 else None
    assert get() == DATA
    over.set()
    assert len(web.asked) >= 2


Usage = namedtuple("Usage", "total used free")


def test_a_full_disk_is_told_before_and_during(web, get, tmp_path, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda path: Usage(10**6, 10**6, 1000))
        with pytest.raises(RelayError, match=r"needs another 0\.00 GB, but .* RELAYDET_CACHE"):
            get()
    with monkeypatch.context() as patch:

        def fail(*_):
            raise OSError(errno.ENOSPC, "No space left on device")

        patch.setattr(parts.Part, "append", fail)
        with pytest.raises(RelayError, match="No space left on device"):
            get()
    assert get() == DATA


def test_a_folder_that_cannot_be_written(web, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(RelayError, match="cannot be written"):
        download(web_server(), web.address + NAME, tmp_path / "file" / "x")


def _download(address: str, target: Path) -> None:
    download(web_server(), address, target)


def test_two_processes_at_once_bring_it_once(web, get, tmp_path):
    web.before = lambda path: time.sleep(0.2)
    others = [
        multiprocessing.get_context("fork").Process(
            target=_download, args=(web.address + NAME, tmp_path / "to" / "big.bin")
        )
        for _ in range(3)
    ]
    for process in others:
        process.start()
    assert get() == DATA
    for process in others:
        process.join()
        assert process.exitcode == 0
    assert len(web.asked) == 1


def test_a_killed_download_is_gone_on_with(web, get, tmp_path):
    paused = threading.Event()
    web.break_after = [100_000]
    web.before = lambda path: paused.wait(20) if len(web.asked) == 2 else None
    process = multiprocessing.get_context("fork").Process(
        target=_download, args=(web.address + NAME, tmp_path / "to" / "big.bin")
    )
    process.start()
    while len(web.asked) < 2:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    paused.set()
    assert get() == DATA
    assert web.asked[-1] == (NAME, "bytes=100000-")


@pytest.fixture
def photos(web, tmp_path):
    """Forty small files, and a call that fetches those of some names that are not here."""
    folder = tmp_path / "photos"
    web.files = {f"/p/{n}.jpg": os.urandom(2000 + n) for n in range(40)}

    def fetch(names=range(40), bar=no_bar) -> dict[str, bytes]:
        wanted = [(f"{web.address}/p/{n}.jpg", folder / "files" / f"{n}.jpg") for n in names]
        wanted = [(url, path) for url, path in wanted if not os.path.exists(path)]  # noqa: PTH110
        try:
            fetch_files(web_server(), wanted, folder / "parts", "photos", bar)
        finally:
            here = folder.glob("files/**/*")
            fetch.here = {f"/p/{p.name}": p.read_bytes() for p in here if p.is_file()}
            assert list(folder.glob("parts/*")) == []
        return fetch.here

    return fetch


def test_files_are_fetched_at_once(web, photos):
    bars = []
    assert photos(bar=counting_bar(bars)) == web.files
    assert bars == [["photos", 40, "file", 40]]
    photos()
    assert len(web.asked) == 40


def test_broken_connections_cost_only_their_files_rest(web, photos):
    web.break_after = [0, 100, 2000, 1500, 7]
    assert photos() == web.files
    assert sum(web.sent.values()) <= sum(map(len, web.files.values())) + 5 * BLOCK


def test_files_that_do_not_exist_are_left_out(web, photos):
    assert photos(range(35, 45)) == {f"/p/{n}.jpg": web.files[f"/p/{n}.jpg"] for n in range(35, 40)}


def test_a_fetch_that_fails_goes_on_later(web, photos, monkeypatch):
    monkeypatch.setattr(http, "THREADS", 2)
    web.answers["/p/20.jpg"] = [500] * 5
    with pytest.raises(RelayError, match=r"20\.jpg: gave up after 5 tries"):
        photos()
    some = set(photos.here)
    assert 0 < len(some) < 40
    asked = len(web.asked)
    assert photos() == web.files
    assert set(web.paths()[asked:]) == set(web.files) - some


def test_the_file_that_ends_a_fetch_is_the_one_named(web, photos, monkeypatch):
    monkeypatch.setattr(tries, "FIRST_WAIT_SECONDS", 5)
    web.answers = {"/p/0.jpg": [503] * 9, "/p/9.jpg": [403]}
    with pytest.raises(RelayError, match=r"/p/9\.jpg: access is denied"):
        photos()


def test_a_dead_host_is_not_asked_for_every_file(web, photos):
    web.answers = {path: [500] * 99 for path in web.files}
    with pytest.raises(RelayError, match="gave up after 5 tries"):
        photos()
    assert len(web.asked) <= 2 * http.THREADS * tries.TRIES


def test_names_that_the_disk_cannot_hold_are_left_out(web, photos, tmp_path):
    long = "n" * 300
    web.files |= {f"/p/{long}.jpg": b"x", "/p/0.jpg/deep.jpg": b"y"}
    photos(range(3))
    here = photos([long, "0.jpg/deep", 5])
    assert set(here) == {f"/p/{n}.jpg" for n in (0, 1, 2, 5)}


def test_a_name_that_is_a_folder_of_others_is_left_out(web, photos):
    """Also where the folder is made while the file is on its way."""
    web.files = {"/p/d.jpg": b"file", "/p/d.jpg/e.jpg": b"below"}
    below = threading.Event()
    web.before = lambda path: below.wait(20) if path == "/p/d.jpg" else below.set()
    assert photos(["d", "d.jpg/e"]) == {"/p/e.jpg": b"below"}


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("text/html; charset=utf-8", b"a page without a beginning"),
        ("image/jpeg", b"<html><body>log in</body></html>"),
        ("", b"\xef\xbb\xbf\r\n  <!DOCTYPE HTML PUBLIC><HTML>"),
    ],
)
def test_a_web_page_is_no_image(kind, body, web, photos):
    good = dict(web.files)
    web.files["/p/3.jpg"] = body
    web.headers = {"Content-Type": kind}
    with pytest.raises(RelayError, match=r"/p/\d+\.jpg: the address answers with a web page"):
        photos(range(3, 4))
    assert photos.here == {}
    web.files, web.headers = good, {"Content-Type": "image/jpeg"}
    assert photos() == good


def test_a_drip_does_not_hold_up_an_error(web, photos):
    web.pauses = {"/p/1.jpg": 0.05}
    web.answers = {"/p/9.jpg": [403]}
    web.before = lambda path: time.sleep(0.2 * (path == "/p/9.jpg"))
    with pytest.raises(RelayError, match=r"/p/9\.jpg: access is denied"):
        photos()
    assert 0 < web.sent["/p/1.jpg"] < len(web.files["/p/1.jpg"])


def test_an_image_without_an_end_is_given_up(web, photos, monkeypatch):
    monkeypatch.setattr(http, "IMAGE", Limits(5000, 5000, 20))
    web.lengths = False
    web.files["/p/3.jpg"] = bytes(6000)
    with pytest.raises(RelayError, match=r"3\.jpg: .*more than such a file can have"):
        photos()


@pytest.mark.parametrize("kind", ["length", "chunked", "gzip"])
def test_a_connection_is_used_again(kind, web, photos, monkeypatch):
    monkeypatch.setattr(http, "THREADS", 1)
    web.chunked = kind == "chunked"
    if kind == "gzip":
        web.headers = {"Content-Encoding": "gzip"}
        web.files = {path: gzip.compress(data) for path, data in web.files.items()}
    assert len(photos(range(5))) == 5
    assert len(web.ports) == 1


def test_a_disk_that_is_full_ends_a_fetch(photos, monkeypatch):
    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(parts.Part, "append", fail)
    with pytest.raises(RelayError, match="No space left on device"):
        photos()


def test_old_parts_are_removed(web, photos, tmp_path):
    stale = tmp_path / "photos" / "parts" / "tmpold"
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"x")
    os.utime(stale, (1, 1))
    photos()
    assert not stale.exists()


def test_a_missing_file_has_an_error_of_its_own(web, tmp_path):
    with pytest.raises(NotThereError, match="404"):
        download(web_server(), f"{web.address}/none", tmp_path / "none")
