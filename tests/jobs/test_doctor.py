"""`relaydet doctor`: a line for each thing that a run needs, with the remedy, and the exit code."""

from __future__ import annotations

import errno
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
import requests
import torch

from relaydet.cli import main
from relaydet.config import DoctorConfig, TrainConfig
from relaydet.errors import RelayError
from relaydet.jobs import doctor as module
from relaydet.jobs.doctor import FAIL, OK, WARN, doctor
from relaydet.jobs.train import train
from relaydet.runtime import limits
from relaydet.runtime.detect import Runtime
from relaydet.storage import cache

FREE_SPACE = module._free_space
LAB = Runtime("local", "by the test", True, True)


@pytest.fixture(autouse=True)
def machine(monkeypatch, tmp_path):
    """A plain machine with internet, enough memory and a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(module, "detect", lambda: LAB)
    monkeypatch.setattr(requests, "head", lambda *_, **__: None)
    monkeypatch.setattr(module, "_available_memory", lambda: 16e9)
    monkeypatch.setattr(module, "_free_space", lambda folder: 100e9)
    for name in ("RELAYDET_STORE", limits.SESSION_VARIABLE):
        monkeypatch.delenv(name, raising=False)


def look(**parameters):
    said: list[str] = []
    result = doctor(DoctorConfig(**parameters), said.append)
    return {finding.check: finding for finding in result.findings}, result, "\n".join(said)


def test_a_sound_machine_is_told_line_by_line(tmp_path):
    found, result, said = look(device="cpu")
    assert [f.level for f in found.values()] == [OK] * len(found)
    assert list(found) == [
        *("runtime", "time", "versions", "device", "precision", "memory", "store"),
        *("credentials", "cache", "internet"),
    ]
    assert not result.fails
    assert f"torch {torch.__version__}" in said
    assert "ok    runtime      local, with its front end (by the test)" in said
    assert said.endswith(f"doctor: {len(found)} ok, 0 warn, 0 fail")
    assert list(tmp_path.iterdir()) == [], "a look leaves nothing behind"


def test_json_is_all_that_is_printed_and_has_what_was_promised(capsys):
    assert main(["doctor", "--json", "--device", "cpu", "--store", "auto"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert list(report)[:2] == ["runtime", "limits"]
    assert set(report) == {"runtime", "limits", "versions", "device", "store", "findings"}
    assert report["runtime"]["name"] == "local"
    assert report["store"]["writable"] is True
    assert report["device"]["type"] == "cpu"
    assert {"check", "level", "message", "remedy"} == set(report["findings"][0])


@pytest.mark.parametrize(
    ("parameters", "check", "message"),
    [
        pytest.param({"device": "cuda:99"}, "device", "DEVICE cuda:99", id="no such GPU"),
        pytest.param({"precision": "float7"}, "device", "PRECISION float7", id="no such precision"),
        pytest.param({"store": "ftp://x"}, "writing", "STORE ftp://x", id="no such store"),
        pytest.param({"store": "file/below"}, "writing", "file", id="a file in the way"),
    ],
)
def test_what_cannot_work_fails_with_exit_code_2(tmp_path, capsys, parameters, check, message):
    (tmp_path / "file").touch()
    found, result, said = look(**{"device": "cpu", **parameters})
    assert result.fails
    assert found[check].level == FAIL
    assert message in found[check].message
    assert "\nfail  " in said
    flags = [f"--{name}={value}" for name, value in {"device": "cpu", **parameters}.items()]
    assert main(["doctor", *flags]) == 2
    assert "Traceback" not in capsys.readouterr().out


def die(monkeypatch, folder):
    """A mount whose process was killed, as every call below it then says."""

    def fails(path) -> bool:
        return Path(path).is_relative_to(folder) if isinstance(path, str | Path) else False

    for module_, name in (
        (os, "stat"),
        (os, "lstat"),
        (os, "open"),
        (os, "scandir"),
        (os, "mkdir"),
    ):
        real = getattr(module_, name)

        def call(path, *more, real=real, **named):
            if fails(path):
                raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN), str(path))
            return real(path, *more, **named)

        monkeypatch.setattr(module_, name, call)
    real_usage = shutil.disk_usage

    def usage(path):
        if fails(path):
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return real_usage(path)

    monkeypatch.setattr(shutil, "disk_usage", usage)


@pytest.mark.parametrize("where", ["store", "cache", "home"])
def test_a_dead_mount_is_a_line_and_no_traceback(monkeypatch, tmp_path, where):
    mount = tmp_path / "mount"
    mount.mkdir()
    monkeypatch.setattr(module, "_free_space", FREE_SPACE)
    monkeypatch.setattr(cache, "_looked_at", {})
    if where == "cache":
        monkeypatch.setenv("RELAYDET_CACHE", f"{mount}/c")
    if where == "home":
        monkeypatch.delenv("RELAYDET_CACHE")
        monkeypatch.setenv("HOME", f"{mount}/h")
        (tmp_path / "tmp").mkdir()
        monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    die(monkeypatch, mount)
    found, result, _ = look(device="cpu", store=f"{mount}/x" if where == "store" else "here")
    words = "Transport endpoint is not connected"
    if where == "store":
        assert (found["writing"].level, result.fails) == (FAIL, True)
        assert f"{mount}/x: cannot be reached ({words}); mount" in found["writing"].message
    elif where == "cache":
        assert (found["cache"].level, result.fails) == (FAIL, True)
        assert f"RELAYDET_CACHE {mount}/c: cannot be written to ({words})" in found["cache"].message
    else:
        assert (found["cache"].level, result.fails) == (WARN, False)
        assert f"{mount}/h/.cache/relaydet cannot be written to: {words}" in found["cache"].message
        assert "set RELAYDET_CACHE to a folder that stays" in found["cache"].remedy


def test_a_store_below_tilde_is_looked_at_in_the_home_folder(monkeypatch, tmp_path):
    for folder in ("home", "~"):
        (tmp_path / folder).mkdir()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    found, result, _ = look(device="cpu", store="~/keep")
    assert (found["store"].level, result.fails) == (OK, False)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["home", "~"]
    (tmp_path / "home/keep").mkdir()
    look(device="cpu", store="~/keep")
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["home", "keep", "~"]


@pytest.mark.parametrize(
    ("store", "message"),
    [
        pytest.param("x" * 300, "name too long", id="too long a name"),
        pytest.param("~nosuchuser/x", "there is no user 'nosuchuser'", id="no such user"),
        pytest.param("gs:/x", "did you mean gs://x?", id="one slash"),
        pytest.param("", "is empty", id="empty"),
    ],
)
def test_a_store_that_train_refuses_is_refused_by_the_same_sentence(tmp_path, store, message):
    found, result, _ = look(device="cpu", store=store)
    assert result.fails
    assert message in found["writing"].message
    with pytest.raises(RelayError) as told:
        train(TrainConfig(store=store), lambda line: None)
    assert str(told.value) == found["writing"].message
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "uptime", "level", "message"),
    [
        pytest.param("colab", 3600.0, OK, "660 min left (colab's limit of 12 h", id="Colab"),
        pytest.param("kaggle", 11.6 * 3600, WARN, "24 min left", id="nearly over"),
        pytest.param("gcp_notebook", 60.0, OK, "shut down 3 h after", id="Workbench"),
        pytest.param("local", 60.0, OK, "no limit that is known", id="plain"),
        pytest.param("colab", None, OK, "how much of it is over is not known", id="not told"),
    ],
)
def test_the_time_that_is_left(monkeypatch, name, uptime, level, message):
    monkeypatch.setattr(module, "detect", lambda: Runtime(name, ""))
    monkeypatch.setattr(limits, "machine_uptime", lambda: uptime)
    found, _, _ = look(device="cpu", store="here")
    assert (found["time"].level, message in found["time"].message) == (level, True)


def test_a_limit_that_is_no_number_fails(monkeypatch):
    monkeypatch.setenv(limits.SESSION_VARIABLE, "long")
    found, result, _ = look(device="cpu")
    assert result.report["limits"]["minutes_left"] is None
    assert found["time"].level == FAIL
    assert "is no number of hours" in found["time"].message


@pytest.mark.parametrize("name", ["colab", "kaggle", "colab_enterprise"])
def test_a_runtime_that_has_gpus_is_asked_for_one(monkeypatch, name):
    monkeypatch.setattr(module, "detect", lambda: Runtime(name, ""))
    found, _, said = look(device="cpu", store="here")
    assert found["device"].level == WARN
    assert found["device"].remedy
    assert f"-> {found['device'].remedy}" in said


def test_without_internet_it_says_what_to_do(monkeypatch):
    def fail(*_arguments, **_more):
        raise requests.ConnectionError("no route")

    monkeypatch.setattr(requests, "head", fail)
    assert "set WEIGHTS to a file" in look(device="cpu")[0]["internet"].remedy
    monkeypatch.setattr(module, "detect", lambda: Runtime("kaggle", ""))
    found, result, _ = look(device="cpu", store="here")
    assert "turn Internet on under Settings" in found["internet"].remedy
    assert not result.fails


def test_a_store_that_goes_away_is_a_warning(monkeypatch):
    monkeypatch.setattr(module, "detect", lambda: Runtime("ci", ""))
    found, _, _ = look(device="cpu")
    assert found["store"].level == WARN
    assert "goes away with the machine" in found["store"].remedy


@pytest.mark.parametrize(
    ("memory", "shared", "remedy"),
    [
        pytest.param(1e9, 100e9, "--workers 0", id="little memory"),
        pytest.param(16e9, 64e6, "--shm-size", id="little shared memory"),
    ],
)
def test_little_memory_is_a_warning(monkeypatch, memory, shared, remedy):
    monkeypatch.setattr(module, "_available_memory", lambda: memory)
    monkeypatch.setattr(module, "_free_space", lambda folder: shared)
    found, _, _ = look(device="cpu")
    assert found["memory"].level == WARN
    assert remedy in found["memory"].remedy


def test_a_bucket_is_written_to_as_well(gcs_bucket):
    found, result, _ = look(device="cpu", store=f"gs://{gcs_bucket}/x")
    assert "may write there" in found["credentials"].message
    assert result.report["store"]["writable"] is True
    gone, result, _ = look(device="cpu", store="gs://no-such-bucket-here/x")
    assert gone["writing"].level == FAIL
    assert result.report["store"]["writable"] is False


@pytest.mark.parametrize(
    ("widgets", "view", "remedy"),
    [
        pytest.param("8.1.5", "3.0.13", None, id="8"),
        pytest.param("7.7.1", "1.1.11", None, id="7"),
        pytest.param("7.7.1", "3.0.13", "'jupyterlab_widgets<2'", id="7 beside the view of 8"),
        pytest.param("8.1.5", "1.1.11", "'jupyterlab_widgets>=3'", id="8 beside the view of 7"),
        pytest.param(None, None, None, id="none"),
    ],
)
def test_widgets_that_will_not_show(monkeypatch, widgets, view, remedy):
    versions = {"ipywidgets": widgets, "jupyterlab_widgets": view}
    real = module._version
    monkeypatch.setattr(module, "_version", lambda name: versions.get(name, real(name)))
    found, _, _ = look(device="cpu")
    assert ("widgets" in found) == (remedy is not None)
    assert remedy is None or remedy in found["widgets"].remedy


def test_a_torchvision_of_another_torch_is_told_before_anything_breaks(monkeypatch):
    for name in ("torchvision", "torchvision.ops"):
        monkeypatch.setitem(sys.modules, name, None)
    found, result, _ = look()
    assert found["versions"].level == FAIL
    assert "environments/README.md" in found["versions"].remedy
    assert result.fails
    assert "device" not in found, "nothing can be said of it without them"
