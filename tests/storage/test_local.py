"""A store in a folder: files are whole or absent, and trouble is explained."""

from __future__ import annotations

import errno

import pytest

from relaydet.errors import RelayError
from relaydet.storage.local import LocalStore
from relaydet.storage.store import open_store


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path / "store")


def files_in(store) -> list[str]:
    return sorted(
        p.relative_to(store.root).as_posix() for p in store.root.rglob("*") if p.is_file()
    )


@pytest.mark.parametrize("data", [b"", b"abc", bytes(range(256)) * 5000], ids=["0", "3", "1280000"])
def test_what_was_written_is_read(store, data):
    store.write("runs/a/x.bin", b"what was there before")
    store.write("runs/a/x.bin", data)
    assert store.read("runs/a/x.bin") == data
    assert store.exists("runs/a/x.bin")
    assert files_in(store) == ["runs/a/x.bin"], "no temporary file is left"


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.replace"])
def test_a_write_that_fails_leaves_what_was_there(store, monkeypatch, call):
    store.write("a.json", b"before")

    def fail(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(call, fail)
    with pytest.raises(RelayError, match=r"a\.json: cannot be written \(No space left on device\)"):
        store.write("a.json", b"after")
    monkeypatch.undo()
    assert store.read("a.json") == b"before"
    assert files_in(store) == ["a.json"]


def test_names_are_those_of_one_folder(store):
    for name in ("runs/b.txt", "runs/a.txt", "runs/.a.txt.tmp", "runs/below/c.txt", "d.txt"):
        store.write(name, b"")
    assert store.names("runs") == store.names("runs/") == ["runs/a.txt", "runs/b.txt"]
    assert store.names("nowhere") == []
    assert store.names("d.txt") == []


def test_a_file_is_deleted_and_none_there_is_fine(store):
    store.write("runs/a.txt", b"")
    store.delete("runs/a.txt")
    store.delete("runs/a.txt")
    store.delete("nowhere/a.txt")
    assert not store.exists("runs/a.txt")
    assert not store.exists("runs"), "a folder is no file"


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda s: s.read("none.txt"), id="read what is not there"),
        pytest.param(lambda s: s.read("folder"), id="read a folder"),
        pytest.param(lambda s: s.write("file/below.txt", b""), id="write below a file"),
        pytest.param(lambda s: s.write("folder", b""), id="write over a folder"),
        pytest.param(lambda s: LocalStore(s.root / "file"), id="a store that is a file"),
        pytest.param(lambda s: LocalStore(s.root / "file" / "x"), id="a store below a file"),
    ],
)
def test_trouble_is_explained(store, act):
    store.write("file", b"kept")
    store.write("folder/in.txt", b"kept")
    with pytest.raises(RelayError, match=r"(none|file|folder|below).*cannot be"):
        act(store)
    assert files_in(store) == ["file", "folder/in.txt"]


@pytest.mark.parametrize("where", ["gs://bucket/prefix", "s3://bucket", "https://host/x"])
def test_other_stores_are_refused(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RelayError, match="folders only"):
        open_store(where)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("location", "folder"), [("auto", "work"), ("here/deep", "here/deep"), ("~/x", "home/x")]
)
def test_open_store(location, folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    store = open_store(location)
    assert store.root == tmp_path / folder
    store.write("a.txt", b"x")
    monkeypatch.chdir("/")
    assert store.read("a.txt") == b"x", "it stays where it was opened"


def test_a_file_may_come_in_pieces(tmp_path):
    store = LocalStore(tmp_path)
    store.write("a/b", iter([b"1", b"23"]))
    assert store.read("a/b") == b"123"


def test_a_folder_is_put_whole_or_not_at_all(tmp_path):
    store = LocalStore(tmp_path)
    for text in (b"1", b"2"):
        with store.folder("out/voc") as put:
            put(f"a/{text.decode()}.xml", text)
    assert [p.name for p in (tmp_path / "out/voc/a").iterdir()] == ["2.xml"]

    def fail() -> None:
        with store.folder("out/voc") as put:
            put("a/3.xml", b"3")
            raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        fail()
    assert [p.name for p in (tmp_path / "out").rglob("*")] == ["voc", "a", "2.xml"]
