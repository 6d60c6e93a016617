"""A store in a folder: files are whole or absent, and trouble is explained."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from relaydet.errors import RelayError, StoreError
from relaydet.storage import troubles
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


@pytest.mark.parametrize("where", ["s3://bucket", "https://host/x"])
def test_other_stores_are_refused(where, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RelayError, match=f"STORE {where}: give a folder .* or gs://bucket/prefix"):
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


NO_LINKS = [errno.EPERM, errno.EACCES, errno.ENOTSUP, errno.ENOSYS, errno.EXDEV]


def fail_with(number: int):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


@pytest.fixture(params=["links", *NO_LINKS], ids=lambda p: errno.errorcode.get(p, p))
def linking(request, monkeypatch):
    """A file system with hard links, and those without, such as Drive's."""
    if request.param != "links":
        monkeypatch.setattr(os, "link", fail_with(request.param))


def test_one_of_many_threads_creates_a_file_in_a_new_store(linking, tmp_path):
    threads = 16
    for round_number in range(10):
        store, ready = LocalStore(tmp_path / f"store{round_number}"), threading.Barrier(threads)

        def create(number: int, store=store, ready=ready) -> bool:
            ready.wait()
            return store.create("a/x.json", b"%03d" % number * 1000)

        with ThreadPoolExecutor(threads) as pool:
            made = list(pool.map(create, range(threads)))
        assert made.count(True) == 1
        assert store.read("a/x.json") == b"%03d" % made.index(True) * 1000
        assert files_in(store) == ["a/x.json"], "no temporary file is left"


def test_one_of_several_processes_creates_a_file(store):
    code = (
        "import sys; from pathlib import Path; from relaydet.storage.local import LocalStore;"
        "store = LocalStore(sys.argv[1]); me = sys.argv[2].encode(); print(flush=True);"
        "sys.stdin.readline();"
        "print([store.create(f'a/{n}.json', me * 100_000) for n in range(100)].count(True))"
    )
    command = [sys.executable, "-c", code, str(store.root)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    racing = [subprocess.Popen([*command, str(number)], **pipes) for number in range(4)]
    for process in racing:
        process.stdout.readline()  # it is ready
    for process in racing:
        process.stdin.write("go\n")
        process.stdin.flush()
    wins = [int(process.communicate(timeout=30)[0]) for process in racing]
    assert sum(wins) == len(store.names("a")) == 100
    wholes = [str(number).encode() * 100_000 for number in range(4)]
    found = [wholes.index(store.read(name)) for name in store.names("a")]
    assert [found.count(number) for number in range(4)] == wins


def test_a_create_without_links_leaves_what_is_there(linking, store, tmp_path):
    (tmp_path / "second").write_bytes(b"second")
    assert store.create("a/x", b"first") is True
    assert store.create("a/x", b"second") is False
    assert store.create("a/x", tmp_path / "second") is False
    assert store.read("a/x") == b"first"
    assert files_in(store) == ["a/x"]


def test_a_create_that_cannot_link_for_another_reason_fails(store, monkeypatch):
    monkeypatch.setattr(os, "link", fail_with(errno.EIO))
    with pytest.raises(StoreError, match=r"a/x: cannot be written"):
        store.create("a/x", b"1")
    monkeypatch.undo()
    assert files_in(store) == []


def put_all(store) -> None:
    """Each way to write, twice: over nothing, and over what is there."""
    for data in (b"1", b"2"):
        store.write("a/x", data)
        with store.folder("out") as put:
            put("b/y", data)
    assert store.create("a/z", b"3")
    assert not store.create("a/z", b"4")


ALL_PUT = {"a/x": b"2", "a/z": b"3", "out/b/y": b"2"}
NO_SUCH_CALL = [errno.ENOTSUP, errno.ENOSYS, errno.EINVAL]


@pytest.mark.parametrize(
    ("calls", "number"),
    [
        *((["os.chmod", "pathlib.Path.chmod"], n) for n in (errno.EPERM, errno.EACCES)),
        *((["os.chmod", "pathlib.Path.chmod"], number) for number in NO_SUCH_CALL),
        *((["os.fsync"], number) for number in NO_SUCH_CALL),
    ],
    ids=lambda value: errno.errorcode[value] if isinstance(value, int) else value[0],
)
def test_a_mount_that_lacks_a_nicety_is_written_to_all_the_same(store, monkeypatch, calls, number):
    for call in calls:
        monkeypatch.setattr(call, fail_with(number))
    put_all(store)
    monkeypatch.undo()
    assert {name: store.read(name) for name in files_in(store)} == ALL_PUT


def test_a_mount_that_renames_only_to_where_nothing_is_is_written_to(store, monkeypatch):
    real = Path.replace

    def replace(path, target):
        if Path(target).exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        return real(path, target)

    monkeypatch.setattr(Path, "replace", replace)
    put_all(store)
    assert {name: store.read(name) for name in files_in(store)} == ALL_PUT


def test_leftovers_that_cannot_be_removed_are_no_reason_not_to_write(store, monkeypatch):
    store.write("a/x", b"1")
    left = store.path("a/.x.1.part")
    left.touch()
    os.utime(left, (0, 0))
    real = Path.unlink

    def unlink(path, **named):
        if path == left:
            raise PermissionError(errno.EPERM, "another user's")
        return real(path, **named)

    monkeypatch.setattr(Path, "unlink", unlink)
    put_all(store)
    assert {name: store.read(name) for name in files_in(store) if name in ALL_PUT} == ALL_PUT
    monkeypatch.undo()
    store.write("a/x", b"3")
    assert not left.exists()


@pytest.mark.parametrize("call", ["os.fsync", "pathlib.Path.chmod"])
def test_what_is_no_nicety_fails(store, monkeypatch, call):
    monkeypatch.setattr(call, fail_with(errno.EIO))
    for put in (CALLS["write"], CALLS["create"]):
        with pytest.raises(StoreError, match="cannot be written"):
            put(store)
    monkeypatch.undo()
    assert files_in(store) == []


@pytest.mark.parametrize("name", ["x" * 250, "a/" + "y" * 300])
def test_a_name_that_is_too_long_is_told(store, name):
    with pytest.raises(StoreError, match="the name is too long: choose a shorter one"):
        store.write(name, b"1")


def test_large_files_are_compared_to_the_last_byte(store, tmp_path):
    data = os.urandom(3_000_000)
    (tmp_path / "original").write_bytes(data)
    store.write("a/x", data)
    assert store.differs("a/x", tmp_path / "original") == ""
    store.write("a/x", data[:-1] + bytes([data[-1] ^ 1]))
    assert store.differs("a/x", tmp_path / "original") == "its bytes are others"


CALLS = {
    "read": lambda store: store.read("a/x"),
    "write": lambda store: store.write("a/x", b"2"),
    "create": lambda store: store.create("a/y", b"2"),
    "differs": lambda store: store.differs("a/x", Path(__file__)),
    "names": lambda store: store.names("a"),
    "folders": lambda store: store.folders("a"),
    "exists": lambda store: store.exists("a/x"),
    "delete": lambda store: store.delete("a/x"),
    "folder": lambda store: store.folder("b").__enter__(),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


@EVERY_CALL
@pytest.mark.parametrize("reopened", [False, True], ids=["written to", "found there"])
def test_a_folder_that_goes_away_is_not_made_again(tmp_path, call, reopened):
    store = LocalStore(tmp_path / "mount" / "store")
    store.write("a/x", b"1")
    if reopened:
        store = LocalStore(tmp_path / "mount" / "store")
    store.root.rename(tmp_path / "elsewhere")
    with pytest.raises(StoreError, match=r"store: cannot be reached .*mount the disk again, or"):
        call(store)
    assert list((tmp_path / "mount").iterdir()) == []
    (tmp_path / "elsewhere").rename(store.root)
    assert store.read("a/x") == b"1"
    assert store.names("a") == ["a/x"]
    call(store)


@EVERY_CALL
def test_a_mount_that_has_died_does_not_look_empty(store, monkeypatch, call):
    store.write("a/x", b"1")
    monkeypatch.setattr(Path, "stat", fail_with(errno.ENOTCONN))
    with pytest.raises(StoreError, match=r"Transport endpoint is not connected"):
        call(store)
    with pytest.raises(StoreError, match=r"Transport endpoint is not connected"):
        LocalStore(store.root)
    monkeypatch.undo()
    assert files_in(store) == ["a/x"]


def test_the_first_write_makes_the_folder(tmp_path):
    store = LocalStore(tmp_path / "new" / "store")
    assert store.names("a") == store.folders("a") == []
    assert not store.exists("a/x")
    store.delete("a/x")
    assert not (tmp_path / "new").exists(), "nothing was asked to be kept yet"
    store.write("a/x", b"1")
    assert files_in(store) == ["a/x"]


DRIVE, DISK = "drive", "disk"


@pytest.mark.parametrize(
    ("number", "where", "remedy"),
    [
        (errno.ENOSPC, DISK, "the disk is full: free space, lower KEEP_GIGABYTES, or choose"),
        (errno.EDQUOT, DISK, "the disk is full: free space, lower KEEP_GIGABYTES, or choose"),
        (errno.ENOTCONN, DISK, "mount the disk again, or choose another STORE"),
        (errno.EIO, DISK, "mount the disk again, or choose another STORE"),
        (errno.EACCES, DISK, "check the permissions, or choose another STORE"),
        (errno.EROFS, DISK, "check the permissions, or choose another STORE"),
        (errno.EBUSY, DISK, "free space or choose another STORE"),
        (errno.ENOSPC, DRIVE, "Drive is full: empty its trash"),
        (errno.EDQUOT, DRIVE, "Drive is full: empty its trash"),
        (
            errno.ENOTCONN,
            DRIVE,
            r"Drive's mount has died: stop this cell .*drive\.mount\(.*run this cell again",
        ),
        (
            errno.EIO,
            DRIVE,
            r"Drive's mount has died: stop this cell .*drive\.mount\(.*run this cell again",
        ),
        (errno.EACCES, DRIVE, "check the permissions, or choose another STORE"),
        (errno.EROFS, DRIVE, "check the permissions, or choose another STORE"),
    ],
    ids=lambda value: errno.errorcode.get(value, "") if isinstance(value, int) else value[:5],
)
def test_trouble_comes_with_its_remedy(number, where, remedy, tmp_path, monkeypatch):
    monkeypatch.setattr(troubles, "DRIVE", tmp_path / DRIVE)
    store = LocalStore(tmp_path / where / "store")
    store.write("a/x", b"1")
    monkeypatch.setattr(os, "fsync", fail_with(number))
    for call in (CALLS["write"], CALLS["create"]):
        with pytest.raises(StoreError, match=rf"a/.: cannot be written \(.*\); .*{remedy}") as told:
            call(store)
        assert str(told.value).startswith(str(store.root)), "it names the file"
    monkeypatch.undo()
    assert store.read("a/x") == b"1"
    assert files_in(store) == ["a/x"]


@pytest.mark.parametrize("where", [DRIVE, DISK])
def test_what_is_deleted_leaves_no_weight_in_drives_trash(where, tmp_path, monkeypatch):
    monkeypatch.setattr(troubles, "DRIVE", tmp_path / DRIVE)
    store = LocalStore(tmp_path / where / "store")
    for name in ("a/x", "b/y", "b/c/z"):
        store.write(name, b"heavy")
        (tmp_path / name.replace("/", "-")).hardlink_to(store.path(name))  # the trash
    store.delete("a/x")
    store.delete("b")
    assert files_in(store) == []
    kept = [(tmp_path / name).read_bytes() for name in ("a-x", "b-y", "b-c-z")]
    assert kept == [b"" if where == DRIVE else b"heavy"] * 3


@pytest.mark.parametrize("name", ["b", "b/file", "b/folder"])
def test_what_a_shortcut_leads_to_stays_whole(name, tmp_path, monkeypatch):
    monkeypatch.setattr(troubles, "DRIVE", tmp_path)
    store = LocalStore(tmp_path / "store")
    for kept in ("kept/1", "kept/2", "b/own"):
        store.write(kept, b"mine")
    store.path("b/file").symlink_to(store.path("kept/1"))
    store.path("b/folder").symlink_to(store.path("kept"))
    store.delete(name)
    assert not os.path.lexists(store.path(name))
    assert store.read("kept/1") == store.read("kept/2") == b"mine"


def test_a_place_is_a_path_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = open_store("here")
    assert store.place("a/b") == f"{tmp_path}/here/a/b"
    assert store.describe("a/b") == "here/a/b"
