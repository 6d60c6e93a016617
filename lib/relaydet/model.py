"""Faster R-CNN, built from a model's name.

A model is one of torchvision's four published detectors, `small` (trains from scratch in minutes on
a CPU), or any torchvision classification network that has a pyramid of features.
"""

from __future__ import annotations

import difflib
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

import torch
import torchvision
from torch import nn
from torchvision.models import MobileNet_V3_Large_Weights, ResNet50_Weights, detection
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection._utils import BoxCoder
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d, MultiScaleRoIAlign

from relaydet.data.augment import Augmentation
from relaydet.download import Offer, Published
from relaydet.errors import RelayError
from relaydet.pyramid import WORKING, build_pyramid
from relaydet.weights import WeightsReport, load_weights

SMALL = "small"
PROBE_SIDE = 128
"""Pixels of an image that all levels of a pyramid divide."""
SMALLEST_IMAGE = 32  # pixels: the stride of the coarsest feature map before pooling
CATEGORIES_NAMED = 10
"""How many categories the line on a detector names."""
SHAPES_KEPT = 16
"""Shapes of batches whose anchors are kept: 4 MB each at 800 x 1333 pixels."""


@dataclass(frozen=True)
class Recipe:
    """The training recipe of a model: what is used where the user gives nothing."""

    epochs: int = 12
    """Passes over the training images."""
    optimizer: str = "sgd"
    """sgd or adamw."""
    learning_rate: float = 0.02
    """Peak learning rate: for sgd at batch size 16, for adamw at any."""
    weight_decay: float = 1e-4
    """Weight decay."""
    momentum: float = 0.9
    """Momentum of sgd."""
    schedule: str = "steps"
    """steps (times gamma at each milestone) or cosine (down to 0)."""
    milestones: tuple[float, ...] = (8 / 12, 11 / 12)
    """Where the learning rate falls, as fractions of all epochs."""
    gamma: float = 0.1
    """Factor at a milestone."""
    warmup_steps: int = 1000
    """Optimizer steps of linear warm-up; a trainer keeps it within the first epoch."""
    image_size: int = 800
    """Short side in pixels that images are resized to."""
    max_size: int = 1333
    """Limit of the long side in pixels."""
    augmentation: Augmentation = field(default_factory=Augmentation)
    """How training images are changed; the published recipe only flips them."""

    def peak_learning_rate(self, batch_size: int) -> float:
        """The peak learning rate for a batch size in images: linear in it for sgd."""
        return self.learning_rate * (batch_size / 16 if self.optimizer == "sgd" else 1)

    def sides(self, image_size: int | None = None) -> tuple[int, int]:
        """Return the pixels of a resized image's short side, and of its long side at most."""
        short = self.image_size if image_size is None else image_size
        return short, round(short * self.max_size / self.image_size)


class Float32BoxCoder(BoxCoder):
    """torchvision's box coder, decoding in float32 under autocast too.

    torchvision decodes in the type of the deltas. In bfloat16 a box would be rounded to 1 pixel
    from 128 on and to 4 from 512 on, and so would the ground truth that it is compared with.
    """

    def decode_single(self, rel_codes: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Boxes [N, 4 * classes] as corners in pixels, from deltas and reference boxes [N, 4]."""
        return super().decode_single(rel_codes.float(), boxes.float())


class Float32Anchors(AnchorGenerator):
    """torchvision's anchors, in float32 whatever type the feature maps have.

    torchvision makes them in the type of the feature maps. bfloat16 has a step of 2 pixels from 256
    on and of 8 from 1,024 on: under autocast anchors move, and neighbours at stride 4 coincide.
    They depend on shapes alone, so those of the last shapes are kept.
    """

    def __init__(self, sizes: Sequence[Any], aspect_ratios: Sequence[Any]) -> None:
        super().__init__(sizes, aspect_ratios)
        self._kept: OrderedDict[tuple, torch.Tensor] = OrderedDict()

    def forward(
        self, image_list: ImageList, feature_maps: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """Return for each image the anchors of all levels as corners in pixels: float32 [A, 4]."""
        device = feature_maps[0].device
        image_size = tuple(image_list.tensors.shape[-2:])
        key = (image_size, *(tuple(one.shape[-2:]) for one in feature_maps), device)
        if key not in self._kept:
            self._kept[key] = self._make(image_size, feature_maps)
        self._kept.move_to_end(key)
        while len(self._kept) > SHAPES_KEPT:
            self._kept.popitem(last=False)
        return [self._kept[key]] * len(image_list.image_sizes)

    def _make(
        self, image_size: tuple[int, int], feature_maps: Sequence[torch.Tensor]
    ) -> torch.Tensor:
        """Let torchvision's own code, of whatever release, see one image and float32 maps."""
        # No memory behind the shapes; and no inference tensors, which could not be trained with.
        with torch.inference_mode(False), torch.no_grad():
            blank = torch.zeros(1, device=feature_maps[0].device)
            maps = [blank.expand(1, 1, *one.shape[-2:]) for one in feature_maps]
            images = ImageList(blank.expand(1, 1, *image_size), [image_size])
            return super().forward(images, maps)[0]

    def __getstate__(self) -> dict[str, Any]:
        """Leave what is kept out of copies and files: it is made again where it is needed."""
        return {**self.__dict__, "_kept": OrderedDict()}


@dataclass(frozen=True)
class BuiltModel:
    """A detector and how it came about; `str()` is one line for the user."""

    model: FasterRCNN
    """The detector, in training mode, on the CPU."""
    name: str
    """The model's name."""
    categories: tuple[str, ...]
    """The categories of labels 1..N (0 is the background)."""
    weights_report: WeightsReport
    """Where its weights came from."""
    frozen: bool
    """The backbone's batch norms and first stages do not train.

    Write it down with a run and pass it back to `build_model` to rebuild the same detector."""

    def __str__(self) -> str:
        sizes = [(p.numel(), p.requires_grad) for p in self.model.parameters()]
        total, trained = sum(n for n, _ in sizes), sum(n for n, trains in sizes if trains)
        named = ", ".join(self.categories[:CATEGORIES_NAMED])
        if len(self.categories) > CATEGORIES_NAMED:
            named += f" and {len(self.categories) - CATEGORIES_NAMED:,} more"
        line = f"model: {self.name} for {named}: {total / 1e6:.1f} M parameters"
        if self.frozen:
            line += f", {trained / 1e6:.1f} M train (batch norms and first stages frozen)"
        return line


@dataclass(frozen=True)
class _Builder:
    """One of torchvision's published detectors."""

    build: Callable[..., FasterRCNN]
    offer: Offer
    """Its COCO weights, and the backbone weights that its published training started from."""
    frozen_until: str
    """The last part of the backbone that torchvision's fine-tuning leaves as it is."""


def _published(entry: Enum, epsilon_free: bool = False) -> Published:
    """Read a member of one of torchvision's enumerations of weights."""
    return Published(entry.value.url, tuple(entry.value.meta["categories"]), epsilon_free)


_RESNET50 = _published(ResNet50_Weights.IMAGENET1K_V1)
_MOBILENET = _published(MobileNet_V3_Large_Weights.IMAGENET1K_V1)

BUILDERS = {
    "resnet50_fpn": _Builder(
        detection.fasterrcnn_resnet50_fpn,
        Offer(_published(detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1, True), _RESNET50),
        frozen_until="layer1",
    ),
    "resnet50_fpn_v2": _Builder(
        detection.fasterrcnn_resnet50_fpn_v2,
        Offer(_published(detection.FasterRCNN_ResNet50_FPN_V2_Weights.COCO_V1), _RESNET50),
        frozen_until="layer1",
    ),
    "mobilenet_v3_large_fpn": _Builder(
        detection.fasterrcnn_mobilenet_v3_large_fpn,
        Offer(_published(detection.FasterRCNN_MobileNet_V3_Large_FPN_Weights.COCO_V1), _MOBILENET),
        frozen_until="6",
    ),
    "mobilenet_v3_large_320_fpn": _Builder(
        detection.fasterrcnn_mobilenet_v3_large_320_fpn,
        Offer(
            _published(detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1),
            _MOBILENET,
        ),
        frozen_until="6",
    ),
}

_WORKING = f"{SMALL}, {', '.join(BUILDERS)}, {WORKING}"


def choose_model(name: str, device_type: str) -> tuple[str, str]:
    """Decide what "auto" stands for.

    Args:
        name: a model's name, or auto.
        device_type: cpu, cuda or mps.

    Returns:
        The model's name and the reason for it.
    """
    if name != "auto":
        return name, "as asked"
    if device_type == "cpu":
        return SMALL, "on a CPU: it trains in minutes"
    return "resnet50_fpn", f"on a GPU ({device_type}): the published Faster R-CNN"


def recipe_of(name: str) -> Recipe:
    """The recipe that a model is trained with unless the user says otherwise.

    Raises:
        RelayError: there is no such model.
    """
    _check_name(name)
    if name == SMALL:
        # Trains from scratch on a CPU: AP50 0.87 on the demo's held-out scenes (benchmarks/).
        return Recipe(
            epochs=6,
            optimizer="adamw",
            learning_rate=1e-3,
            schedule="cosine",
            warmup_steps=30,
            image_size=128,
            max_size=512,
            augmentation=Augmentation(brightness=0.2, contrast=0.2),
        )
    if name == "mobilenet_v3_large_320_fpn":
        return Recipe(image_size=320, max_size=640)
    if name in BUILDERS:
        return Recipe()
    # No detector is published on these backbones. People choose one to be light: 480 px costs a
    # third of 800 px, and a person at full length still covers the 32-pixel anchors.
    if name.startswith(("swin", "convnext")):
        # Layer norms diverge under the rate for SGD; the papers of both fine-tune with this.
        return Recipe(
            optimizer="adamw", learning_rate=1e-4, weight_decay=0.05, image_size=480, max_size=800
        )
    return Recipe(image_size=480, max_size=800)


def build_model(
    name: str,
    categories: Sequence[str],
    weights: str = "auto",
    image_size: int | None = None,
    seed: int = 0,
    frozen: bool | None = None,
) -> BuiltModel:
    """Build a detector and put its weights in.

    Args:
        name: a model's name, not auto (see `choose_model`).
        categories: names of the objects to detect; they get the labels 1..N.
        weights: auto, coco, imagenet, none, or the path of a .pth, .pt or .safetensors file.
        image_size: short side in pixels that the detector resizes to; None is the recipe's.
        seed: seed of the tensors that start new; the caller's random state is left as it is.
        frozen: keep the backbone's batch norms and first stages as they are; None does so where
            the whole backbone was loaded, as torchvision and detectron2 fine-tune.

    Raises:
        RelayError: there is no such model, it has no feature pyramid, the categories or the image
            size make no sense, or the weights cannot be loaded.
    """
    recipe = recipe_of(name)
    if not categories or len(set(categories)) != len(categories):
        raise RelayError(
            f"CATEGORIES: a detector needs at least one category and each only once; got"
            f" {list(categories)}."
        )
    short_side = recipe.image_size if image_size is None else image_size
    if short_side < SMALLEST_IMAGE:
        raise RelayError(
            f"IMAGE_SIZE: {short_side} pixels is too small for a detector; take at least"
            f" {SMALLEST_IMAGE} (the recipe of {name!r} takes {recipe.image_size})."
        )
    sizes = dict(zip(("min_size", "max_size"), recipe.sides(image_size), strict=True))
    with torch.random.fork_rng(devices=[]):
        # Only the CPU's generator: torch.manual_seed would also disturb the GPUs'.
        torch.default_generator.manual_seed(seed)
        model, frozen_until = _new_detector(name, len(categories) + 1, sizes)
    _settle_scales(model)
    for part in (model.rpn, model.roi_heads):
        part.box_coder = Float32BoxCoder(part.box_coder.weights)
    theirs = model.rpn.anchor_generator
    model.rpn.anchor_generator = Float32Anchors(theirs.sizes, theirs.aspect_ratios)
    report = load_weights(model, name, weights, _offer(name), categories)
    frozen = report.source != "none" if frozen is None else frozen
    if frozen:
        _freeze(model.backbone.body, frozen_until)
    return BuiltModel(model, name, tuple(categories), report, frozen)


@torch.no_grad()
def _settle_scales(model: FasterRCNN) -> None:
    """Tell the box pool how much smaller than the image each level of the pyramid is.

    Left alone, torchvision works it out from the first images that a process shows the detector,
    wrongly where those are padded to over 1.4 times their height; what a resumed run learns would
    then depend on where it was interrupted.
    """
    size = (PROBE_SIDE, PROBE_SIDE)
    model.eval()
    levels = model.backbone(torch.zeros(1, 3, *size))
    model.roi_heads.box_roi_pool(levels, [torch.zeros(0, 4)], [size])
    model.train()


def _check_name(name: str) -> None:
    backbones = torchvision.models.list_models(module=torchvision.models)
    names = [SMALL, *BUILDERS, *backbones]
    if name not in names:
        # People also write torchvision's full name, fasterrcnn_resnet50_fpn.
        wanted = name.lower().removeprefix("fasterrcnn_").replace("-", "_")
        close = difflib.get_close_matches(wanted, names, n=3, cutoff=0.5)
        hint = f"did you mean {', '.join(close)}?" if close else f"take one like {_WORKING}."
        raise RelayError(f"MODEL: there is no model {name!r}; {hint}")


def _new_detector(name: str, classes: int, sizes: dict[str, int]) -> tuple[FasterRCNN, str]:
    """A newly initialised detector and the last part of its body that fine-tuning freezes."""
    if name in BUILDERS:
        builder = BUILDERS[name]
        model = builder.build(weights=None, weights_backbone=None, num_classes=classes, **sizes)
        return model, builder.frozen_until
    if name == SMALL:
        backbone, _ = build_pyramid("resnet18", out_channels=64, coarsest=16)
        anchors: tuple[int, ...] = (10, 20, 40, 80)
        options = _small_options(backbone.out_channels, classes)
    else:
        backbone, strides = build_pyramid(name, out_channels=256)
        # 32 pixels on stride 4 up to 512 on the pooled level, as torchvision's.
        anchors = tuple(8 * stride for stride in (*strides, 2 * strides[-1]))
        options = {"num_classes": classes}
    ratios = ((0.5, 1.0, 2.0),) * len(anchors)
    generator = AnchorGenerator(tuple((size,) for size in anchors), ratios)
    model = FasterRCNN(backbone, rpn_anchor_generator=generator, **options, **sizes)
    return model, next(iter(backbone.body.return_layers))


def _small_options(channels: int, classes: int) -> dict[str, object]:
    """The head of `small`, and what it looks at."""
    # On a CPU the usual 512 samples through a head of 1024 cost more than the backbone, and
    # RoIAlign's backward pass with four points a bin as much as all convolutions. One point is
    # enough where bins are one to two cells wide: objects of 56 pixels are taken from stride 8.
    pool = MultiScaleRoIAlign(["0", "1", "2"], 7, sampling_ratio=1, canonical_scale=112)
    return {
        "box_roi_pool": pool,
        "box_head": TwoMLPHead(channels * 7 * 7, 256),
        "box_predictor": FastRCNNPredictor(256, classes),
        "box_batch_size_per_image": 64,
        "rpn_pre_nms_top_n_train": 250,
        "rpn_pre_nms_top_n_test": 500,
        "rpn_post_nms_top_n_train": 100,
        "rpn_post_nms_top_n_test": 200,
    }


def _offer(name: str) -> Offer:
    """What torchvision publishes for a model."""
    if name in BUILDERS:
        return BUILDERS[name].offer
    imagenet = torchvision.models.get_model_weights("resnet18" if name == SMALL else name).DEFAULT
    reason = "its recipe trains from scratch in minutes" if name == SMALL else ""
    return Offer(imagenet=_published(imagenet), scratch_reason=reason)


def _freeze(body: nn.Module, frozen_until: str) -> None:
    """Fix a body's batch norms, and all of its layers up to and with the named one."""
    for module in list(body.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.BatchNorm2d):
                setattr(module, name, _frozen_norm(child))
    for name, layer in body.named_children():
        layer.requires_grad_(False)
        if name == frozen_until:
            break


def _frozen_norm(norm: nn.BatchNorm2d) -> FrozenBatchNorm2d:
    frozen = FrozenBatchNorm2d(norm.num_features, norm.eps)
    frozen.load_state_dict(norm.state_dict())
    return frozen
