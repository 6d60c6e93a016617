"""Exported weights: the same when loaded again, refused when they are not what was exported."""

from __future__ import annotations

import hashlib
import json

import pytest
import torch

from relaydet.config import TrainConfig
from relaydet.errors import RelayError
from relaydet.model import build_model
from relaydet.storage.local import LocalStore
from relaydet.training.checkpoint import folder_of
from relaydet.training.export import export_model, load_model, record_ap
from relaydet.training.run_files import RunFiles

CONFIG = TrainConfig(run="night", model="small", image_size=48)
WEIGHTS, FACTS = "runs/night/model.safetensors", "runs/night/model.json"


@pytest.fixture(scope="module")
def built():
    return build_model("small", ["person", "car"], "none", image_size=48, seed=4)


@pytest.fixture
def store(tmp_path, built):
    store = LocalStore(tmp_path)
    export_model(store, CONFIG, built, step=12)
    return store


def test_the_same_detector_comes_back(store, built):
    exported = load_model(store, "night")
    ours, theirs = built.model.state_dict(), exported.model.state_dict()
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert exported.model.transform.min_size == (48,)
    assert exported.facts["categories"] == ["person", "car"]
    assert (exported.facts["step"], exported.facts["frozen"]) == (12, False)
    assert exported.facts["config"]["run"] == "night"


def test_a_metric_is_noted_beside_the_others(store):
    record_ap(store, "night", "heldout", {"AP": 0.5})
    record_ap(store, "night", "street", {"AP": 0.25})
    assert load_model(store, "night").facts["ap"] == {
        "heldout": {"AP": 0.5},
        "street": {"AP": 0.25},
    }


def evaluate(store, built, step: int, ap: float, dataset: str = "heldout", kept: bool = True):
    """Export what a run has at a step, and note its AP; returns what is the best then."""
    manifest = f"{folder_of('night')}/step-{step:08d}.json"
    store.write(manifest, b"{}") if kept else store.delete(manifest)
    export_model(store, CONFIG, built, step)
    record_ap(store, "night", dataset, {"AP": ap, "AP50": 2 * ap})
    best = RunFiles(store, "night").best()
    return best and (best.step, best.dataset, best.AP)


@pytest.mark.parametrize(
    ("evaluations", "best"),
    [
        pytest.param([(10, 0.2)], (10, "heldout", 0.2), id="the first"),
        pytest.param([(10, 0.0)], (10, "heldout", 0.0), id="however bad"),
        pytest.param([(10, -1.0)], (10, "heldout", -1.0), id="nothing to be found"),
        pytest.param([(10, 0.2), (20, 0.3)], (20, "heldout", 0.3), id="a better one"),
        pytest.param([(10, 0.3), (20, 0.2)], (10, "heldout", 0.3), id="a worse one"),
        pytest.param([(10, 0.3), (20, 0.3)], (10, "heldout", 0.3), id="one as good"),
        pytest.param([(10, 0.2), (10, 0.2)], (10, "heldout", 0.2), id="the same again"),
        pytest.param(
            [(10, 0.2), (20, 0.9, "street")],
            (10, "heldout", 0.2),
            id="another dataset says nothing",
        ),
        pytest.param(
            [(10, 0.2, "street"), (10, 0.3), (20, 0.1, "street"), (20, 0.9)],
            *[(10, "street", 0.2)],
            id="the first dataset decides",
        ),
        pytest.param([(10, 0.2, "heldout", False)], None, id="the checkpoint is gone"),
        pytest.param(
            [(10, 0.2), (20, 0.9, "heldout", False)], (10, "heldout", 0.2), id="the better is gone"
        ),
        pytest.param(
            [(10, 0.2, "street", False), (20, 0.1)], (20, "heldout", 0.1), id="the first is gone"
        ),
    ],
)
def test_the_best_checkpoint_is_noted(store, built, evaluations, best):
    for evaluation in evaluations:
        noted = evaluate(store, built, *evaluation)
    assert noted == best


def flip_a_bit(store):
    data = bytearray(store.read(WEIGHTS))
    data[-1] ^= 1
    store.write(WEIGHTS, bytes(data))


def change_facts(**changes):
    return lambda store: store.write(
        FACTS, json.dumps({**json.loads(store.read(FACTS)), **changes}).encode()
    )


def not_weights(store):
    store.write(WEIGHTS, b"not weights")
    change_facts(sha256=hashlib.sha256(b"not weights").hexdigest())(store)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        pytest.param(lambda s: s.delete(FACTS), "no exported model.*train it", id="not exported"),
        pytest.param(flip_a_bit, "do not match model.json", id="flipped bit"),
        pytest.param(lambda s: s.write(WEIGHTS, b""), "do not match model.json", id="emptied"),
        pytest.param(lambda s: s.delete(WEIGHTS), "cannot be read", id="weights gone"),
        pytest.param(not_weights, "not a model that relaydet exported", id="not safetensors"),
        pytest.param(
            lambda s: s.write(FACTS, b'{"model"'), "damaged .*export it again", id="half the facts"
        ),
        pytest.param(lambda s: s.write(FACTS, b"{}"), "not a model that relaydet", id="no facts"),
        pytest.param(lambda s: s.write(FACTS, b"[]"), "damaged .*export it again", id="a list"),
        *(
            pytest.param(change_facts(**{name: value}), f"damaged .*{name}", id=f"{name} {value}")
            for name, value in {
                "ap": [],
                "categories": "person",
                "model": ["small"],
                "image_size": "64",
                "frozen": 0.5,
                "step": None,
                "sha256": 5,
                "config": 7,
            }.items()
        ),
        pytest.param(
            change_facts(categories=["person"]), "not a model that relaydet", id="other head"
        ),
        pytest.param(change_facts(model="yolo"), "no model 'yolo'", id="unknown model"),
    ],
)
def test_what_was_tampered_with_is_refused(store, tamper, message):
    tamper(store)
    with pytest.raises(RelayError, match=message):
        load_model(store, "night")
