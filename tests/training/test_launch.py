"""What launched processes are given, and what comes back from them."""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path

import pytest

import relaydet
from relaydet.errors import DataError, RankLostError, RelayError, StoreError
from relaydet.training.channel import Channel, ToldBar
from relaydet.training.launch import _fresh_folder, _Shown, environment_of_ranks, launch
from relaydet.training.meeting import loopback


@pytest.mark.parametrize(
    ("given", "path"), [({}, []), ({"PYTHONPATH": "/elsewhere"}, ["/elsewhere"])]
)
def test_processes_find_the_package_that_started_them(given, path):
    """A notebook may have it from a folder that only its own sys.path names."""
    found = environment_of_ranks(2, given)["PYTHONPATH"].split(os.pathsep)
    assert found == [str(Path(relaydet.__file__).parents[1]), *path]


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
        "NCCL_SOCKET_IFNAME": "eth0",
        "KEPT": "yes",
    }
    found = environment_of_ranks(2, given)
    assert not set(found) & {"MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_USE_AGENT_STORE"}
    assert "ROLE_RANK" not in found
    assert found["GLOO_SOCKET_IFNAME"] == found["NCCL_SOCKET_IFNAME"] == loopback()
    assert loopback() in ("lo", "lo0")
    assert (found["PYTHONSAFEPATH"], found["KEPT"]) == ("1", "yes")


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
