"""papermill from a terminal: any directory, parameters by -p and -y, and its exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest

from relaydet.config import MergeConfig
from relaydet.data.demo import write_demo
from relaydet.jobs.merge import merge

TOP = Path(__file__).parents[2]
TRAIN = TOP / "notebooks" / "2_train.ipynb"


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    street, search, _ = write_demo(folder / "scenes", sizes=(8, 2, 2))
    merge(MergeConfig("demo", (street, search), ("person",), str(folder)), say=lambda _: None)
    return folder


def papermill(cwd: Path, *arguments: str):
    return subprocess.run(
        [sys.executable, "-m", "papermill", str(TRAIN), "out.ipynb", *arguments],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
    )


def outputs(path: Path) -> str:
    notebook = nbformat.read(path, as_version=4)
    found = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return "".join(
        output.get("text", "") or "\n".join(output.get("traceback", [])) for output in found
    )


@pytest.mark.slow
def test_a_run_that_pauses_exits_with_0_and_the_notebook_tells_its_state(store, tmp_path):
    more = "EPOCHS: 1\nIMAGE_SIZE: 64\nBATCH_SIZE: 4\nMAX_MINUTES: 0\nINCLUDE: [street]\n"
    done = papermill(tmp_path, "-p", "STORE", str(store), "-p", "RUN", "mine", "-y", more)
    assert done.returncode == 0, done.stderr
    said = outputs(tmp_path / "out.ipynb")
    assert "Run 'mine' paused at step 1 of" in said
    assert "doctor: " in said
    assert json.loads((store / "runs/mine/status.json").read_text())["state"] == "paused"


@pytest.mark.slow
def test_a_mistake_exits_with_an_error_and_the_notebook_has_the_sentence(store, tmp_path):
    done = papermill(tmp_path, "-p", "STORE", str(store), "-p", "DATASET", "absent")
    assert done.returncode != 0
    said = outputs(tmp_path / "out.ipynb")
    assert "RelayError: " in said
    assert "there is no dataset 'absent' in this store" in said


@pytest.mark.slow
def test_an_unknown_parameter_and_a_number_for_a_name_are_refused(store, tmp_path):
    for given, message in [
        (("-p", "EPOCH", "4"), "EPOCH: this notebook has no such parameter; did you mean EPOCHS?"),
        (("-p", "RUN", "001"), "RUN: 1 is a number, not text"),
    ]:
        done = papermill(tmp_path, "-p", "STORE", str(store), *given)
        assert done.returncode != 0
        assert message in outputs(tmp_path / "out.ipynb")
    assert not list((store / "runs").glob("00*"))


def test_the_template_for_kaggle_has_what_kaggle_asks_for():
    template = json.loads((TOP / "environments/kaggle-kernel/kernel-metadata.json").read_text())
    assert {"id", "title", "code_file", "language", "kernel_type"} <= set(template)
    assert (TOP / "notebooks" / Path(template["code_file"]).name).is_file()
    assert template["kernel_type"] == "notebook"
    assert template["enable_gpu"] is template["enable_internet"] is template["is_private"] is True
    assert template["id"] in template["kernel_sources"], "a version resumes from the one before"
