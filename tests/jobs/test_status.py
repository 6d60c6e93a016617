"""What `relaydet status` says of runs in every state, and of damaged ones."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta, timezone

import msgspec
import pytest

from relaydet.cli import main
from relaydet.jobs.status import status
from relaydet.storage.lease import acquire
from relaydet.storage.local import LocalStore
from relaydet.training.outlook import look_ahead
from relaydet.training.run_files import RunFiles


@pytest.fixture
def store(tmp_path):
    store = LocalStore(tmp_path)
    paused = RunFiles(store, "paused")
    paused.write_status("paused", look_ahead(0, 30, 120, 30 * 80.0), 1, "MAX_MINUTES are over")
    paused.write_log([{"step": 30, "seconds_per_step": 80.0}])
    RunFiles(store, "finished").write_status("done", look_ahead(0, 120, 120, 60.0), 4)
    store.write("runs/finished/evaluations/held/metrics.json", b'{"AP50": 0.5}')
    for run in ("dead", "alive"):
        RunFiles(store, run).write_status("running", look_ahead(0, 1, 120, 60.0), 1)
    store.write("runs/young/config.json", b"{}")
    store.write("runs/broken/status.json", b"{")
    store.write("runs/odd/status.json", b'{"state": 3}')
    RunFiles(store, "half").write_status("done", look_ahead(0, 1, 1, 1.0), 1)
    store.write("runs/half/evaluations/held/metrics.json", b"{")
    return store


def test_every_run_is_told(store, tmp_path):
    said = []
    runs = {run.run: run for run in status(str(tmp_path), say=said.append)}
    states = {name: run.state for name, run in runs.items()}
    assert states == {
        "paused": "paused",
        "finished": "done",
        "young": "new",
        "broken": "damaged",
        "odd": "damaged",
        "half": "done",
        "dead": "interrupted",
        "alive": "interrupted",
    }
    assert runs["paused"].seconds_left == 90 * 80
    assert runs["paused"].sessions_left == 3
    assert runs["dead"].sessions_left is None
    assert runs["finished"].seconds_left is None
    assert runs["finished"].ap50 == {"held": 0.5}
    assert runs["half"].ap50 is None
    assert "held/metrics.json: damaged (" in runs["half"].reason
    assert runs["half"].reason.endswith("; evaluate the run again")
    table = said[0]
    assert "30/120 (25%)" in table
    assert "2 h 00 min (3 more sessions)" in table
    assert "MAX_MINUTES are over" in table
    assert "0.500 held" in table
    assert "status.json: damaged" in table


def test_a_run_is_one_line_whatever_its_folder_and_its_files_hold(tmp_path):
    store, said = LocalStore(tmp_path), []
    RunFiles(store, "a").write_status(
        "failed", look_ahead(0, 1, 2, 1.0), 1, "x\r\nb  done\t\x1b[2J"
    )
    (tmp_path / "runs" / "b\n\u202ec").mkdir()
    status(str(tmp_path), say=said.append)
    header, *lines = said[0].split("\n")
    assert header.startswith("run")
    assert [line.split("  ")[0] for line in lines] == ["a", r"b\n\u202ec"]
    assert r"x\u000d\nb  done\t\u001b[2J" in lines[0]


def test_it_says_when_all_will_be_done(store, tmp_path):
    listed = [{"run": name} for name in ("paused", "later", "sometime")]
    store.write("fleets/team.json", json.dumps(listed).encode())
    store.write("fleets/broken.json", b"[")
    said = []
    status(str(tmp_path), say=said.append)
    assert said[-1] == (
        "2 of 10 runs are done, 0 in training; about 5 h 58 min of training left for those under"
        " way; 3 not begun"
    )
    lease = acquire(store, "alive", "colab")
    try:
        status(str(tmp_path), say=said.append)
    finally:
        lease.release()
    assert "1 in training; about 5 h 58 min left for those under way" in said[-1]


def test_json_alone(store, tmp_path, capsys):
    assert main(["status", "--store", str(tmp_path), "--json"]) == 0
    runs = json.loads(capsys.readouterr().out)
    assert {run["run"] for run in runs} == {
        *("paused", "finished", "young", "broken", "odd", "half", "dead", "alive")
    }


def test_who_trains_a_run_is_told(store, tmp_path):
    lease = acquire(store, "alive", "colab")
    try:
        said = []
        runs = {run.run: run for run in status(str(tmp_path), say=said.append)}
        assert (runs["alive"].state, runs["dead"].state) == ("running", "interrupted")
        assert runs["alive"].holder == f"{lease.holder.host} (colab)"
        assert runs["alive"].holder in said[0]
    finally:
        lease.release()
    (after,) = (run for run in status(str(tmp_path), say=said.append) if run.run == "alive")
    assert (after.state, after.holder) == ("interrupted", "")


@pytest.mark.parametrize(
    ("age", "state", "reason"),
    [
        (10, "running", ""),
        (4000, "silent", "not renewed since 20"),
        (-4000, "silent", "clocks disagree: that of far is 1:06:40 h ahead of"),
    ],
)
def test_what_only_a_wall_clock_tells_is_not_called_dead_or_alive(
    store, tmp_path, age, state, reason
):
    """A table does not wait to see whether a lease is renewed."""
    renewed = datetime.now(timezone.utc) - timedelta(seconds=age)
    times = {"renewed": renewed, "expires": renewed + timedelta(seconds=180)}
    lease = {"owner": "o", "token": 1, "host": "far", "runtime": "colab", **times}
    store.write("runs/alive/lease.json", msgspec.json.encode(lease))
    runs = {run.run: run for run in status(str(tmp_path), say=str)}
    assert runs["alive"].state == state
    assert runs["alive"].reason.startswith(reason)
    assert runs["alive"].holder == ("far (colab)" if state == "running" else "")


def test_no_run_yet(tmp_path, capsys):
    assert main(["status", "--store", str(tmp_path)]) == 0
    assert "There is no run in" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["status", "evaluate", "study", "fleet"])
def test_who_only_reads_is_told_of_a_store_that_is_not_there(tmp_path, capsys, command):
    assert main([command, "--store", str(tmp_path / "none")]) == 2
    assert f"STORE {tmp_path}/none: there is no such folder" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_nothing_heavy_is_imported(tmp_path):
    code = (
        "import sys; from relaydet.cli import main;"
        f"main(['status', '--store', {str(tmp_path)!r}]);"
        "print([name for name in ('torch', 'matplotlib', 'requests') if name in sys.modules])"
    )
    answer = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines()[-1] == "[]"
