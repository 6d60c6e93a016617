"""What a person types or pastes as a store: cleaned, refused in one sentence, or opened."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from relaydet.errors import RelayError, StoreError
from relaydet.storage import store as module
from relaydet.storage.local import LocalStore
from relaydet.storage.store import clean_location, open_store, try_store


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A current folder and a home of one's own, in which nothing may appear."""
    (tmp_path / "here").mkdir()
    (tmp_path / "home").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("NO_SUCH", raising=False)


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("auto", "auto"),
        ("Auto\n", "auto"),
        ("work", "work"),
        ("/mnt/big", "/mnt/big"),
        ("/mnt/big\n", "/mnt/big"),
        ("/mnt/big\r\n", "/mnt/big"),
        (" /mnt/my photos\t", "/mnt/my photos"),
        ("\ufeff/mnt/big", "/mnt/big"),
        ("\u00a0/mnt/big\u200b", "/mnt/big"),
        ('"/mnt/big"', "/mnt/big"),
        ("'/mnt/big '\n", "/mnt/big"),
        ("\u201c/mnt/big\u201d", "/mnt/big"),
        ("`gs://people/x`", "gs://people/x"),
        ("' \"gs://people/x\" '", "gs://people/x"),
        ("gs://people", "gs://people"),
        ("gs://people/a b#?.c", "gs://people/a b#?.c"),
        ("~/keep", "~/keep"),
        ("./gs:/x", "./gs:/x"),
        ("it's", "it's"),
        ('5"disk', '5"disk'),
        ("cost$", "cost$"),
        ("100%", "100%"),
        ("ümlaut/日本", "ümlaut/日本"),
        ("../work", "../work"),
        (Path("/mnt/big"), "/mnt/big"),
    ],
)
def test_what_is_meant(typed, meant):
    assert clean_location(typed) == meant


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("", r"STORE '': is empty; give a folder .* or gs://bucket/prefix or auto\."),
        (" \n", r"STORE ' \\n': is empty"),
        ("''", r"is empty"),
        ("None", r"STORE None: names no place; give a folder"),
        ("null", r"names no place"),
        ("$HOME/keep", r"STORE \$HOME/keep: \$HOME is not expanded here; write .*/home/keep\."),
        ("${HOME}/keep", r"\$\{HOME\} is not expanded here; write .*/home/keep\."),
        ("%HOME%/keep", r"%HOME% is not expanded here; write .*/home/keep\."),
        ("$NO_SUCH/keep", r"there is no environment variable NO_SUCH; write the path in full"),
        ("gs://$NO_SUCH/x", r"\$NO_SUCH is not expanded here"),
        ("$(pwd)/x", r"commands are not run here"),
        ("{folder}/x", r"\{folder\} was not filled in"),
        ("gs://<bucket>/x", r"<bucket> was not filled in"),
        ("gs:/people/x", r"STORE gs:/people/x: did you mean gs://people/x\?"),
        ("gs:people/x", r"did you mean gs://people/x\?"),
        ("gs//people/x", r"did you mean gs://people/x\?"),
        ("gs:\\\\people\\x", r"did you mean gs://people/x\?"),
        ("GS://people/x", r"did you mean gs://people/x\?"),
        ("gcs://people/x", r"did you mean gs://people/x\?"),
        ("https://storage.googleapis.com/people/x", r"did you mean gs://people/x\?"),
        (
            "https://console.cloud.google.com/storage/browser/people/x?project=p",
            r"did you mean gs://people/x\?",
        ),
        ("gs://", r"STORE gs://: names no bucket; write gs://bucket/folder"),
        ("gs:///x", r"names no bucket"),
        ("gs://People/x", r"'People' is no bucket's name.*did you mean gs://people/x\?"),
        ("gs:// people/x", r"is no bucket's name"),
        ("gs://people/../x", r"has no folders \. and \.\."),
        ("https://drive.google.com/drive/folders/1", r"page of Google Drive; .*/content/drive"),
        ("s3://people/x", r"STORE s3://people/x: give a folder .* or gs://bucket/prefix"),
        ("s3:/people/x", r"give a folder .*write \./s3:/people/x"),
        ("https:/host/x", r"give a folder"),
        ("file:///mnt/x", r"give a folder"),
        ("azure://x", r"give a folder"),
        ("ada@host:work", r"give a folder"),
        ("STORE=gs://people/x", r"give a folder"),
        ("C:\\work", r"is a path of Windows"),
        ("d:/work", r"is a path of Windows"),
        ("work\\run", r"has a backslash in it; did you mean work/run\?"),
        ("my\\ photos", r"did you mean my photos\?"),
        ("a\nb", r"STORE 'a\\nb': has a line break or another control character"),
        ("a\0b", r"control character"),
        ("a\x1b[31mb", r"control character"),
        ("caf\udce9", r"STORE 'caf\\udce9': is not valid UTF-8"),
        ("~nosuchuser/x", r"STORE ~nosuchuser/x: there is no user 'nosuchuser'.*\./~nosuchuser/x"),
        ("x" * 300, r"STORE xx.*\.\.\.: cannot be a folder \(file name too long\)"),
        ("x/" * 3000, r"cannot be a folder \(file name too long\)"),
    ],
)
def test_what_is_no_store_is_refused_and_nothing_is_made(tmp_path, typed, told):
    with pytest.raises(RelayError, match=told) as error:
        open_store(typed)
    assert "\n" not in str(error.value)
    assert "\x1b" not in str(error.value)
    assert not isinstance(error.value, StoreError), "waiting would not help"
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["here", "home"]


def test_a_message_begins_with_what_the_store_was_given_by():
    with pytest.raises(RelayError, match=r"^RESUME_FROM gs:/x: did you mean gs://x\?"):
        open_store("gs:/x", "RESUME_FROM")
    with pytest.raises(RelayError, match=r"^RESUME_FROM '': is empty; give a folder.*prefix\.$"):
        open_store("", "RESUME_FROM")


@pytest.mark.parametrize("home", [None, "", "relative"])
def test_without_a_home_tilde_is_refused(monkeypatch, home):
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    else:
        monkeypatch.setenv("HOME", home)
    with pytest.raises(RelayError, match=r"STORE ~/keep: this machine names no home folder"):
        open_store("~/keep")


@pytest.mark.parametrize("typed", ["~/keep", "'~/keep'\n"])
def test_tilde_is_the_home_folder_also_where_a_folder_has_that_name(tmp_path, typed):
    (tmp_path / "here/~").mkdir()
    store = open_store(typed)
    store.write("a", b"1")
    assert (tmp_path / "home/keep/a").read_bytes() == b"1"
    assert list((tmp_path / "here/~").iterdir()) == []


def test_who_only_reads_needs_a_folder_that_is_there(tmp_path):
    (tmp_path / "here/full").mkdir()
    assert open_store("full", must_exist=True).names("") == []
    with pytest.raises(RelayError, match=r"STORE ful: there is no such folder \(.*here has no 'f"):
        open_store("ful", must_exist=True)
    with pytest.raises(RelayError, match=r"there is no such folder \(.*here has no 'a'\)"):
        open_store("a/b/c", must_exist=True)
    assert not (tmp_path / "here/a").exists()


def test_a_current_folder_that_is_gone_is_told(tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    for location in ("work", "auto"):
        with pytest.raises(RelayError, match=r"STORE work: the current folder is gone; .*%cd"):
            open_store(location)
    store = open_store(tmp_path / "there")
    store.write("a", b"1")
    assert store.read("a") == b"1"


def fail_with(number: int):
    def fail(*_, **__):
        raise OSError(number, os.strerror(number))

    return fail


def test_a_try_leaves_nothing_behind(tmp_path, monkeypatch):
    store = open_store("a/b")
    try_store(store)
    assert list((tmp_path / "here").iterdir()) == []
    monkeypatch.setattr(os, "fsync", fail_with(errno.ENOSPC))
    with pytest.raises(StoreError, match="No space left"):
        try_store(open_store("a/b"))
    monkeypatch.undo()
    assert list((tmp_path / "here").iterdir()) == [], "nor one that fails"


def test_a_try_leaves_what_is_there(tmp_path):
    (tmp_path / "here/a").mkdir()
    try_store(open_store("a"))
    assert [p.name for p in (tmp_path / "here").rglob("*")] == ["a"]


def test_a_store_that_gives_back_other_bytes_is_told(monkeypatch):
    monkeypatch.setattr(LocalStore, "read", lambda self, name: b"other")
    with pytest.raises(RelayError, match="gives back other bytes; choose another STORE"):
        module.try_store(open_store("a"))
