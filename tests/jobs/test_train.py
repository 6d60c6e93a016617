"""What `train` says of a run that is done by its files, and whether it believes them."""

from __future__ import annotations

import json
import shutil
from dataclasses import asdict, replace

import pytest

from relaydet.config import TrainConfig
from relaydet.data.saved import load_dataset
from relaydet.errors import RelayError
from relaydet.jobs.train import train
from relaydet.model import build_model
from relaydet.storage.local import LocalStore
from relaydet.training.checkpoint import Lineage, pack, publish
from relaydet.training.export import export_model
from relaydet.training.outlook import look_ahead
from relaydet.training.run_files import RunFiles

STEPS = 5


@pytest.fixture
def done(tiny_demo, tmp_path):
    """A store with a run of one epoch that is done, and its configuration."""
    shutil.copytree(tiny_demo.root, tmp_path / "store")
    store = LocalStore(tmp_path / "store")
    asked = TrainConfig(run="r", store=str(store.root), model="small", epochs=1, batch_size=4)
    config = replace(asked, learning_rate=0.01, image_size=64, device="cpu", workers=0)
    files, built = RunFiles(store, "r"), build_model("small", ("person",), "none", 64)
    files.write_config(config)
    files.write_status("done", look_ahead(0, STEPS, STEPS, 1.0), 1)
    facts = {"config": asdict(config), "dataset_sha256": load_dataset(store, "demo").sha256}
    publish(store, "r", pack(tmp_path / "pack", STEPS, Lineage(1), {"model": {}}, facts))
    export_model(store, config, built, STEPS)
    return store, config


def test_a_run_that_is_done_is_not_trained_again(done):
    store, config = done
    said = []
    result = train(config, say=said.append)
    assert (result.state, result.step, result.total_steps) == ("done", STEPS, STEPS)
    assert said == [f"Run 'r' is done: 5 steps. Everything is in {store.root}/runs/r"]


def test_a_run_that_is_done_on_another_dataset_says_so(done):
    """Also where the changed dataset would make another number of steps."""
    store, config = done
    name = "datasets/demo/annotations.json"
    changed = json.loads(store.read(name))
    gone = changed["images"].pop()["id"]
    changed["annotations"] = [a for a in changed["annotations"] if a["image_id"] != gone]
    store.write(name, json.dumps(changed).encode())
    said = []
    result = train(config, say=said.append)
    assert (result.state, result.step, result.total_steps) == ("done", STEPS, STEPS)
    assert said == [
        "WARNING: dataset 'demo' has changed since run 'r' was started, and the run is done on it"
        " as it was; start a new RUN for the changed one",
        f"Run 'r' is done: 5 steps. Everything is in {store.root}/runs/r",
    ]


def test_a_status_of_another_run_is_not_believed(done):
    """Of a run with more epochs: the weights here are not of its last step."""
    store, config = done
    status = {"state": "done", "step": 2 * STEPS, "total_steps": 2 * STEPS, "epoch": 2}
    store.write("runs/r/status.json", json.dumps(status).encode())
    said = []
    with pytest.raises(RelayError, match="of another model than MODEL 'small'"):  # the fake state
        train(config, say=said.append)
    assert any("its weights are not whole or of another step" in line for line in said)
