r"""What anchors in bfloat16 cost: those of torchvision beside ours, which are float32.

First what rounding does to the anchors of one batch; then AP50 of one category on photos, trained
with either, in turn for each seed, in bfloat16 on the device given. Both start from the same
weights and see the same images in the same batches. Evaluation is float32 for both.

    python benchmarks/anchors.py
    python benchmarks/anchors.py --train coco/train.json coco/train2017 \
        --test coco/val.json coco/val2017 --body mobilenet_v2.pt --seeds 0 1 2

`--train` may be given several times. `--body` is a state dict of torchvision's mobilenet_v2 or of
its features, in their order; the detector on it is as light as `small`: levels of 64 channels at
strides 4 to 16, and a body that does not train. Without it `small` trains from scratch.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import tempfile
import time
from pathlib import Path

import torch
import torchvision
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from train_speed import commit, table

from relaydet import model as models
from relaydet.config import MergeConfig, SourceConfig
from relaydet.data.loader import evaluation_samples, training_batches, training_samples
from relaydet.data.order import BatchPlan, steps_per_epoch
from relaydet.data.saved import SavedDataset, load_dataset, open_sources
from relaydet.evaluation.predict import predict
from relaydet.evaluation.score import score
from relaydet.jobs.merge import merge
from relaydet.pyramid import build_pyramid
from relaydet.runtime.device import Device, choose_device
from relaydet.speedups import speed_up
from relaydet.storage.local import LocalStore
from relaydet.training.loop import Learner, build_optimizer, train_steps
from relaydet.training.micro_batch import MicroBatch
from relaydet.training.sampling import key_samplers
from relaydet.training.schedule import Schedule

SIDES = ("bfloat16", "float32")
CATEGORY = "person"


def rounding(height: int = 800, width: int = 1344) -> list[list[str]]:
    """By the type of the feature maps, what torchvision's anchors of resnet50_fpn are then."""
    ours = models.build_model("resnet50_fpn", [CATEGORY], "none").model.rpn.anchor_generator
    theirs = AnchorGenerator(ours.sizes, ours.aspect_ratios)
    grids = [(height // 2**level, width // 2**level) for level in range(2, 6)]
    grids.append((-(-grids[-1][0] // 2), -(-grids[-1][1] // 2)))
    blank = torch.zeros(1)
    images = ImageList(blank.expand(1, 1, height, width), [(height, width)])

    def anchors(dtype: torch.dtype) -> torch.Tensor:
        return theirs(images, [blank.to(dtype).expand(1, 1, *grid) for grid in grids])[0].float()

    right, rows = anchors(torch.float32), []
    finest = grids[0][0] * grids[0][1] * 3
    for dtype in (torch.float32, torch.float16, torch.bfloat16):
        found = anchors(dtype)
        moved = (found - right).abs().amax(dim=1)
        shared = (torch.min(found, right)[:, 2:] - torch.max(found, right)[:, :2]).clamp(min=0)
        inside = shared.prod(dim=1)
        iou = inside / (_area(found) + _area(right) - inside)
        double = finest - len(torch.unique(found[:finest], dim=0))
        rows.append(
            [
                str(dtype).removeprefix("torch."),
                f"{100 * float((moved > 0).float().mean()):.1f} %",
                f"{float(moved.max()):.0f}",
                f"{double:,} of {finest:,}",
                f"{float(iou.min()):.2f}",
            ]
        )
    return rows


def _area(corners_N4: torch.Tensor) -> torch.Tensor:
    return (corners_N4[:, 2:] - corners_N4[:, :2]).prod(dim=1)


def photos(sources: list[list[str]], name: str, folder: str) -> SavedDataset:
    """Those images of COCO files that show the category, merged."""
    given = tuple(
        SourceConfig(f"{name}{n}", "coco", annotations, images)
        for n, (annotations, images) in enumerate(sources)
    )
    merge(MergeConfig(name, given, (CATEGORY,), folder), say=lambda _: None)
    return load_dataset(LocalStore(folder), name)


def detector(body: Path | None, size: int, seed: int, anchors: str) -> FasterRCNN:
    """A detector in training, with anchors of the type given."""
    model = models.build_model("small", [CATEGORY], "none", size, seed=seed).model
    if body:
        model = _on_mobilenet(body, model, seed)
    if anchors == "bfloat16":
        ours = model.rpn.anchor_generator
        model.rpn.anchor_generator = AnchorGenerator(ours.sizes, ours.aspect_ratios)
    speed_up(model)
    return model


def _on_mobilenet(body: Path, small: FasterRCNN, seed: int) -> FasterRCNN:
    """The detector `small` on a mobilenet_v2 that has learnt, instead of a new resnet18."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        small.backbone, strides = build_pyramid("mobilenet_v2", out_channels=64, coarsest=16)
    if len(strides) != 3:
        raise RuntimeError(f"levels at strides {strides}, and `small` looks at 4, 8 and 16")
    learnt = torch.load(body, map_location="cpu", weights_only=True)
    trunk = torchvision.models.mobilenet_v2().features
    named = dict(zip(trunk.state_dict(), learnt.values(), strict=False))
    trunk.load_state_dict(named)
    wanted = trunk.state_dict()
    small.backbone.body.load_state_dict({n: wanted[n] for n in small.backbone.body.state_dict()})
    models._freeze(small.backbone.body, list(small.backbone.body)[-1])
    return small


def trained(
    model: FasterRCNN, saved: SavedDataset, device: Device, given: argparse.Namespace, seed: int
) -> FasterRCNN:
    """The model after a number of epochs, by the recipe of `small`."""
    recipe = models.recipe_of("small")
    samples = training_samples(saved.dataset, open_sources(saved))
    total = given.epochs * steps_per_epoch(len(samples), given.batch)
    schedule = Schedule(recipe.schedule, recipe.learning_rate, total, recipe.warmup_steps)
    model.to(device.device, memory_format=torch.channels_last).train()
    learner = Learner(model, build_optimizer(model, recipe), key_samplers(model, seed), device)
    plan = BatchPlan(seed, samples.groups_M(), given.batch, 0, total)
    batches = training_batches(samples, plan, recipe.augmentation, workers=0)
    shares = zip(plan.shares(), batches, strict=True)
    for step in train_steps(learner, shares, schedule, 0, MicroBatch(given.batch)):
        if step.step % 20 == 0 or step.step == total:
            print(f"  step {step.step} of {total}, loss {step.loss:.3f}", flush=True)
    return model


def ap50(model: FasterRCNN, saved: SavedDataset, device: Device) -> float:
    samples = evaluation_samples(saved.dataset, open_sources(saved))
    found = predict(model.eval(), samples, device.device, batch_size=4).detections
    return score(saved.annotations, found).metrics["AP50"]


def compare(given: argparse.Namespace, device: Device) -> list[list[str]]:
    """A row for each seed; printed as they come."""
    rows: list[list[str]] = []
    with tempfile.TemporaryDirectory() as folder:
        train, test = (photos(given.train, "train", folder), photos([given.test], "test", folder))
        for seed in given.seeds:
            found = []
            for side in SIDES:
                began = time.perf_counter()
                model = detector(given.body, given.size, seed, side)
                found.append(ap50(trained(model, train, device, given, seed), test, device))
                took = time.perf_counter() - began
                print(f"seed {seed}, {side}: AP50 {found[-1]:.4f}, {took:.0f} s", flush=True)
            rows.append([str(seed), *(f"{ap:.3f}" for ap in found), f"{found[1] - found[0]:+.3f}"])
        print(f"{len(train.dataset.images)} images trained on, {len(test.dataset.images)} tested")
    return rows


def in_the_mean(rows: list[list[str]]) -> str:
    gains = [float(row[-1]) for row in rows]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else None
    behind = f"standard error {error:.3f}" if error is not None else "one seed, so no error"
    return (
        f"float32 is higher by {statistics.mean(gains):+.3f} in the mean of {len(gains)}: {behind}"
    )


def main() -> None:
    asked = argparse.ArgumentParser()
    pair = {"nargs": 2, "metavar": ("ANNOTATIONS", "IMAGES")}
    asked.add_argument("--train", action="append", default=[], help="COCO file, folder", **pair)
    asked.add_argument("--test", default=None, help="COCO file, folder", **pair)
    asked.add_argument("--body", type=Path, default=None, help="weights of mobilenet_v2")
    asked.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    asked.add_argument("--epochs", type=int, default=12)
    asked.add_argument("--batch", type=int, default=4)
    asked.add_argument("--size", type=int, default=480, help="short side in pixels")
    asked.add_argument("--device", default="auto")
    given = asked.parse_args()
    if bool(given.train) != bool(given.test):
        asked.error("--train and --test go together")
    device = choose_device(given.device, "bfloat16")
    print(
        f"{datetime.date.today()}, commit {commit()}, {device.name}, {os.cpu_count()} cores, torch"
        f" {torch.__version__}, torchvision {torchvision.__version__}"
    )
    head = ("maps in", "anchors moved", "by at most, px", "level 0 doubled", "least IoU")
    print(table(rounding(), head), flush=True)
    if given.train:
        rows = compare(given, device)
        print(f"{given.size} px, {given.epochs} epochs, batches of {given.batch}")
        print(table(rows, ("seed", "AP50, anchors in bfloat16", "in float32", "difference")))
        print(in_the_mean(rows))


if __name__ == "__main__":
    main()
