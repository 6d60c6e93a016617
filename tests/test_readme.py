"""What the README promises in code, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

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
