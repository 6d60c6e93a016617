"""Each source alone and all together: every run once, whoever trains it, and one table."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from types import SimpleNamespace

import pytest

from relaydet.config import MergeConfig, StudyConfig
from relaydet.data.demo import write_demo
from relaydet.errors import RelayError
from relaydet.jobs import fleet as module
from relaydet.jobs.merge import merge
from relaydet.jobs.study import study
from relaydet.storage.lease import acquire
from relaydet.storage.store import open_store

RUNS = ["s-search-b4", "s-street-b4", "s-all-b4"]


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def config(tmp_path_factory):
    """A study of three short runs, whose data is there."""
    folder = tmp_path_factory.mktemp("store")
    street, search, inhouse = write_demo(folder / "scenes", sizes=(8, 4, 4))
    for name, sources in {"both": (street, search), "heldout": (inhouse,)}.items():
        merge(MergeConfig(name, sources, ("person",), str(folder)), say=quiet)
    return StudyConfig(
        "s", "both", "heldout", str(folder), (4,), epochs=1, image_size=64, draws=20, device="cpu"
    )


def test_a_study_pauses_goes_on_and_is_not_done_twice(config):
    paused = study(replace(config, max_minutes=0.0), quiet)
    assert paused.unfinished == RUNS[1:], "the first one has a single step"
    assert "run it again to go on" in str(paused)
    done = study(config, quiet)
    assert [run.config.run for run in done.runs] == RUNS
    assert [run.config.include for run in done.runs] == [("search",), ("street",), ()]
    assert not done.unfinished
    said: list[str] = []
    again = study(config, said.append)
    assert not any(line.startswith("device: ") for line in said), "nothing is trained"
    assert again.table == done.table
    lines = done.table.splitlines()
    assert [line.split()[:2] for line in lines[1:4]] == [
        ["search", "4"],
        ["street", "4"],
        ["all", "4"],
    ]
    assert "street" in done.table.partition("all, against")[2]
    written = json.loads(open_store(config.store).read("comparisons/s/study.json"))
    rows = {row["run"]: row for row in written["rows"]}
    assert rows["s-all-b4"]["steps"] == 3
    assert set(rows["s-all-b4"]["AP50"]) == {"value", "low", "high"}
    assert {"study", "precision_recall"} <= set(done.pictures)


def test_what_another_session_trains_is_left_to_it(config, monkeypatch):
    """The other session gives its run back after a look; then it is trained here."""
    config = replace(config, study="t")
    lease = acquire(open_store(config.store), "t-street-b4", "elsewhere", say=quiet)
    said: list[str] = []
    looks: list[float] = []

    def look_again(seconds: float) -> None:
        looks.append(seconds)
        lease.release()

    # Of fleet alone: loader processes, which are forked, sleep as well.
    clock = SimpleNamespace(sleep=look_again, monotonic=time.monotonic)
    monkeypatch.setattr(module, "time", clock)
    try:
        result = study(config, said.append)
    finally:
        lease.release()
    assert looks == [module.LOOK_AGAIN_SECONDS]
    assert not result.unfinished
    told = "\n".join(said)
    assert "others train what is left, or have not given it back (t-street-b4)" in told
    order = [line.rpartition(" ")[2] for line in said if line.startswith("next: ")]
    assert order == ["t-search-b4", "t-all-b4", "t-street-b4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dataset": "heldout"}, "has one source, .*; a study compares several"),
        ({"batch_sizes": ()}, "BATCH_SIZES is empty"),
        ({"study": "a/b"}, "STUDY 'a/b'"),
        ({"dataset": "none"}, "there is no dataset"),
    ],
)
def test_mistakes(config, changes, message):
    with pytest.raises(RelayError, match=message):
        study(replace(config, **changes), quiet)
