"""What the README promises in code, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from PIL import Image

from relaydet.config import TrainConfig
from relaydet.model import build_model
from relaydet.storage.local import LocalStore
from relaydet.training.export import export_model

README = (Path(__file__).parents[1] / "README.md").read_text()


@pytest.mark.parametrize("frozen", [True, False])
def test_exported_weights_load_in_plain_torchvision(tmp_path, monkeypatch, frozen):
    (code,) = re.findall(r"```python\n(.*?load_file.*?)```", README, flags=re.DOTALL)
    assert len([line for line in code.splitlines() if line]) == 5
    built = build_model("resnet50_fpn", ["person"], "none", frozen=frozen)
    config = TrainConfig(run="first", model="resnet50_fpn", image_size=800)
    export_model(LocalStore(tmp_path / "work"), config, built, step=1)
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    image = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    for model in (names["model"], built.model.eval()):
        model.transform.min_size = (64,)  # the size changes nothing here but the time
    with torch.no_grad():
        (theirs,), (ours,) = names["model"]([image]), built.model([image])
    assert len(ours["scores"]) > 0
    for key in ("boxes", "scores", "labels"):
        torch.testing.assert_close(theirs[key], ours[key])


def test_a_model_of_any_kind_finds_boxes_in_a_photo(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n([^`]*open_store[^`]*)```", README)
    config = TrainConfig(run="first", model="small", image_size=64)
    built = build_model("small", ["person"], "none", image_size=64)
    export_model(LocalStore(tmp_path / "work"), config, built, step=1)
    pixels = torch.randint(0, 256, (64, 96, 3), dtype=torch.uint8, generator=torch.manual_seed(0))
    Image.fromarray(pixels.numpy()).save(tmp_path / "photo.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(code, names)
    assert names["found"]["boxes"].shape == (len(names["found"]["scores"]), 4)
    with torch.no_grad():
        (ours,) = built.model.eval()([names["to_tensor"](Image.open("photo.jpg"))])
    torch.testing.assert_close(names["found"]["boxes"].detach(), ours["boxes"])
