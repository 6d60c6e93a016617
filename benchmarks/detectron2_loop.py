"""detectron2 as a peer, where it is installed: its Faster R-CNN R50-FPN in its own trainer.

Everything is detectron2's (https://github.com/facebookresearch/detectron2): its model with the
settings of Base-RCNN-FPN, its mapper from file to tensor, its optimizer and `SimpleTrainer`, or
`AMPTrainer` on CUDA. The weights are those of the torchvision detector beside it, renamed; batches
hold the same images, so that neither side has less padding.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from reference_loop import Photo
from torch.utils.data import DataLoader
from torchvision.models.detection import FasterRCNN

MODEL = "resnet50_fpn"
"""Which of our detectors it has."""

LEVELS = ["p2", "p3", "p4", "p5"]
FPN = {
    "MODEL.BACKBONE.NAME": "build_resnet_fpn_backbone",
    "MODEL.RESNETS.OUT_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.FPN.IN_FEATURES": ["res2", "res3", "res4", "res5"],
    "MODEL.ANCHOR_GENERATOR.SIZES": [[32], [64], [128], [256], [512]],
    "MODEL.RPN.IN_FEATURES": [*LEVELS, "p6"],
    "MODEL.RPN.PRE_NMS_TOPK_TRAIN": 2000,
    "MODEL.RPN.POST_NMS_TOPK_TRAIN": 1000,
    "MODEL.ROI_HEADS.NAME": "StandardROIHeads",
    "MODEL.ROI_HEADS.IN_FEATURES": LEVELS,
    "MODEL.ROI_BOX_HEAD.NAME": "FastRCNNConvFCHead",
    "MODEL.ROI_BOX_HEAD.NUM_FC": 2,
    "MODEL.ROI_BOX_HEAD.POOLER_RESOLUTION": 7,
}
"""What its Base-RCNN-FPN sets; its own file is found by a module that new setuptools lack."""

RENAMED = (
    (r"backbone\.body\.(conv1|bn1)\.", r"backbone.bottom_up.stem.\1."),
    (r"stem\.bn1", "stem.conv1.norm"),
    (
        r"backbone\.body\.layer(\d)",
        lambda found: f"backbone.bottom_up.res{int(found[1]) + 1}",
    ),
    (r"\.bn(\d)\.", r".conv\1.norm."),
    (r"\.downsample\.0", ".shortcut"),
    (r"\.downsample\.1", ".shortcut.norm"),
    (
        r"backbone\.fpn\.(inner|layer)_blocks\.(\d)\.0",
        lambda found: (
            f"backbone.fpn_{'lateral' if found[1] == 'inner' else 'output'}{int(found[2]) + 2}"
        ),
    ),
    (r"rpn\.head\.conv\.0\.0", "proposal_generator.rpn_head.conv"),
    (r"rpn\.head\.cls_logits", "proposal_generator.rpn_head.objectness_logits"),
    (r"rpn\.head\.bbox_pred", "proposal_generator.rpn_head.anchor_deltas"),
    (r"box_head\.fc6", "box_head.fc1"),
    (r"box_head\.fc7", "box_head.fc2"),
)
"""torchvision's names as patterns, and detectron2's."""


def installed() -> bool:
    return importlib.util.find_spec("detectron2") is not None


def build(detector: FasterRCNN, device: torch.device, rate: float) -> tuple[Any, Any]:
    """detectron2's settings and its model, with a torchvision detector's sizes and weights."""
    from detectron2.config import get_cfg
    from detectron2.modeling import build_model

    settings = get_cfg()
    for name, value in FPN.items():
        settings.merge_from_list([name, value])
    settings.MODEL.DEVICE = str(device)
    settings.MODEL.ROI_HEADS.NUM_CLASSES = (
        detector.roi_heads.box_predictor.cls_score.out_features - 1
    )
    settings.MODEL.RESNETS.STRIDE_IN_1X1 = False  # the stride where torchvision has it
    settings.MODEL.PIXEL_MEAN = [255 * value for value in detector.transform.image_mean]
    settings.MODEL.PIXEL_STD = [255 * value for value in detector.transform.image_std]
    settings.INPUT.FORMAT = "RGB"
    settings.INPUT.MIN_SIZE_TRAIN = tuple(detector.transform.min_size)
    settings.INPUT.MAX_SIZE_TRAIN = detector.transform.max_size
    settings.SOLVER.BASE_LR = rate
    model = build_model(settings)
    model.load_state_dict(renamed(detector.state_dict()), strict=True)
    return settings, model.train()


def renamed(weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A torchvision detector's weights under detectron2's names, background as the last class."""
    found = {}
    for name, value in weights.items():
        for pattern, replacement in RENAMED:
            name = re.sub(pattern, replacement, name)
        if ".cls_score." in name:
            value = torch.cat([value[1:], value[:1]])
        elif "roi_heads.box_predictor.bbox_pred." in name:
            value = value[4:]  # torchvision's background has a box too
        found[name] = value
    return found


class Records(torch.utils.data.Dataset):
    """Photos as detectron2's mapper wants them."""

    def __init__(self, photos: Sequence[Photo], mapper: Any) -> None:
        self.records = [_record(photo) for photo in photos]
        self.mapper = mapper

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self.mapper(self.records[number])


def _record(photo: Photo) -> dict[str, Any]:
    from detectron2.structures import BoxMode

    annotations = [
        {"bbox": box, "bbox_mode": BoxMode.XYXY_ABS, "category_id": label - 1, "iscrowd": 0}
        for box, label in zip(photo.boxes_N4.tolist(), photo.labels_N.tolist(), strict=True)
    ]
    return {"file_name": str(photo.path), "annotations": annotations}


def loader(
    photos: Sequence[Photo], batches: Sequence[list[int]], workers: int, settings: Any
) -> DataLoader:
    from detectron2.data import DatasetMapper

    return DataLoader(
        Records(photos, DatasetMapper(settings, is_train=True)),
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=list,
    )


def optimizer_of(settings: Any, model: Any) -> torch.optim.Optimizer:
    from detectron2.solver import build_optimizer

    return build_optimizer(settings, model)


def detectron2_steps(
    model: Any, feed: DataLoader, optimizer: torch.optim.Optimizer, amp: bool
) -> Iterator[None]:
    """One `run_step` of its trainer after the other."""
    from detectron2.engine import AMPTrainer, SimpleTrainer
    from detectron2.utils.events import EventStorage

    trainer = (AMPTrainer if amp else SimpleTrainer)(model, feed, optimizer)
    while True:
        with EventStorage(trainer.iter) as trainer.storage:
            trainer.run_step()
        trainer.iter += 1
        yield
