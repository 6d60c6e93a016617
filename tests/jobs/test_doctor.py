"""`relaydet doctor`: a line for each thing that a run needs, with the remedy, and the exit code."""

from __future__ import annotations

import json
import sys

import pytest
import requests
import torch

from relaydet.cli import main
from relaydet.config import DoctorConfig
from relaydet.jobs import doctor as module
from relaydet.jobs.doctor import FAIL, OK, WARN, doctor
from relaydet.runtime import limits
from relaydet.runtime.detect import Runtime

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
        *("credentials", "internet"),
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
