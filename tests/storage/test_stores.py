"""What every store does alike, in a folder and in a bucket."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from relaydet.errors import RelayError, StoreError
from relaydet.storage.store import open_store

SMALL, LARGE = 3, 20_000_000
CONTENTS = [
    pytest.param(b"", id="nothing"),
    pytest.param(b"abc", id="3 bytes"),
    pytest.param(bytes(range(256)) * 5000, id="1.3 MB"),
]


@pytest.fixture
def store(any_store):
    return any_store


@pytest.mark.parametrize("data", CONTENTS)
def test_what_was_written_is_read(store, data):
    store.write("runs/a/x.bin", b"what was there before")
    store.write("runs/a/x.bin", data)
    assert store.read("runs/a/x.bin") == data


@pytest.mark.parametrize("name", ["a b#?.txt", "ümlaut/日本.txt", "per%20cent.txt", "a+b&c=d.txt"])
def test_any_name_is_kept(store, name):
    store.write(f"x/{name}", b"1")
    assert store.read(f"x/{name}") == b"1"
    assert store.create(f"x/{name}", b"2") is False
    folder = f"x/{name}".rpartition("/")[0]
    assert store.names(folder) == [f"x/{name}"]
    store.delete(f"x/{name}")
    assert not store.exists(f"x/{name}")


def test_how_large_a_file_is(store):
    store.write("a/b", b"12345")
    store.write("a/empty", b"")
    names = ("a/b", "a/empty", "a", "a/c", "d/e")
    assert [store.size(name) for name in names] == [5, 0, None, None, None]


@pytest.mark.parametrize(
    ("there", "before", "data", "done"),
    [
        pytest.param(b"ab", b"ab", b"cd", True, id="as it was left"),
        pytest.param(b"", b"", b"cd", True, id="empty"),
        pytest.param(b"abc", b"ab", b"cd", True, id="a part of it is there"),
        pytest.param(b"abcd", b"ab", b"cd", True, id="all of it is there"),
        pytest.param(b"abcde", b"ab", b"cd", False, id="more is there"),
        pytest.param(b"abx", b"ab", b"cd", False, id="something else is there"),
        pytest.param(b"a", b"ab", b"cd", False, id="shorter"),
        pytest.param(b"xb", b"ab", b"cd", False, id="another beginning"),
        pytest.param(None, b"", b"cd", False, id="gone"),
        pytest.param(b"x" * 5000 + b"b", b"a" * 5000 + b"b", b"cd", False, id="long, another"),
        pytest.param(b"a" * 5000, b"a" * 5000, b"cd", True, id="long"),
        pytest.param(b"a" * 4999, b"a" * 5000, b"cd", False, id="long, and shorter"),
    ],
)
def test_bytes_are_appended_to_what_was_left(store, there, before, data, done):
    """A bucket cannot: whoever wants it then writes the whole file."""
    if there is not None:
        store.write("a/log", there)
    done = done and not store.location.startswith("gs://")
    assert store.append("a/log", before, data) is done
    if done:
        assert store.read("a/log") == before + data
    elif there is not None:
        assert store.read("a/log") == there


def test_pieces_become_one_file(store):
    store.write("a/b", iter([b"1", memoryview(b"23"), b"", b"4"]))
    assert store.read("a/b") == b"1234"


def test_what_is_not_there_is_no_trouble_of_the_store(store):
    store.write("runs/a/x", b"1")
    for name in ("runs/none", "runs/a"):
        with pytest.raises(RelayError, match=f"{name}: cannot be read") as told:
            store.read(name)
        assert not isinstance(told.value, StoreError), "waiting would not help"


@pytest.mark.parametrize("size", [SMALL, LARGE], ids=["small", "large"])
def test_a_file_of_this_machine_is_put_whole(store, tmp_path, size):
    original = tmp_path / "original.bin"
    original.write_bytes(os.urandom(size))
    assert store.differs("c/x.bin", original) == "it is not there"
    assert store.create("c/x.bin", original) is True
    assert store.differs("c/x.bin", original) == ""
    assert store.read("c/x.bin") == original.read_bytes()


@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "a file"])
def test_what_is_there_stays_as_it_is(store, tmp_path, as_file):
    (tmp_path / "other").write_bytes(b"other")
    other = tmp_path / "other" if as_file else b"other"
    assert store.create("a/b.json", b"first") is True
    assert store.create("a/b.json", other) is False
    assert store.read("a/b.json") == b"first"
    store.delete("a/b.json")
    assert store.create("a/b.json", other) is True
    assert store.read("a/b.json") == b"other"


def test_one_of_many_creates_a_file(store):
    threads = 16
    for round_number in range(4):
        name, ready = f"leases/{round_number}.json", threading.Barrier(threads)

        def create(number: int, name=name, ready=ready) -> bool:
            ready.wait()
            return store.create(name, b"%03d" % number * 1000)

        with ThreadPoolExecutor(threads) as pool:
            made = list(pool.map(create, range(threads)))
        assert made.count(True) == 1
        assert store.read(name) == b"%03d" % made.index(True) * 1000


@pytest.mark.parametrize(
    ("stored", "told"),
    [
        pytest.param(b"0123456789", "", id="equal"),
        pytest.param(b"01234", "it has 5 of 10 bytes", id="shorter"),
        pytest.param(b"0123456789a", "it has 11 of 10 bytes", id="longer"),
        pytest.param(b"0123456780", "its bytes are others", id="flipped"),
        pytest.param(b"", "it has 0 of 10 bytes", id="empty"),
        pytest.param(None, "it is not there", id="missing"),
    ],
)
def test_a_stored_file_is_compared(store, tmp_path, stored, told):
    (tmp_path / "original").write_bytes(b"0123456789")
    if stored is not None:
        store.write("c/x", stored)
    assert store.differs("c/x", tmp_path / "original") == told


def test_a_folder_lists_what_is_right_in_it(store):
    for name in ("runs/b.txt", "runs/a.txt", "runs/z/1.txt", "runs/c/d/e.txt", "runs2/x", "d.txt"):
        store.write(name, b"")
    assert store.names("runs") == store.names("runs/") == ["runs/a.txt", "runs/b.txt"]
    assert store.folders("runs") == store.folders("runs/") == ["runs/c", "runs/z"]
    assert store.folders("runs/c") == ["runs/c/d"]
    for nothing in ("nowhere", "d.txt", "run"):
        assert store.names(nothing) == store.folders(nothing) == []


def test_files_exist_and_folders_do_not(store):
    store.write("runs/a.txt", b"")
    assert store.exists("runs/a.txt")
    for other in ("runs", "runs/a", "runs/a.txt2", "a.txt", "none/a.txt"):
        assert not store.exists(other), other


def test_a_file_or_a_folder_is_deleted_and_nothing_beside_it(store):
    for name in ("x/a.txt", "x/a/1", "x/a/b/2", "x/ab/3", "x/b"):
        store.write(name, b"1")
    store.delete("x/a")
    assert store.folders("x") == ["x/ab"]
    assert store.names("x") == ["x/a.txt", "x/b"]
    store.delete("x/a.txt")
    store.delete("x/a.txt")
    store.delete("nowhere/at/all")
    assert store.names("x") == ["x/b"]
    assert store.read("x/ab/3") == b"1"


def test_a_folder_is_exchanged_as_a_whole(store):
    store.write("out/beside.txt", b"stays")
    for text in ("1", "2"):
        with store.folder("out/voc") as put:
            put(f"a/{text}.xml", text.encode())
    assert store.names("out/voc/a") == ["out/voc/a/2.xml"]

    def fail() -> None:
        with store.folder("out/voc") as put:
            put("a/3.xml", b"3")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert store.names("out/voc/a") == ["out/voc/a/2.xml"]
    assert store.names("out") == ["out/beside.txt"]


def test_a_name_is_described_and_placed_where_it_can_be_opened(store):
    store.write("runs/a.txt", b"1")
    assert store.describe("runs/a.txt") == f"{store.location}/runs/a.txt"
    folder = open_store(store.place("runs"))
    assert folder.read("a.txt") == b"1"
    assert open_store(store.place("")).read("runs/a.txt") == b"1"
