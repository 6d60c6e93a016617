"""Bodies of answers: unpacked whole or not at all, limited, and given up where they only drip."""

from __future__ import annotations

import gzip
import os
import zlib

import pytest
from webserver import isolate, serve

from relaydet.errors import RelayError
from relaydet.storage import bodies, tries
from relaydet.storage.http import download, fetch_files
from relaydet.storage.servers import Server, web_server

DATA = os.urandom(100_000) + bytes(200_000)
NAME = "/big.bin"


@pytest.fixture
def web(monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    with serve() as web:
        web.files[NAME] = DATA
        yield web


@pytest.fixture
def target(tmp_path):
    return tmp_path / "big.bin"


@pytest.fixture(params=["download", "fetch_files"])
def get(request, web, target, tmp_path):
    """Bring the file in either way."""

    def get(server: Server | None = None) -> bytes:
        server = server or web_server()
        if request.param == "download":
            download(server, web.address + NAME, target)
        else:
            fetch_files(server, [(web.address + NAME, target)], tmp_path / "parts", "files")
        return target.read_bytes()

    return get


def raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    return packer.compress(data) + packer.flush()


def two_members(data: bytes) -> bytes:
    return gzip.compress(data[:50_000]) + gzip.compress(data[50_000:])


PACKED = [
    ("gzip", gzip.compress),
    ("GZip ", gzip.compress),
    ("x-gzip", gzip.compress),
    ("gzip", two_members),
    ("deflate", zlib.compress),
    ("deflate", raw_deflate),
    ("identity", bytes),
    ("", bytes),
]


@pytest.mark.parametrize("chunked", [True, False])
@pytest.mark.parametrize(("encoding", "pack"), PACKED)
def test_what_was_packed_on_the_way_is_unpacked(encoding, pack, chunked, web, get):
    web.files[NAME] = pack(DATA)
    web.headers = {"Content-Encoding": encoding}
    web.chunked = chunked
    assert get() == DATA


@pytest.mark.parametrize(("encoding", "pack"), PACKED[:6])
@pytest.mark.parametrize("kept", [0.0, 0.1, 0.5, 0.99])
def test_half_of_what_was_packed_is_not_all_of_it(encoding, pack, kept, web, get, target):
    packed = pack(DATA)
    web.files[NAME] = packed[: int(kept * len(packed))]
    web.headers = {"Content-Encoding": encoding}
    with pytest.raises(RelayError, match=r"gave up after 5 tries \(.*cut off"):
        get()
    assert not target.exists()
    web.files[NAME] = packed
    assert get() == DATA


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
def test_damage_is_told(encoding, web, get, target):
    web.files[NAME] = b"not packed at all"
    web.headers = {"Content-Encoding": encoding}
    with pytest.raises(RelayError, match="damaged"):
        get()
    assert not target.exists()


@pytest.mark.parametrize("encoding", ["br", "zstd", "gzip, gzip", "compress"])
def test_what_cannot_be_unpacked_is_refused(encoding, web, get, target):
    web.headers = {"Content-Encoding": encoding}
    with pytest.raises(RelayError, match=f"packs it as '{encoding}', which was not asked for"):
        get()
    assert len(web.asked) == 1
    assert not target.exists()


def test_a_bomb_is_given_up_early(web, get, target, tmp_path, monkeypatch):
    web.files[NAME] = gzip.compress(bytes(64 << 20))
    web.headers = {"Content-Encoding": "gzip"}
    monkeypatch.setattr(bodies, "READ_BYTES", 1 << 16)
    with pytest.raises(RelayError, match="more than such a file can have"):
        get()
    assert not target.exists()
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.part")) == 0


class WithoutRead1:
    """What urllib3 1.26 has."""

    def __init__(self, raw) -> None:
        self.read, self.close, self.release_conn = raw.read, raw.close, raw.release_conn


@pytest.mark.parametrize("encoding", ["gzip", "identity"])
def test_an_old_client_library_will_do(encoding, web, get):
    server = web_server()

    def ask(url, headers):
        response = server.get(url, headers)
        response.raw = WithoutRead1(response.raw)
        return response

    web.headers = {"Content-Encoding": encoding}
    web.files[NAME] = gzip.compress(DATA) if encoding == "gzip" else DATA
    assert get(Server(ask)) == DATA


def test_a_drip_is_given_up(web, get, monkeypatch):
    monkeypatch.setattr(bodies, "SLOW_SECONDS", 0.03)
    monkeypatch.setattr(bodies, "SLOWEST", 100_000)
    monkeypatch.setattr(tries, "MANY_TRIES", 3)
    web.pauses = {NAME: 0.01}
    with pytest.raises(RelayError, match=r"gave up after 3 tries for .*only \d+ bytes came in"):
        get()
    assert len(web.asked) == 3


def test_nothing_that_came_before_a_break_is_lost(web, get, monkeypatch):
    monkeypatch.setattr(bodies, "READ_BYTES", 1 << 16)
    web.break_after = [60_000] * 4
    assert get() == DATA
    assert web.sent[NAME] == len(DATA)


def test_breaks_that_each_bring_next_to_nothing_are_given_up(web, get):
    web.break_after = [100] * 30
    with pytest.raises(RelayError, match="gave up after 20 tries for 2000 bytes"):
        get()
    assert len(web.asked) == 20
