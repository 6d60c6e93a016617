"""The small files of a run: written, read back, absent, damaged."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from relaydet.config import TrainConfig
from relaydet.errors import RelayError
from relaydet.storage.local import LocalStore
from relaydet.training.outlook import look_ahead
from relaydet.training.run_files import Best, RunFiles


@pytest.fixture
def files(tmp_path):
    return RunFiles(LocalStore(tmp_path), "night")


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(TrainConfig(run="night"), id="defaults"),
        pytest.param(
            TrainConfig(
                run="night",
                include=("a", "b"),
                epochs=3,
                learning_rate=1e-3,
                max_minutes=2.5,
                deterministic=True,
                keep_last=4,
                resume_from="gs://bucket/old",
            ),
            id="everything given",
        ),
    ],
)
def test_the_configuration_comes_back(files, config):
    files.write_config(config)
    assert files.config() == config


def test_the_status_is_what_the_design_says(files, tmp_path):
    files.write_status("paused", look_ahead(1, 5, 40, 8.0), 1, "MAX_MINUTES=1 is over")
    status = json.loads((tmp_path / "runs" / "night" / "status.json").read_text())
    assert status == files.status()
    updated = datetime.fromisoformat(status.pop("updated"))
    assert abs((datetime.now(timezone.utc) - updated).total_seconds()) < 60
    assert status == {
        "state": "paused",
        "step": 5,
        "total_steps": 40,
        "epoch": 1,
        "reason": "MAX_MINUTES=1 is over",
        "seconds_left": 70.0,
        "sessions_left": 9,
    }


def test_before_the_first_step_nobody_knows_how_long_it_will_take(files):
    files.write_status("running", look_ahead(5, 5, 40, 8.0), 1)
    status = files.status()
    assert (status["seconds_left"], status["sessions_left"]) == (None, None)
    assert status["reason"] == ""


def test_the_best_checkpoint_comes_back(files, tmp_path):
    files.write_best(Best(30, "heldout", 0.25))
    best = json.loads((tmp_path / "runs" / "night" / "best.json").read_text())
    assert best == {"step": 30, "dataset": "heldout", "AP": 0.25}
    assert files.best() == Best(30, "heldout", 0.25)
    for torn in (b"", b'{"step": 3', b"{}"):
        (tmp_path / "runs" / "night" / "best.json").write_bytes(torn)
        assert files.best() is None


def test_a_configuration_from_before_a_field_was_added_is_read(files):
    files.store.write("runs/night/config.json", b'{"run": "night", "epochs": 3}')
    assert files.config() == TrainConfig(run="night", epochs=3)


def test_files_can_be_handed_to_somebody_who_writes_them_later(files):
    handed = {}
    later = RunFiles(files.store, "night", handed.__setitem__)
    later.write_config(TrainConfig(run="night"))
    later.write_status("running", look_ahead(0, 5, 40, 8.0), 1)
    later.write_log([{"step": 5}])
    later.write_best(Best(5, "heldout", 0.5))
    assert later.config() is None
    assert files.store.names("runs/night") == []
    assert set(handed) == {
        f"runs/night/{file}" for file in ("config.json", "status.json", "log.jsonl", "best.json")
    }
    for name, data in handed.items():
        files.store.write(name, data)
    assert later.config() == files.config() == TrainConfig(run="night")
    assert later.status()["step"] == 5
    assert (_steps(later), later.best().step) == ([5], 5)


def test_the_log_is_written_whole(files, tmp_path):
    lines = [{"step": 10, "losses": {"objectness": 0.5}}, {"step": 20, "losses": {}}]
    files.write_log(lines)
    assert [(line["step"], line["losses"]) for line in files.log(_fail)] == [
        (10, {"objectness": 0.5}),
        (20, {}),
    ]
    text = (tmp_path / "runs" / "night" / "log.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == lines
    files.write_log(lines[:1])
    assert _steps(files) == [10], "a resumed run drops what it repeats"


def test_a_new_run_has_no_files(files):
    assert (files.config(), files.status(), files.log(_fail)) == (None, None, [])
    assert files.best() is None


@pytest.mark.parametrize(
    ("file", "read", "data"),
    [
        pytest.param("config.json", "config", b'{"run": "nig', id="half a config"),
        pytest.param("config.json", "config", b'{"epochs": "many"}', id="wrong type"),
        pytest.param("config.json", "config", b"", id="empty config"),
        *(
            pytest.param("status.json", "status", data, id=f"status is {data[:40]!r}")
            for data in (
                b"[]",
                b"null",
                b'{"stat\xe5": "paused", "step": 5}',
                b'{"step": 1, "total_steps": 2}',
                b'{"state": "gone", "step": 1, "total_steps": 2}',
                b'{"state": "done", "step": "1", "total_steps": 2}',
                b'{"state": "done", "step": -1, "total_steps": 2}',
                b'{"state": "done", "step": 1e999, "total_steps": 2}',
                b'{"state": "done", "step": 1, "total_steps": 2, "seconds_left": "x"}',
                b'{"state": "done", "step": 1, "total_steps": 2, "seconds_left": 1e300}',
                b'{"state": "done", "step": 1, "total_steps": 2, "sessions_left": 0.5}',
                b'{"state": "done", "step": 1, "total_steps": 2, "updated": 3}',
                b"[" * 100_000,
            )
        ),
    ],
)
def test_a_damaged_file_is_named(files, file, read, data):
    files.store.write(f"runs/night/{file}", data)
    with pytest.raises(RelayError, match=f"{file}: damaged .*(new RUN|train the run again)"):
        getattr(files, read)()


@pytest.mark.parametrize(
    "torn", [b"", b"{", b'{"step": 2, "lo', b'{"step": 2}', b"\x80", b"[" * 9999]
)
def test_a_last_line_that_a_kill_cut_off_is_left_out(files, torn):
    files.store.write("runs/night/log.jsonl", b'{"step": 1}\n' + torn)
    assert _steps(files) == ([1, 2] if torn.endswith(b"}") else [1])


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"{}",
        b"\x80",
        b'{"st\xe5p": 2}',
        b'{"step": "2"}',
        b'{"step": null}',
        b'{"step": 2.5}',
        b'{"step": -2}',
        b'{"step": 1' + b"0" * 400 + b"}",
        b'{"step": 2, "loss": "high"}',
        b'{"step": 2, "losses": [1]}',
        b'{"step": 2, "losses": {"box": {}}}',
        b'{"step": 2, "lr": [], "time": 5}',
        b"[" * 100_000,
        b'{"step": 2}\x00',
    ],
)
def test_a_damaged_line_of_the_log_is_lost_alone(files, line):
    files.store.write("runs/night/log.jsonl", b'{"step": 1}\n' + line + b'\n{"step": 3}\n')
    said = []
    assert [found["step"] for found in files.log(said.append)] == [1, 3]
    (told,) = said
    where = files.store.describe("runs/night/log.jsonl")
    assert told.startswith(f"{where}: 1 line is damaged and left out (line 2: ")
    assert len(told) < 400


def test_damaged_lines_are_counted(files):
    said = []
    files.store.write("runs/night/log.jsonl", b'{"step": 1}\n{}\n[]\n{"step": 3}\nxx')
    assert [found["step"] for found in files.log(said.append)] == [1, 3]
    assert "log.jsonl: 2 lines are damaged and left out (line 2: " in said[0]


def _fail(line: str) -> None:
    pytest.fail(line)


def _steps(files: RunFiles) -> list[int]:
    return [line["step"] for line in files.log(_fail)]
