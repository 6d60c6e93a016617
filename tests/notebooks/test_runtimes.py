"""The notebooks with unchanged STORE in every runtime: each ends, and keeps its run as it says."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from simulated import Machine

from relaydet.data.demo import write_demo
from relaydet.storage.store import open_store

COLAB = {"COLAB_RELEASE_TAG": "release-colab_20260801", "COLAB_GPU": ""}
KAGGLE = {**COLAB, "KAGGLE_KERNEL_RUN_TYPE": "Batch", "KAGGLE_USER_SECRETS_TOKEN": "x"}
HOSTNAME = ("var/colab/hostname",)
SHORT = {"EPOCHS": 1, "IMAGE_SIZE": 64, "BATCH_SIZE": 4}
FEW_STEPS = {"STEPS": 2, "IMAGE_SIZE": 64, "BATCH_SIZES": [2]}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def scenes(tmp_path_factory):
    keys = ("name", "format", "annotations", "images", "licence")
    sources = write_demo(tmp_path_factory.mktemp("scenes"), sizes=(8, 2, 4))
    return [{key: getattr(source, key) for key in keys} for source in sources]


def run_all(machine: Machine, folder: Path, scenes) -> str:
    """The four notebooks one after the other; what they printed."""
    street, search, inhouse = scenes
    said = [
        machine.run("1_merge_data", folder, SOURCES=[street, search]),
        machine.run("1_merge_data", folder, DATASET="demo_heldout", SOURCES=[inhouse]),
        machine.run("2_train", folder, **SHORT),
        machine.run("3_evaluate", folder),
        machine.run("4_compare_gpus", folder, **FEW_STEPS),
    ]
    return "".join(said)


def assert_all_in(store: str) -> None:
    opened = open_store(store)
    assert json.loads(opened.read("runs/demo/status.json"))["state"] == "done"
    assert opened.exists("runs/demo/model.safetensors")
    assert opened.exists("benchmarks/speed.jsonl")
    assert opened.exists("comparisons/demo/report.html")


@pytest.mark.parametrize(
    ("machine", "runtime", "store", "said"),
    [
        pytest.param(Machine(), "local", "{folder}/work", "a folder on this machine", id="local"),
        pytest.param(
            Machine({"CI": "true"}), "ci", "{folder}/work", "goes away with the machine", id="CI"
        ),
        pytest.param(
            Machine(COLAB, HOSTNAME, mount="waits"),
            *("colab", "{folder}/work", "without its front end, where nobody can be asked"),
            id="papermill on Colab, where drive.mount would wait for ever",
        ),
        pytest.param(
            Machine(COLAB, HOSTNAME, mount="waits", mounted=True),
            *("colab", "{root}/content/drive/MyDrive/relaydet", "Drive is mounted"),
            id="papermill on Colab, Drive mounted before",
        ),
        pytest.param(
            Machine(COLAB, HOSTNAME, mount="works", front_end=True),
            *("colab", "{root}/content/drive/MyDrive/relaydet", "Colab will ask to let this"),
            id="Colab",
        ),
        pytest.param(
            Machine(COLAB, HOSTNAME, mount="fails", front_end=True),
            *("colab", "{folder}/work", "Drive could not be mounted: mount failed"),
            id="Colab, the user said no",
        ),
        pytest.param(
            Machine(
                {**COLAB, "VERTEX_PRODUCT": "COLAB_ENTERPRISE"},
                *(HOSTNAME, "is not offered"),
                front_end=True,
            ),
            *("colab_enterprise", "{folder}/work", "set STORE to gs://bucket/folder"),
            id="Colab Enterprise, no bucket named",
        ),
        pytest.param(
            Machine(KAGGLE, HOSTNAME, mount="waits", secrets={}),
            *("kaggle", "{root}/kaggle/working", "attach that to the next one"),
            id="Kaggle, no secrets",
        ),
        pytest.param(
            Machine(
                {**KAGGLE, "KAGGLE_KERNEL_INTEGRATIONS": "GCS"},
                secrets={"RELAYDET_STORE": "gs://{bucket}/kaggle"},
            ),
            *("kaggle", "gs://{bucket}/kaggle", "secret RELAYDET_STORE says so"),
            id="Kaggle, bucket and account attached",
        ),
        pytest.param(
            Machine({"VERTEX_PRODUCT": "WORKBENCH_INSTANCE", "RELAYDET_STORE": "gs://{bucket}/w"}),
            *("gcp_notebook", "gs://{bucket}/w", "RELAYDET_STORE says so"),
            id="Workbench with a bucket",
        ),
        pytest.param(
            Machine({"CLOUD_ML_JOB_ID": "7", "AIP_CHECKPOINT_DIR": "gs://{bucket}/job/"}),
            *("vertex_job", "gs://{bucket}/job", "AIP_CHECKPOINT_DIR"),
            id="Vertex job",
        ),
    ],
)
def test_run_all(monkeypatch, tmp_path, gcs_bucket, scenes, machine, runtime, store, said):
    filled = {"bucket": gcs_bucket, "folder": tmp_path, "root": tmp_path / "root"}
    machine = Machine(
        {name: value.format(**filled) for name, value in machine.variables.items()},
        *(machine.files, machine.mount, machine.mounted),
        machine.secrets and {k: v.format(**filled) for k, v in machine.secrets.items()},
        machine.front_end,
    )
    machine.stand_on(monkeypatch, tmp_path)
    printed = run_all(machine, tmp_path, scenes)
    assert f"runtime: {runtime} (" in printed
    assert said in printed
    assert_all_in(store.format(**filled))


def test_a_kaggle_version_goes_on_where_the_one_before_paused(monkeypatch, tmp_path, scenes):
    machine = Machine(KAGGLE, HOSTNAME, mount="waits", secrets={})
    root = machine.stand_on(monkeypatch, tmp_path)
    machine.run("1_merge_data", tmp_path, SOURCES=scenes[:2])
    machine.run("1_merge_data", tmp_path, DATASET="demo_heldout", SOURCES=scenes[2:])
    paused = machine.run("2_train", tmp_path, MAX_MINUTES=0, **SHORT)
    assert "paused at step 1" in paused
    working, attached = root / "kaggle/working", root / "kaggle/input/relaydet-train"
    attached.parent.mkdir(parents=True)
    shutil.move(working, attached)
    done = machine.run("2_train", tmp_path, **SHORT)
    assert f"going on from {attached}/runs/demo/checkpoints/step-00000001.json" in done
    assert "resuming at step 1" in done
    machine.run("3_evaluate", tmp_path)
    machine.run("4_compare_gpus", tmp_path, **FEW_STEPS)
    assert_all_in(str(working))
    assert not (attached / "comparisons").exists(), "what is attached is only to be read"


def test_a_kaggle_version_evaluates_what_an_earlier_one_trained(monkeypatch, tmp_path, scenes):
    machine = Machine(KAGGLE, HOSTNAME, secrets={})
    root = machine.stand_on(monkeypatch, tmp_path)
    machine.run("1_merge_data", tmp_path, SOURCES=scenes[:2])
    machine.run("1_merge_data", tmp_path, DATASET="demo_heldout", SOURCES=scenes[2:])
    machine.run("2_train", tmp_path, **SHORT)
    attached = root / "kaggle/input/relaydet-train"
    attached.parent.mkdir(parents=True)
    shutil.move(root / "kaggle/working", attached)
    facts = (attached / "runs/demo/model.json").read_bytes()
    assert "AP50" in machine.run("3_evaluate", tmp_path)
    assert (root / "kaggle/working/comparisons/demo/report.html").is_file()
    assert (attached / "runs/demo/model.json").read_bytes() == facts
