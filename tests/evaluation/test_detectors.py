"""What RUNS may name: a run, a file of results, torchvision's detectors."""

from __future__ import annotations

import json

import pytest
import torch
from torchvision.models import detection

from relaydet import weights as weights_module
from relaydet.errors import RelayError
from relaydet.evaluation import detectors as module
from relaydet.evaluation.detectors import is_run, made_on, open_detector
from relaydet.storage.local import LocalStore

NAME = "mobilenet_v3_large_320_fpn"
BUILD = detection.fasterrcnn_mobilenet_v3_large_320_fpn


@pytest.fixture(autouse=True)
def any_torch(monkeypatch):
    """These files are our own: releases of torch that refuse others' read them as well."""
    monkeypatch.setattr(weights_module, "unsafe_pickles", lambda: "")


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A checkpoint as torchvision's users have it, of two categories."""
    torch.manual_seed(0)
    model = BUILD(weights=None, weights_backbone=None, num_classes=3)
    path = tmp_path_factory.mktemp("weights") / "mine.pth"
    torch.save({"model": model.state_dict(), "epoch": 3}, path)
    return path, model.eval()


@pytest.fixture
def store(tmp_path):
    return LocalStore(tmp_path)


@pytest.mark.parametrize(
    ("given", "run"),
    [("night", True), ("a.json", False), ("/x/y.json", False), ("torchvision/x", False)],
)
def test_what_is_a_run(given, run):
    assert is_run(given) is run


@pytest.mark.parametrize("prefix", ["torchvision/", "torchvision/fasterrcnn_"])
def test_a_checkpoint_of_torchvisions_says_what_it_said_there(weights, store, prefix):
    path, model = weights
    found = open_detector(f"{prefix}{NAME}={path}", store)
    assert (found.name, found.home) == (f"{NAME}-mine", f"detectors/{NAME}-mine")
    assert found.categories == (), "nobody says what its two labels are called"
    image = [torch.rand(3, 100, 120, generator=torch.Generator().manual_seed(1))]
    with torch.inference_mode():
        (ours,), (theirs,) = found.model.eval()(image), model(image)
    assert all(torch.equal(ours[key], theirs[key]) for key in theirs)


def test_published_weights_bring_their_names_and_need_no_epsilon(tmp_path, store, monkeypatch):
    model = detection.fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None)
    path = tmp_path / "fasterrcnn_resnet50_fpn_coco-258fb6c6.pth"
    torch.save(model.state_dict(), path)
    monkeypatch.setattr(module, "obtain", lambda published: (path, ""))
    found = open_detector("torchvision/resnet50_fpn", store)
    assert found.name == "resnet50_fpn"
    assert found.categories[0] == "person"
    assert len(found.categories) == 90
    assert {m.eps for m in found.model.modules() if isinstance(m, torch.nn.BatchNorm2d)} == {0.0}


def test_results_are_taken_as_they_are(tmp_path, store):
    path = tmp_path / "theirs.json"
    path.write_text("[]")
    found = open_detector(str(path), store)
    assert (found.name, found.home, found.results, found.model) == ("theirs", "", b"[]", None)
    assert made_on(str(path)) == ""
    (tmp_path / "metrics.json").write_text(json.dumps({"dataset_sha256": "abc"}))
    assert made_on(str(path)) == "abc"
    for damaged in (b"[", b"[" * 100_000, b"\xff", b'{"dataset_sha256": 1e999}', b"[]"):
        (tmp_path / "metrics.json").write_bytes(damaged)
        assert made_on(str(path)) == ""


def test_weights_that_cannot_be_had(store, monkeypatch):
    monkeypatch.setattr(module, "obtain", lambda published: (None, "no connection"))
    with pytest.raises(RelayError, match=r"not to be had \(no connection\); .*resnet50_fpn=FILE"):
        open_detector("torchvision/resnet50_fpn", store)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("gone.json", "gone.json cannot be read"),
        ("torchvision/yolo", "no detector 'yolo' here; there are resnet50_fpn"),
        ("torchvision/resnet50_fpn={weights}", "is not of resnet50_fpn|does not fit resnet50_fpn"),
        (f"torchvision/{NAME}=gone.pth", "there is no file 'gone.pth'"),
        ("none", "has no exported model"),
        ("../x", "RUNS '../x'"),
    ],
)
def test_mistakes(weights, store, given, message):
    with pytest.raises(RelayError, match=message):
        open_detector(given.format(weights=weights[0]), store)


@pytest.mark.parametrize(
    ("weight", "message"),
    [
        (torch.ones(()), "no box predictor"),
        (torch.ones(1, 1).expand(10**6, 10**6), "no box predictor"),
        (torch.ones(3, 7), "does not fit"),
        (torch.full((3, 1024), float("inf")), "not finite"),
    ],
)
def test_a_crafted_box_predictor_is_refused(weights, store, tmp_path, weight, message):
    state = {**weights[1].state_dict(), "roi_heads.box_predictor.cls_score.weight": weight}
    torch.save(state, tmp_path / "crafted.pth")
    with pytest.raises(RelayError, match=message):
        open_detector(f"torchvision/{NAME}={tmp_path}/crafted.pth", store)
