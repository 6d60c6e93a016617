"""Servers: their addresses in requests and messages, and no way to them noticed soon."""

from __future__ import annotations

import threading

import pytest
from webserver import isolate, serve

from relaydet.addresses import shown
from relaydet.data.images import open_images
from relaydet.data.locations import read_bytes
from relaydet.errors import RelayError
from relaydet.storage import cache, servers
from relaydet.storage.http import download
from relaydet.storage.servers import join, web_server


@pytest.fixture(autouse=True)
def surroundings(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("http://127.0.0.1:9/x", "no connection to 127.0.0.1 .*refused"),
        ("http://nowhere.invalid/x", "no connection to nowhere.invalid"),
        (f"http://{'a' * 70}.invalid/x", "no connection to aaa"),
        ("http:///x", "names no host"),
        ("http://host:99999/x", "not an address"),
        ("http://[::1/x", "not an address"),
    ],
)
def test_no_way_to_the_host(address, message, tmp_path):
    with pytest.raises(RelayError, match=message):
        download(web_server(), address, tmp_path / "x")


def test_a_host_that_never_answers(monkeypatch, tmp_path):
    over = threading.Event()
    monkeypatch.setattr(servers, "CONNECT_SECONDS", 0.05)

    def look_up(*_):
        over.wait(60)
        raise OSError

    monkeypatch.setattr(servers.socket, "create_connection", look_up)
    with pytest.raises(RelayError, match=r"no connection to some\.host \(no answer within 0.05 s"):
        download(web_server(), "http://user:secret@some.host/x?key=secret", tmp_path / "x")
    over.set()


def test_nothing_secret_is_shown():
    assert shown("https://me:secret@host:1/a/b.zip?key=secret") == "https://host:1/a/b.zip"
    folder = cache.cache_folder("https://me:secret@host/a/b.zip?key=secret")
    assert "secret" not in folder.name
    assert folder != cache.cache_folder("https://host/a/b.zip")


@pytest.mark.parametrize(
    "address",
    [
        "http://me:SECRET@127.0.0.1:abc/x?key=SECRET",
        "http://me:SECRET@127.0.0.1:9/x?key=SECRET",
        "http://me:SECRET@[x/y?key=SECRET",
        "http://me:SECRET@a\u2100b/x?key=SECRET",
        "http://me:SECRET@/x?key=SECRET#SECRET",
    ],
)
def test_messages_hold_nothing_secret(address, tmp_path):
    for call in (
        lambda: download(web_server(), address, tmp_path / "x"),
        lambda: read_bytes(address),
        lambda: open_images(address).fetch(["a.jpg"]),
        lambda: open_images(address.replace("/x?", "/x.zip?")).fetch(["a.jpg"]),
    ):
        with pytest.raises(RelayError) as caught:
            call()
        assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("where", ["foo://x", "http://127.0.0.1:9/x", "http://[x/", "/again"])
def test_nor_do_those_about_redirects(where, tmp_path):
    with serve() as web:
        for path in ("/x?key=SECRET", "/again?key=SECRET"):
            web.answers[path] = [302] * 99
        web.headers = {"Location": f"{where}?key=SECRET"}
        with pytest.raises(RelayError) as caught:
            download(web_server(), f"{web.address}/x?key=SECRET", tmp_path / "x")
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("folder", "name", "address"),
    [
        ("http://h/a", "b.jpg", "http://h/a/b.jpg"),
        ("http://h/a/?key=1#x", "b/c d#?.jpg", "http://h/a/b/c%20d%23%3F.jpg?key=1"),
        ("http://h", "50%.jpg", "http://h/50%25.jpg"),
        ("http://h/a", "é.jpg", "http://h/a/%C3%A9.jpg"),
    ],
)
def test_addresses_of_files(folder, name, address):
    assert join(folder, name) == address
