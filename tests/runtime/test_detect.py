"""Which runtime this is: told by what holds, not by what lies about elsewhere too."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaydet.runtime.detect import Runtime, detect
from relaydet.runtime.limits import LIMITS

KAGGLE_IMAGE = {"COLAB_RELEASE_TAG": "release-colab_20260801", "COLAB_GPU": ""}
"""Kaggle's image is built from Colab's."""
BATCH = {"KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_URL_BASE": "https://www.kaggle.com"}
HOSTNAME = "var/colab/hostname"
DEEP_LEARNING = "opt/deeplearning/metadata/env_version"


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
    assert detect() == Runtime("kaggle", "KAGGLE_KERNEL_RUN_TYPE is set")
    assert detect({}, Path("/nowhere")).name == "local"
