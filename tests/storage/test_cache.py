"""The folder on this machine's own disk: found where it can be written to, or told in one line."""

from __future__ import annotations

import errno
import os
import re
import tempfile
from pathlib import Path

import pytest

from relaydet.errors import RelayError
from relaydet.storage import cache
from relaydet.storage.cache import CACHE_VARIABLE, cache_root, check_cache, tell_cache


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """A home and a folder for temporary files of one's own, and nothing looked at before."""
    for name in ("home", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.delenv(CACHE_VARIABLE)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    monkeypatch.setattr(cache, "_looked_at", {})
    monkeypatch.setattr(cache, "_told", set())


@pytest.fixture
def refuse(monkeypatch):
    """Make a folder one that cannot be written to (the tests may run as root)."""
    real = os.open

    def refuse(folder: Path, number: int = errno.EROFS) -> None:
        def open_elsewhere(path, flags, *more, **named):
            if flags & (os.O_WRONLY | os.O_RDWR) and Path(path).is_relative_to(folder):
                raise OSError(number, os.strerror(number), str(path))
            return real(path, flags, *more, **named)

        monkeypatch.setattr(os, "open", open_elsewhere)

    return refuse


def test_it_is_the_home_folders_and_nothing_is_made_or_said(tmp_path):
    said: list[str] = []
    assert cache_root() == check_cache() == tmp_path / "home/.cache/relaydet"
    tell_cache(said.append)
    assert said == []
    assert list((tmp_path / "home").iterdir()) == list((tmp_path / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("home", "why"),
    [
        pytest.param(None, "this machine names no home folder", id="HOME unset, no such user"),
        pytest.param("", "this machine names no home folder", id="HOME empty"),
        pytest.param("home", "this machine names no home folder", id="HOME relative"),
        pytest.param("{}/home", r"home/\.cache/relaydet cannot be written to", id="read only"),
        pytest.param("{}/none", r"none/\.cache/relaydet cannot be written to", id="not there"),
        pytest.param("{}/file", r"cannot be written to: Not a directory", id="HOME is a file"),
    ],
)
def test_without_a_home_it_is_a_folder_of_ones_own_and_that_is_said_once(
    tmp_path, monkeypatch, refuse, home, why
):
    (tmp_path / "file").touch()
    if home is None:
        monkeypatch.delenv("HOME")
        monkeypatch.setattr("pwd.getpwuid", lambda uid: {}[uid])
    else:
        monkeypatch.setenv("HOME", home.format(tmp_path))
    refuse(tmp_path / "home")
    if home == "{}/none":  # what it would be made in
        real = tempfile.TemporaryFile
        monkeypatch.setattr(
            cache.tempfile,
            "TemporaryFile",
            lambda dir: real(dir=dir if dir != tmp_path else "/proc"),
        )
    mine = tmp_path / f"tmp/relaydet-{os.getuid()}"
    assert cache_root() == check_cache() == mine
    assert mine.stat().st_mode & 0o777 == 0o700
    said: list[str] = []
    tell_cache(said.append)
    tell_cache(said.append)
    assert len(said) == 1
    assert said[0].startswith(f"cache: {mine} (")
    assert "RELAYDET_CACHE names another folder" in said[0]
    assert re.search(why, said[0])


@pytest.mark.parametrize("plant", ["link", "file", "others may write", "another's"])
def test_a_folder_that_somebody_else_may_have_put_there_is_not_taken(tmp_path, monkeypatch, plant):
    monkeypatch.setenv("HOME", "")
    mine = tmp_path / f"tmp/relaydet-{os.getuid()}"
    if plant == "link":
        (tmp_path / "theirs").mkdir()
        mine.symlink_to(tmp_path / "theirs")
    elif plant == "file":
        mine.touch()
    else:
        mine.mkdir()
        mine.chmod(0o777 if plant == "others may write" else 0o700)
    if plant == "another's":
        real = os.getuid()
        monkeypatch.setattr(os, "getuid", lambda: real + 1)
        mine.rename(mine.with_name(f"relaydet-{real + 1}"))
    with pytest.raises(RelayError, match=r"relaydet-\d+.*set RELAYDET_CACHE to a folder"):
        cache_root()


def test_a_named_folder_is_taken_as_it_is_and_refused_where_it_cannot_be_written_to(
    tmp_path, monkeypatch, refuse
):
    named = tmp_path / "named/deep"
    monkeypatch.setenv(CACHE_VARIABLE, str(named))
    assert cache_root() == check_cache() == named
    assert not (tmp_path / "named").exists()
    refuse(tmp_path / "named")
    (tmp_path / "named").mkdir()
    assert cache_root() == named, "what lies in it can still be read"
    with pytest.raises(
        RelayError, match=rf"^RELAYDET_CACHE {named}: cannot be written to \(Read-only"
    ):
        check_cache()


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("file/x", "Not a directory"),
        ("link", "a link that leads nowhere"),
        ("x" * 300, "File name too long"),
    ],
)
def test_a_named_folder_that_cannot_be_one_is_refused(tmp_path, monkeypatch, name, why):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / name))
    with pytest.raises(RelayError, match=why):
        check_cache()


def test_tilde_in_the_variable_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv(CACHE_VARIABLE, "~/own")
    assert cache_root() == tmp_path / "home/own"
    monkeypatch.setenv(CACHE_VARIABLE, "~nosuchuser/own")
    with pytest.raises(RelayError, match="RELAYDET_CACHE ~nosuchuser/own: there is no user"):
        cache_root()


def test_a_disk_that_is_dead_is_not_taken_for_a_folder_that_is_not_there(monkeypatch, tmp_path):
    monkeypatch.setenv(CACHE_VARIABLE, str(tmp_path / "mount/x"))
    real = Path.stat

    def stat(path, **named):
        if "mount" in path.parts:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return real(path, **named)

    monkeypatch.setattr(Path, "stat", stat)
    with pytest.raises(RelayError, match="Transport endpoint is not connected"):
        check_cache()
