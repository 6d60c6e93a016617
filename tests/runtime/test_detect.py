"""Which runtime this is: told by what holds, not by what lies about elsewhere too."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from relaydet.runtime.detect import Runtime, detect, runs_through
from relaydet.runtime.limits import LIMITS

KAGGLE_IMAGE = {"COLAB_RELEASE_TAG": "release-colab_20260801", "COLAB_GPU": ""}
"""Kaggle's image is built from Colab's."""
BATCH = {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_URL_BASE": "https://www.kaggle.com"}
HOSTNAME = "var/colab/hostname"
DEEP_LEARNING = "opt/deeplearning/metadata/env_version"


LAB = ("ipykernel_launcher.py", "-f", "/home/ada/.local/share/jupyter/runtime/kernel-0a1b.json")
COLAB = (
    "/usr/local/lib/python3.13/dist-packages/colab_kernel_launcher.py",
    "-f",
    "/root/.local/share/jupyter/runtime/kernel-2e5eaa6b-dafe-49de-82ba-43fbde79da98.json",
)
VS_CODE = ("ipykernel_launcher.py", "--f=/home/ada/.local/share/jupyter/runtime/kernel-v3a4.json")
PAPERMILL = ("ipykernel_launcher.py", "-f", "/tmp/tmp26v1cb73.json", "--HistoryManager.x=y")
PAPERMILL_ON_COLAB = ("colab_kernel_launcher.py", "-f", "/tmp/tmpkernel-a.json")
SCRIPT = ("train.py", "--store", "kernel-1/work.json")


@pytest.mark.parametrize(
    ("environment", "files", "name", "by"),
    [
        pytest.param(
            {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"},
            *((), "kaggle", "KAGGLE_KERNEL_RUN_TYPE"),
            id="Kaggle, interactive",
        ),
        pytest.param(
            {**KAGGLE_IMAGE, **BATCH},
            *((HOSTNAME,), "kaggle", "KAGGLE_KERNEL_RUN_TYPE"),
            id="Kaggle, on Colab's image",
        ),
        pytest.param(
            {"KAGGLE_DATA_PROXY_TOKEN": "x", **KAGGLE_IMAGE},
            *((), "kaggle", "KAGGLE_DATA_PROXY_TOKEN"),
            id="Kaggle, by its proxy",
        ),
        pytest.param(
            {"KAGGLE_URL_BASE": "https://www.kaggle.com"},
            *((), "kaggle", "KAGGLE_URL_BASE"),
            id="Kaggle, by its address",
        ),
        pytest.param(
            {"COLAB_RELEASE_TAG": "release-colab_20260801", "COLAB_GPU": "1"},
            *((), "colab", "COLAB_RELEASE_TAG"),
            id="Colab",
        ),
        pytest.param(
            {"COLAB_RELEASE_TAG": "release-colab_20260801", "COLAB_GPU": ""},
            *((HOSTNAME,), "colab", "COLAB_RELEASE_TAG"),
            id="Colab, without a GPU",
        ),
        pytest.param(
            {"TBE_RUNTIME_ADDR": "172.28.0.1:8011"},
            *((), "colab", "TBE_RUNTIME_ADDR"),
            id="Colab, by its front end",
        ),
        pytest.param({}, (HOSTNAME,), "colab", f"/{HOSTNAME}", id="Colab, bare subprocess"),
        pytest.param(
            {"COLAB_RELEASE_TAG": "x", "KAGGLE_USERNAME": "ada", "KAGGLE_KEY": "x"},
            *(("kaggle/input/people/a.json", HOSTNAME), "colab", "COLAB_RELEASE_TAG"),
            id="Colab, with kagglehub's folder and the user's key",
        ),
        pytest.param(
            {"VERTEX_PRODUCT": "COLAB_ENTERPRISE", "COLAB_RELEASE_TAG": "x"},
            *((HOSTNAME,), "colab_enterprise", "COLAB_ENTERPRISE"),
            id="Colab Enterprise",
        ),
        pytest.param(
            {"VERTEX_PRODUCT": "WORKBENCH_INSTANCE", "DL_ANACONDA_HOME": "/opt/conda"},
            *((DEEP_LEARNING,), "gcp_notebook", "WORKBENCH_INSTANCE"),
            id="Workbench",
        ),
        pytest.param(
            {"VERTEX_PRODUCT": "WORKBENCH_CUSTOM_CONTAINER"},
            *((), "gcp_notebook", "WORKBENCH_CUSTOM_CONTAINER"),
            id="Workbench, own container",
        ),
        pytest.param(
            {"DL_ANACONDA_HOME": "/opt/conda"},
            *((), "gcp_notebook", "DL_ANACONDA_HOME"),
            id="older Workbench, by its Python",
        ),
        pytest.param(
            {}, (DEEP_LEARNING,), "gcp_notebook", f"/{DEEP_LEARNING}", id="older, by its file"
        ),
        pytest.param(
            {"CLOUD_ML_JOB_ID": "123", "CLUSTER_SPEC": "{}", "AIP_MODEL_DIR": "gs://b/model"},
            *((), "vertex_job", "CLOUD_ML_JOB_ID"),
            id="custom job",
        ),
        pytest.param(
            {"CLOUD_ML_JOB_ID": "123", "DL_ANACONDA_HOME": "/opt/conda"},
            *((DEEP_LEARNING,), "vertex_job", "CLOUD_ML_JOB_ID"),
            id="custom job, on a Deep Learning image",
        ),
        pytest.param({}, (), "local", "nothing", id="a plain machine"),
        pytest.param(
            {"KAGGLE_USERNAME": "ada", "KAGGLE_KEY": "x", "KAGGLE_CONFIG_DIR": "/home/ada"},
            *((), "local", "nothing"),
            id="at home, with a Kaggle key",
        ),
        pytest.param(
            {"COLAB_GPU": "", "COLAB_BACKEND_VERSION": ""},
            *((), "local", "nothing"),
            id="at home, with Colab's least telling variables",
        ),
        pytest.param(
            {"GOOGLE_APPLICATION_CREDENTIALS": "/home/ada/key.json", "GCLOUD_PROJECT": "x"},
            *(("kaggle/input/people/a.json",), "local", "nothing"),
            id="at home, with a Google key and a folder of that name",
        ),
        pytest.param(
            {"KAGGLE_KERNEL_RUN_TYPE": "", "COLAB_RELEASE_TAG": "", "CLOUD_ML_JOB_ID": ""},
            *((), "local", "nothing"),
            id="all set to nothing",
        ),
        pytest.param(
            {"VERTEX_PRODUCT": "SOMETHING_NEW"}, (), "local", "nothing", id="a product of tomorrow"
        ),
        pytest.param({"CI": "true"}, (), "ci", "CI is set", id="CI"),
        pytest.param({"CI": "false"}, (), "local", "nothing", id="no CI"),
        pytest.param(
            {"CI": "true", "COLAB_RELEASE_TAG": "x"},
            *((), "colab", "COLAB_RELEASE_TAG"),
            id="Colab, with CI set: what is there says more than what is claimed",
        ),
        pytest.param(
            {"KAGGLE_URL_BASE": "https://www.kaggle.com", "VERTEX_PRODUCT": "COLAB_ENTERPRISE"},
            *((), "kaggle", "KAGGLE_URL_BASE"),
            id="two that contradict",
        ),
        pytest.param(
            {"CLOUD_ML_JOB_ID": "7", "COLAB_RELEASE_TAG": "x"},
            *((), "vertex_job", "CLOUD_ML_JOB_ID"),
            id="custom job in a container made from Colab's image",
        ),
    ],
)
def test_each_runtime_is_told_and_by_what(tmp_path, environment, files, name, by):
    for file in files:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / file).touch()
    runtime = detect(environment, tmp_path)
    assert runtime.name == name
    assert by in runtime.reason
    assert runtime.name in LIMITS


def test_this_machine_is_asked_where_nothing_is_given(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Batch")
    assert detect(arguments=["x"], terminal=False) == Runtime(
        "kaggle", "KAGGLE_KERNEL_RUN_TYPE is set"
    )
    assert detect({}, Path("/nowhere")).name == "local"


@pytest.mark.parametrize(
    ("environment", "arguments", "terminal", "front_end", "interactive"),
    [
        pytest.param({"COLAB_RELEASE_TAG": "x"}, COLAB, False, True, True, id="Colab"),
        pytest.param(
            *({"COLAB_RELEASE_TAG": "x"}, PAPERMILL_ON_COLAB, False, False, False),
            id="papermill on a Colab VM",
        ),
        pytest.param(
            {"COLAB_RELEASE_TAG": "x"}, SCRIPT, False, False, False, id="a subprocess on Colab"
        ),
        pytest.param(
            {"COLAB_RELEASE_TAG": "x"}, SCRIPT, True, False, True, id="a terminal on Colab"
        ),
        pytest.param(
            {"KAGGLE_KERNEL_RUN_TYPE": "Interactive"}, LAB, False, True, True, id="Kaggle's editor"
        ),
        pytest.param(BATCH, LAB, False, False, False, id="Kaggle, a version that is saved"),
        pytest.param(
            {"KAGGLE_URL_BASE": "x"}, PAPERMILL, False, False, False, id="papermill on Kaggle"
        ),
        pytest.param({}, LAB, False, True, True, id="JupyterLab"),
        pytest.param({}, VS_CODE, False, True, True, id="VS Code"),
        pytest.param({}, PAPERMILL, False, False, False, id="papermill"),
        pytest.param({}, PAPERMILL, True, False, True, id="papermill, from a terminal"),
        pytest.param({}, SCRIPT, True, False, True, id="a terminal"),
        pytest.param({}, SCRIPT, False, False, False, id="cron"),
        pytest.param({}, (), False, False, False, id="no arguments at all"),
        pytest.param({"CI": "1"}, LAB, True, False, False, id="CI asks nobody"),
        pytest.param({"CLOUD_ML_JOB_ID": "7"}, LAB, True, False, False, id="nor does a job"),
    ],
)
def test_whether_somebody_can_be_asked(
    tmp_path, environment, arguments, terminal, front_end, interactive
):
    runtime = detect(environment, tmp_path, arguments, terminal)
    assert (runtime.front_end, runtime.interactive) == (front_end, interactive)


def test_nothing_is_imported_to_find_out(monkeypatch):
    before = set(sys.modules)
    detect({"COLAB_RELEASE_TAG": "x"})
    assert set(sys.modules) == before


def test_a_kernel_without_standard_input_has_no_terminal(monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert not detect({}, Path("/nowhere"), SCRIPT).interactive


@pytest.mark.parametrize(
    ("arguments", "through"),
    [
        pytest.param(PAPERMILL, True, id="papermill"),
        pytest.param(PAPERMILL_ON_COLAB, True, id="papermill on Colab"),
        pytest.param(LAB, False, id="JupyterLab"),
        pytest.param(COLAB, False, id="Colab"),
        pytest.param(("ipykernel_launcher.py", "--id=7"), False, id="a kernel that does not tell"),
        pytest.param(("merge.py", "tmp.json"), False, id="a script"),
        pytest.param((), False, id="nothing"),
    ],
)
def test_whether_a_notebook_is_run_through(arguments, through):
    assert runs_through(arguments) is through
