"""What launched processes are given, and what comes back from them."""

from __future__ import annotations

import os
import re
import stat
import subprocess
import sys
from pathlib import Path

import pytest

import relaydet
from relaydet.errors import DataError, RankLostError, RelayError, StoreError
from relaydet.training import launch as module
from relaydet.training.channel import Channel, ToldBar
from relaydet.training.launch import (
    FIND,
    PLACE,
    _fresh_folder,
    _Shown,
    environment_of_ranks,
    launch,
)
from relaydet.training.meeting import has_ipv4_loopback, loopback


def test_ranks_have_this_package_and_nothing_else_from_beside_it(tmp_path):
    """In /kaggle/input a data set named like a module may lie; the current folder is the user's."""
    beside, current, installed = (tmp_path / name for name in ("input", "current", "installed"))
    for folder in (beside, current, installed):
        folder.mkdir()
    for name in ("msgspec", "queue"):
        (beside / f"{name}.py").write_text("raise SystemExit('a file of the user ran')\n")
    (beside / "only_here.py").write_text("")
    (beside / "relaydet").symlink_to(Path(relaydet.__file__).parent)
    for folder in (current, installed):
        (folder / "relaydet.py").write_text("raise SystemExit('another relaydet ran')\n")
    (current / "msgspec.py").write_text("raise SystemExit('a file of the user ran')\n")
    code = f"{FIND} import queue, msgspec, only_here, relaydet.errors; print(relaydet.__file__)"
    done = subprocess.run(
        [sys.executable, "-c", code, str(beside)],
        env={**os.environ, **environment_of_ranks(2, {"PYTHONPATH": str(installed)})},
        cwd=current,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.strip() == str(beside / "relaydet" / "__init__.py")


def test_the_current_folder_comes_last_where_the_package_is_run_as_a_module(tmp_path):
    (tmp_path / "argparse.py").write_text("raise SystemExit('a file of the user ran')\n")
    done = subprocess.run(
        [sys.executable, "-m", "relaydet", "--version"],
        env={**os.environ, "PYTHONPATH": PLACE},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert relaydet.__version__ in done.stdout


def test_processes_share_the_cores_unless_the_user_decides():
    assert environment_of_ranks(10_000, {})["OMP_NUM_THREADS"] == "1"
    assert environment_of_ranks(1, {})["OMP_NUM_THREADS"] == str(os.cpu_count())
    assert environment_of_ranks(2, {"OMP_NUM_THREADS": "7"})["OMP_NUM_THREADS"] == "7"


def test_processes_are_given_no_other_launchers_variables_and_stay_on_this_machine():
    given = {
        "MASTER_ADDR": "cluster.example",
        "MASTER_PORT": "text",
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "ROLE_RANK": "3",
        "GLOO_SOCKET_IFNAME": "eth0",
        "KEPT": "yes",
    }
    found = environment_of_ranks(2, given)
    assert not set(found) & {"MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"}
    assert "ROLE_RANK" not in found
    assert found["GLOO_SOCKET_IFNAME"] == loopback()
    assert loopback() in ("lo", "lo0")
    assert (found["PYTHONSAFEPATH"], found["KEPT"]) == ("1", "yes")


@pytest.mark.parametrize(
    ("given", "has_address", "interface"),
    [
        ({}, True, f"={loopback()}"),
        ({}, False, None),  # NCCL would fail: it takes no IPv6 address of loopback
        ({"NCCL_SOCKET_IFNAME": "ib0"}, True, "ib0"),
    ],
)
def test_nccl_listens_on_loopback_unless_it_cannot_or_the_user_decides(
    monkeypatch, given, has_address, interface
):
    monkeypatch.setattr(module, "has_ipv4_loopback", lambda: has_address)
    assert environment_of_ranks(2, given).get("NCCL_SOCKET_IFNAME") == interface


def test_this_machine_has_loopback():
    assert has_ipv4_loopback()


def told(rank: int, kind: str, message: str) -> dict:
    return {"failure": {"rank": rank, "kind": kind, "message": message}}


@pytest.mark.parametrize(
    ("events", "codes", "stopped", "kind", "message"),
    [
        pytest.param(
            *([told(0, "StoreError", "the disk is full.")], [0, 1], "", StoreError),
            r"^the disk is full\.$",
            id="a mistake",
        ),
        pytest.param(
            [told(0, "RankLostError", "Rank 1 is silent"), told(1, "DataError", "x is broken")],
            *([1, 1], "", DataError, r"^Rank 1: x is broken$"),
            id="what failed by itself goes before who noticed",
        ),
        pytest.param(
            *([told(0, "RankLostError", "Rank 1 is silent")], [1, -9], "", RankLostError),
            r"^Rank 1 died of SIGKILL \(it printed last: the last line\); the last checkpoint",
            id="killed",
        ),
        pytest.param(
            *([], [1, None], "", RelayError),
            r"^Rank 0 ended with code 1; all that the ranks printed is in ",
            id="it could not even start",
        ),
        pytest.param(
            *([], [1, None], "stopped by SIGTERM", RelayError),
            r"^It was stopped by SIGTERM before the first step",
            id="a stop",
        ),
        pytest.param(
            *([{"bar": ["training", 5, 0]}], [None, None], "stopped by SIGTERM", RankLostError),
            r"^Rank 0 does not answer; the last checkpoint is kept",
            id="a rank that hangs while it should stop",
        ),
        pytest.param(
            *([told(1, "annotations", "of no kind")], [0, 1], "", RelayError),
            r"^Rank 1: annotations: of no kind; ",
            id="a name in the errors' module that is no error",
        ),
    ],
)
def test_what_a_failure_comes_to(tmp_path, events, codes, stopped, kind, message):
    channel = Channel(tmp_path)
    channel.log(1).write_text("a warning\nthe last line\n\n")
    shown = _Shown(lambda _line: None, lambda *_: Bar())
    for event in events:
        channel.tell(**event)
    shown.take_all(channel)
    failure = shown.failure(channel, codes, stopped)
    assert type(failure) is kind
    assert re.search(message, str(failure)), failure


class Bar:
    """Shows nothing."""

    n = 0

    def close(self) -> None:
        pass


def test_a_folder_that_cannot_be_made_is_one_sentence(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("RELAYDET_CACHE", str(tmp_path / "file"))
    with pytest.raises(RelayError, match="cannot be written"):
        launch({}, "run", 2, 0, lambda _line: None, lambda *_: Bar())


def test_the_folder_is_the_users_alone(monkeypatch, tmp_path):
    monkeypatch.setenv("RELAYDET_CACHE", str(tmp_path))
    assert stat.S_IMODE(_fresh_folder("run").stat().st_mode) == 0o700


def test_events_come_once_and_in_order_and_half_a_line_waits(tmp_path):
    channel, reader = Channel(tmp_path), Channel(tmp_path)
    assert list(reader.news()) == []
    channel.tell(say="one")
    channel.tell(say="two")
    assert list(reader.news()) == [{"say": "one"}, {"say": "two"}]
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'{"say": "thr')
    assert list(reader.news()) == []
    with (tmp_path / "events.jsonl").open("ab") as file:
        file.write(b'ee"}\n')
    assert list(reader.news()) == [{"say": "three"}]


def test_a_request_to_stop_carries_its_reason(tmp_path):
    ours, theirs = Channel(tmp_path), Channel(tmp_path)
    assert (theirs.stop_reason(), theirs.is_over()) == (None, False)
    ours.ask_to_stop("stopped by SIGINT")
    ours.end_now()
    assert (theirs.stop_reason(), theirs.is_over()) == ("stopped by SIGINT", True)


def test_a_bar_tells_where_it_is_at_its_end_whatever_it_left_out(tmp_path):
    channel = Channel(tmp_path)
    with ToldBar(channel, "training", 50, 7) as bar:
        for _ in range(43):
            bar.update()
        bar.set_postfix(loss="0.5", refresh=False)
    first, *_, last, closed = channel.news()
    assert first == {"bar": ["training", 50, 7]}
    assert last == {"at": 50, "postfix": {"loss": "0.5"}}
    assert closed == {"close": True}
