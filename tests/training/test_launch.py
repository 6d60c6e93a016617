"""What launched processes are given, and what comes back from them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import relaydet
from relaydet.training.channel import Channel, ToldBar
from relaydet.training.launch import environment_of_ranks


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
