"""The small files of a run: written, read back, absent, damaged."""

from __future__ import annotations

import json
from datetime import datetime, timezone

import pytest

from relaydet.config import TrainConfig
from relaydet.errors import RelayError
from relaydet.storage.local import LocalStore
from relaydet.training.run_files import RunFiles


@pytest.fixture
def files(tmp_path):
    return RunFiles(LocalStore(tmp_path), "night")


@pytest.mark.parametrize(
    "config",
    [
        pytest.param(TrainConfig(), id="defaults"),
        pytest.param(
            TrainConfig(
                run="night",
                include=("a", "b"),
                epochs=3,
                learning_rate=1e-3,
                max_minutes=2.5,
                deterministic=True,
            ),
            id="everything given",
        ),
    ],
)
def test_the_configuration_comes_back(files, config):
    files.write_config(config)
    assert files.config() == config


def test_the_status_is_what_the_design_says(files, tmp_path):
    files.write_status("paused", 5, 40, 1, "MAX_MINUTES=1 are over")
    status = json.loads((tmp_path / "runs" / "night" / "status.json").read_text())
    assert status == files.status()
    updated = datetime.fromisoformat(status.pop("updated"))
    assert abs((datetime.now(timezone.utc) - updated).total_seconds()) < 60
    assert status == {
        "state": "paused",
        "step": 5,
        "total_steps": 40,
        "epoch": 1,
        "reason": "MAX_MINUTES=1 are over",
    }


def test_the_log_is_written_whole(files, tmp_path):
    lines = [{"step": 10, "losses": {"objectness": 0.5}}, {"step": 20, "losses": {}}]
    files.write_log(lines)
    assert files.log() == lines
    text = (tmp_path / "runs" / "night" / "log.jsonl").read_text()
    assert [json.loads(line) for line in text.splitlines()] == lines
    files.write_log(lines[:1])
    assert files.log() == lines[:1], "a resumed run drops what it repeats"


def test_a_new_run_has_no_files(files):
    assert (files.config(), files.status(), files.log()) == (None, None, [])


@pytest.mark.parametrize(
    ("file", "read", "data"),
    [
        pytest.param("config.json", "config", b'{"run": "nig', id="half a config"),
        pytest.param("config.json", "config", b'{"epochs": "many"}', id="wrong type"),
        pytest.param("config.json", "config", b"", id="empty config"),
        pytest.param("status.json", "status", b"[]", id="status is a list"),
        pytest.param("log.jsonl", "log", b'{"step": 10}\n{"step"', id="half a line"),
    ],
)
def test_a_damaged_file_is_named(files, file, read, data):
    files.store.write(f"runs/night/{file}", data)
    with pytest.raises(RelayError, match=f"{file}: damaged .*new RUN"):
        getattr(files, read)()
