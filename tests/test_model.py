"""Building detectors: every kind of backbone trains, and what is decided is decided right."""

from __future__ import annotations

import copy
import io
import math
import warnings
from functools import partial

import pytest
import torch
from torch import nn
from torchvision.models.detection import FasterRCNN, roi_heads
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.image_list import ImageList
from torchvision.ops import FrozenBatchNorm2d, boxes

from relaydet.compat import detector_runs_in_bfloat16_on_cpu
from relaydet.errors import RelayError
from relaydet.model import SHAPES_KEPT, BuiltModel, build_model, choose_model, recipe_of
from relaydet.speedups import speed_up


def new(name: str, **options) -> BuiltModel:
    return build_model(name, options.pop("categories", ["person"]), "none", **options)


def one_step(model: FasterRCNN) -> dict[str, torch.Tensor]:
    """Losses of two tiny images, one of them without objects, and their gradients."""
    model.roi_heads.fg_bg_sampler.batch_size_per_image = 8  # a CPU has better things to do
    torch.manual_seed(0)
    images = [torch.rand(3, 48, 64), torch.rand(3, 56, 48)]
    targets = [
        {"boxes": torch.tensor([[5.0, 5.0, 40.0, 44.0]]), "labels": torch.tensor([1])},
        {"boxes": torch.zeros(0, 4), "labels": torch.zeros(0, dtype=torch.int64)},
    ]
    losses = model(images, targets)
    sum(losses.values()).backward()
    return losses


# name, channels of the levels from stride 4 on (a pooled level follows), anchor sizes in pixels
USUAL = (32, 64, 128, 256, 512)
BACKBONES = [
    ("small", [64, 128, 256], (10, 20, 40, 80)),  # ends at stride 16
    ("squeezenet1_1", [128, 256, 512], USUAL[:4]),  # ends at stride 16, and pads nothing
    ("regnet_y_400mf", [48, 104, 208, 440], USUAL),  # stages lie one level down
]
HEAVY_BACKBONES = [
    ("shufflenet_v2_x0_5", [24, 48, 96, 1024], USUAL),
    ("resnet18", [64, 128, 256, 512], USUAL),
    ("mobilenet_v3_small", [16, 24, 48, 576], USUAL),
    ("swin_t", [96, 192, 384, 768], USUAL),  # NHWC
    ("mobilenet_v2", [24, 32, 96, 1280], USUAL),
    ("efficientnet_b0", [24, 40, 112, 1280], USUAL),
    ("mnasnet0_5", [16, 24, 48, 1280], USUAL),
    ("densenet121", [256, 512, 1024, 1024], USUAL),
    ("convnext_tiny", [96, 192, 384, 768], USUAL),
    ("swin_v2_t", [96, 192, 384, 768], USUAL),
    ("vgg11", [256, 512, 512, 512], USUAL),
    ("resnext50_32x4d", [256, 512, 1024, 2048], USUAL),
    ("alexnet", [64, 192, 256, 256], USUAL),
]


@pytest.mark.parametrize(
    ("name", "channels", "anchors"),
    [*BACKBONES, *(pytest.param(*case, marks=pytest.mark.slow) for case in HEAVY_BACKBONES)],
)
def test_a_backbone_becomes_a_pyramid_that_trains(name, channels, anchors):
    built = new(name, image_size=64)
    model = built.model
    assert [block[0].in_channels for block in model.backbone.fpn.inner_blocks] == channels
    assert model.rpn.anchor_generator.sizes == tuple((size,) for size in anchors)
    maps = model.backbone(torch.zeros(1, 3, 128, 192)).values()
    strides = [round(192 / features.shape[-1]) for features in maps]
    assert strides == pytest.approx([4, 8, 16, 32, 64][: len(anchors)], rel=0.25)
    losses = one_step(model)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert all(p.grad is not None for p in model.parameters()), "every layer is in use"


@pytest.mark.parametrize(
    "name",
    [
        "mobilenet_v3_large_320_fpn",
        pytest.param("mobilenet_v3_large_fpn", marks=pytest.mark.slow),
        pytest.param("resnet50_fpn", marks=pytest.mark.slow),
        pytest.param("resnet50_fpn_v2", marks=pytest.mark.slow),
    ],
)
def test_a_published_detector_trains_from_scratch(name):
    built = new(name, image_size=64, categories=["person", "car"])
    losses = one_step(built.model)
    assert all(torch.isfinite(loss) for loss in losses.values())
    assert built.model.roi_heads.box_predictor.cls_score.out_features == 3
    assert not built.frozen
    assert not any(isinstance(m, FrozenBatchNorm2d) for m in built.model.modules())


def test_several_categories_are_detected():
    model = new("small", categories=["person", "car", "dog"], image_size=64).model.eval()
    model.roi_heads.score_thresh, model.roi_heads.detections_per_img = 0.0, 1000
    (found,) = model([torch.rand(3, 64, 64)])
    assert set(found["labels"].tolist()) == {1, 2, 3}


@pytest.mark.parametrize(
    ("name", "image_size", "expected"),
    [
        ("small", None, (128, 512)),
        ("small", 96, (96, 384)),
        ("squeezenet1_1", None, (480, 800)),
        ("mobilenet_v3_large_320_fpn", None, (320, 640)),
        pytest.param("mobilenet_v3_large_320_fpn", 64, (64, 128), marks=pytest.mark.slow),
        pytest.param("mobilenet_v3_large_fpn", None, (800, 1333), marks=pytest.mark.slow),
    ],
)
def test_image_size(name, image_size, expected):
    transform = new(name, image_size=image_size).model.transform
    assert (transform.min_size, transform.max_size) == ((expected[0],), expected[1])


def test_new_weights_depend_on_the_seed_alone():
    torch.manual_seed(123)
    state = torch.get_rng_state()
    first = new("small", seed=7).model.state_dict()
    assert torch.equal(torch.get_rng_state(), state), "the caller's generator is left alone"
    torch.manual_seed(5)
    again, other = new("small", seed=7).model.state_dict(), new("small", seed=8).model.state_dict()
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not torch.equal(
        first["roi_heads.box_head.fc6.weight"], other["roi_heads.box_head.fc6.weight"]
    )


def test_a_frozen_detector_is_rebuilt_without_its_weights():
    """What a session that goes on with a run elsewhere does: the file may not be there."""
    frozen = new("small", frozen=True)
    assert frozen.frozen
    body = frozen.model.backbone.body
    assert not any(isinstance(module, nn.BatchNorm2d) for module in body.modules())
    still = {name.split(".")[0] for name, p in body.named_parameters() if not p.requires_grad}
    assert still == {"conv1", "layer1"}, "as torchvision and detectron2 fine-tune"
    again = new("small", frozen=True, seed=1).model
    again.load_state_dict(frozen.model.state_dict(), strict=True)
    assert "frozen" in str(frozen)
    assert "frozen" not in str(new("small"))


def test_freezing_changes_no_prediction():
    plain, frozen = new("small").model.eval(), new("small", frozen=True).model.eval()
    norm = {
        name: torch.rand_like(tensor) + 0.5
        for name, tensor in plain.state_dict().items()
        if name.endswith(("running_mean", "running_var"))
    }
    plain.load_state_dict(norm, strict=False)
    frozen.load_state_dict(norm, strict=False)
    images = torch.rand(1, 3, 64, 64)
    for a, b in zip(plain.backbone(images).values(), frozen.backbone(images).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("name", "device_type", "expected"),
    [
        ("auto", "cpu", "small"),
        ("auto", "cuda", "resnet50_fpn"),
        ("auto", "mps", "resnet50_fpn"),
        ("mobilenet_v2", "cuda", "mobilenet_v2"),
    ],
)
def test_choose_model(name, device_type, expected):
    chosen, reason = choose_model(name, device_type)
    assert chosen == expected
    assert reason


@pytest.mark.parametrize(
    ("name", "optimizer", "schedule", "rate_of_8", "rate_of_16", "image_size"),
    [
        ("small", "adamw", "cosine", 1e-3, 1e-3, 128),
        ("resnet50_fpn", "sgd", "steps", 0.01, 0.02, 800),
        ("mobilenet_v3_large_320_fpn", "sgd", "steps", 0.01, 0.02, 320),
        ("mobilenet_v2", "sgd", "steps", 0.01, 0.02, 480),
        ("swin_t", "adamw", "steps", 1e-4, 1e-4, 480),
    ],
)
def test_recipes(name, optimizer, schedule, rate_of_8, rate_of_16, image_size):
    recipe = recipe_of(name)
    assert (recipe.optimizer, recipe.schedule) == (optimizer, schedule)
    assert recipe.peak_learning_rate(8) == pytest.approx(rate_of_8)
    assert recipe.peak_learning_rate(16) == pytest.approx(rate_of_16)
    assert recipe.image_size == image_size
    if recipe.schedule == "steps":
        assert [round(recipe.epochs * m) for m in recipe.milestones] == [8, 11]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("resnt18", {}, "did you mean resnet18"),
        ("fasterrcnn_resnet50_fpn", {}, "did you mean resnet50_fpn"),
        ("ResNet-50-FPN", {}, "did you mean resnet50_fpn"),
        ("zzz", {}, "take one like small"),
        pytest.param("vit_b_16", {}, "no pyramid.*resnet18", marks=pytest.mark.slow),
        ("maxvit_t", {}, "no pyramid.*resnet18"),
        ("small", {"categories": []}, "at least one category"),
        ("small", {"categories": ["a", "a"]}, "each only once"),
        ("small", {"image_size": 16}, "16 pixels is too small"),
        ("small", {"image_size": 0}, "0 pixels is too small"),
    ],
)
def test_mistakes_are_explained(name, options, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(RelayError, match=message):
            new(name, **options)


# Coordinates in float32.

needs_bfloat16 = pytest.mark.skipif(
    not detector_runs_in_bfloat16_on_cpu(), reason="this torchvision has no bfloat16 on the CPU"
)


def a_batch(generator: AnchorGenerator, dtype: torch.dtype, width: int = 1344, images: int = 1):
    """Images of 800 pixels' height as a list of torchvision's, and maps of them in a type."""
    blank = torch.zeros(1)
    maps = [
        blank.to(dtype).expand(images, 1, 800 // 2**level, width // 2**level)
        for level, _ in enumerate(generator.sizes, start=2)
    ]
    return ImageList(blank.expand(images, 1, 800, width), [(800, width - 11)] * images), maps


@pytest.mark.parametrize("name", ["small", "resnet18", "mobilenet_v3_large_320_fpn"])
def test_anchors_are_those_of_float32_in_every_precision(name):
    """In bfloat16 they would move by up to 7 pixels, and 23,400 of level 0 would coincide."""
    model = new(name).model
    ours = model.rpn.anchor_generator
    theirs = AnchorGenerator(ours.sizes, ours.aspect_ratios)
    (expected,) = theirs(*a_batch(ours, torch.float32))
    for training in (True, False):
        ours.train(training)
        for dtype in (torch.float32, torch.bfloat16, torch.float16):
            first, second = ours(*a_batch(ours, dtype, images=2))
            assert first.dtype == torch.float32
            assert torch.equal(first, expected)
            assert torch.equal(second, expected)


def test_anchors_are_kept_by_every_shape_that_they_depend_on():
    generator = new("small").model.rpn.anchor_generator
    theirs = AnchorGenerator(generator.sizes, generator.aspect_ratios)
    images, maps = a_batch(generator, torch.bfloat16)
    higher = ImageList(torch.zeros(1).expand(1, 1, 1600, 1344), images.image_sizes)
    lower = [one[:, :, : one.shape[2] // 2] for one in maps]
    (first,) = generator(images, maps)
    for shown, these in ((higher, maps), (images, lower), (images, maps)):
        (found,) = generator(shown, these)
        assert torch.equal(found, theirs(shown, [one.float() for one in these])[0])
    assert found is first, "made once"
    for width in range(64, 64 + 32 * (SHAPES_KEPT + 1), 32):
        generator(*a_batch(generator, torch.float32, width))
    assert len(generator._kept) == SHAPES_KEPT
    assert generator(images, maps)[0] is not first, "the one that was longest unused is let go"


def test_anchors_that_were_made_in_evaluation_can_be_trained_with():
    model = new("small", image_size=64).model
    with torch.inference_mode():
        model.eval()([torch.rand(3, 64, 64)])
    (anchors,) = model.rpn.anchor_generator._kept.values()
    assert not anchors.is_inference()
    deltas = torch.zeros(len(anchors), 4, requires_grad=True)
    (deltas * anchors).sum().backward()
    assert torch.equal(deltas.grad, anchors)


def test_copies_and_files_hold_no_anchors():
    model = new("small", image_size=64).model.eval()
    (expected,) = model([torch.zeros(3, 64, 64)])
    assert model.rpn.anchor_generator._kept
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    options = {"weights_only": False}
    for other in (copy.deepcopy(model), torch.load(file, **options)):
        assert not other.rpn.anchor_generator._kept
        assert all(
            torch.equal(value, expected[key])
            for key, value in other([torch.zeros(3, 64, 64)])[0].items()
        )


def watched(monkeypatch, model: FasterRCNN) -> dict[str, set[torch.dtype]]:
    """By the place that coordinates pass, the types that they have there."""
    seen: dict[str, set[torch.dtype]] = {}

    def note(name: str, value: object) -> None:
        if isinstance(value, torch.Tensor):
            seen.setdefault(name, set()).add(value.dtype)
        elif isinstance(value, list | tuple):
            for one in value:
                note(name, one)

    def watch(owner: object, name: str, place: str, takes: slice) -> None:
        theirs = getattr(owner, name)

        def noted(*given, **named):
            note(f"{place}, given", given[takes])
            result = theirs(*given, **named)
            note(f"{place}, made", result)
            return result

        monkeypatch.setattr(owner, name, noted)

    watch(model.rpn.anchor_generator, "forward", "anchors", slice(0))
    for part, called in ((model.rpn, "RPN"), (model.roi_heads, "heads")):
        watch(part.box_coder, "encode_single", f"{called}: targets", slice(2))
        # What it is given holds the deltas too, which are the network's and no coordinates.
        watch(part.box_coder, "decode_single", f"{called}: decoded", slice(1, 2))
    watch(model.rpn, "box_similarity", "RPN: IoU", slice(2))
    watch(model.rpn, "filter_proposals", "proposals to choose among", slice(1))
    watch(boxes, "box_iou", "heads: IoU", slice(2))
    watch(boxes, "clip_boxes_to_image", "clipped", slice(1))
    watch(boxes, "remove_small_boxes", "not too small", slice(1))
    watch(boxes, "batched_nms", "NMS", slice(1))
    watch(roi_heads, "fastrcnn_loss", "heads: loss, targets", slice(3, 4))
    watch(model.rpn, "compute_loss", "RPN: loss, targets", slice(3, 4))
    watch(model.roi_heads.box_roi_pool, "forward", "RoIAlign", slice(1, 2))
    return seen


NO_COORDINATES = {
    "NMS, made",  # indices
    "not too small, made",  # indices
    "proposals to choose among, made",  # scores too; the boxes are seen at NMS and RoIAlign
    "RoIAlign, made",  # features
}


@needs_bfloat16
@pytest.mark.parametrize("quick", [False, True], ids=["plain", "quick"])
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_all_coordinates_are_float32_under_autocast(monkeypatch, training, quick):
    model = new("small").model.train(training)
    model.roi_heads.score_thresh = 0.0
    if quick:
        speed_up(model)
    seen = watched(monkeypatch, model)
    step = partial(one_step, model) if training else partial(model, [torch.rand(3, 48, 64)])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = step()
    places = {place.rpartition(", ")[0] for place in seen}
    learnt = {"RPN: targets", "heads: targets", "RPN: IoU", "heads: IoU"}
    learnt |= {"RPN: loss, targets", "heads: loss, targets"}
    assert places == {
        *("anchors", "RPN: decoded", "proposals to choose among", "clipped", "not too small"),
        *("NMS", "RoIAlign", *(learnt if training else ["heads: decoded"])),
    }
    wrong = {place: types for place, types in seen.items() if types != {torch.float32}}
    assert {place: types for place, types in wrong.items() if place not in NO_COORDINATES} == {}
    if training:
        assert {loss.dtype for loss in result.values()} == {torch.float32}
    else:
        assert {found["boxes"].dtype for found in result} == {torch.float32}


@needs_bfloat16
@pytest.mark.parametrize("name", ["small", "mobilenet_v3_large_320_fpn"])
def test_proposals_are_not_rounded_to_bfloat16(name):
    """A box at 1029..1034 would become 1032..1032, and the person's loss no number."""
    model = new(name).model
    seen = []
    model.roi_heads.register_forward_pre_hook(lambda _, given: seen.extend(given[1]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one_step(model)
    assert {proposals.dtype for proposals in seen} == {torch.float32}


@pytest.mark.parametrize("name", ["small", "resnet18", "mobilenet_v3_large_320_fpn"])
def test_what_the_box_pool_does_is_no_matter_of_the_first_image(name):
    """A process may start with an image that is padded to many times its height."""
    pool = build_model(name, ["person"], "none").model.roi_heads.box_roi_pool
    before = list(pool.scales)
    assert all(scale == 2 ** round(math.log2(scale)) for scale in before)
    model = build_model(name, ["person"], "none").model.eval()
    model.transform.max_by_axis = lambda shapes: [3, 640, 640]
    model.transform.min_size = (64,)
    with torch.no_grad():
        model([torch.zeros(3, 64, 64)])
    assert model.roi_heads.box_roi_pool.scales == before


@pytest.mark.parametrize(
    ("count", "named"),
    [(2, "c0, c1:"), (10, "c8, c9:"), (11, "c8, c9 and 1 more:"), (1_200, "c9 and 1,190 more:")],
)
def test_the_line_on_a_detector_names_some_categories(count, named):
    built = build_model("small", [f"c{i}" for i in range(count)], "none", 64)
    assert named in str(built)
    assert len(str(built)) < 200
