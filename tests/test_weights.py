"""Where weights come from: files of many shapes, torchvision's published ones, or none."""

from __future__ import annotations

import copy
import hashlib
import os
import time
import zipfile
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import save_file
from torchvision.models import detection
from torchvision.models.detection import FasterRCNN

from relaydet import compat
from relaydet import weights as weights_module
from relaydet.download import Offer
from relaydet.errors import RelayError
from relaydet.model import BuiltModel, build_model
from relaydet.weights import WeightsReport, load_weights, read_tensors

MOBILENET = Path(__file__).parents[1] / ".." / "shared" / "weights" / "mobilenet_v2_features.pt"
COCO_320 = detection.FasterRCNN_MobileNet_V3_Large_320_FPN_Weights.COCO_V1
NORM = ("weight", "bias", "running_mean", "running_var")


@pytest.fixture(autouse=True)
def offline(monkeypatch, tmp_path):
    """No test reaches the internet: an empty cache, and a proxy that nobody listens at."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    for name in ("HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")


@pytest.fixture(autouse=True)
def any_torch(monkeypatch):
    """These files are our own: releases of torch that refuse others' read them as well."""
    monkeypatch.setattr(weights_module, "unsafe_pickles", lambda: "")


@pytest.fixture(scope="module")
def resnet18() -> dict[str, torch.Tensor]:
    """State of a classifier whose batch norms have seen something."""
    torch.manual_seed(11)
    state = torchvision.models.resnet18().state_dict()
    return {
        name: torch.rand_like(t) + 0.5 if name.endswith("running_var") else t
        for name, t in state.items()
    }


@pytest.fixture(scope="module")
def small() -> FasterRCNN:
    """A new detector of the smallest model; only to be copied."""
    return build_model("small", ["person"], "none").model


@pytest.fixture(scope="module")
def coco_state() -> dict[str, torch.Tensor]:
    """State of a whole detector as torchvision publishes them."""
    torch.manual_seed(3)
    return detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None
    ).state_dict()


def cached(url: str) -> Path:
    """Where torch.hub keeps the file of an address."""
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def zeros_like(name: str, **options) -> dict[str, torch.Tensor]:
    """A model's state dict of zeros, which takes no time to draw and no room in a file."""
    with torch.device("meta"):
        state = torchvision.models.get_model(name, weights=None, **options).state_dict()
    return {n: torch.zeros((), dtype=t.dtype).expand(t.shape) for n, t in state.items()}


def build(weights: str | Path, name: str = "small", **options) -> BuiltModel:
    return build_model(name, options.pop("categories", ["person"]), str(weights), **options)


def fill(small: FasterRCNN, path: Path) -> tuple[FasterRCNN, WeightsReport]:
    """A copy of a detector with the weights of a file, far faster than a new one."""
    model = copy.deepcopy(small)
    return model, load_weights(model, "small", str(path), Offer(), ["person"])


def holds(model: FasterRCNN, state: dict[str, torch.Tensor]) -> bool:
    """The detector's backbone is the classifier of that state."""
    mine = model.backbone.body.state_dict()
    return all(torch.equal(mine[n], state[n]) for n in mine if "num_batches" not in n)


# What a file may look like: (its suffix, how to wrap a classifier's state dict)
def _prefixed(prefix):
    return lambda state: {prefix + name: tensor for name, tensor in state.items()}


FILES = {
    "plain": (".pth", dict),
    "safetensors": (".safetensors", dict),
    "under model": (".pt", lambda state: {"model": state, "epoch": 3}),
    "under state_dict": (".ckpt", lambda state: {"state_dict": state}),
    "nested": (".pt", lambda state: {"model": {"state_dict": state}}),
    "of DataParallel": (".pth", _prefixed("module.")),
    "of a wrapper": (".pth", _prefixed("module.model.")),
    "of a backbone": (".pth", _prefixed("backbone.body.")),
    "without its classifier": (
        ".pth",
        lambda state: {n: t for n, t in state.items() if not n.startswith("fc.")},
    ),
    "half precision": (".pth", lambda state: {n: t.half() for n, t in state.items()}),
    "other names": (
        ".pth",
        lambda state: {
            f"block{i}.{n.rpartition('.')[2]}": t for i, (n, t) in enumerate(state.items())
        },
    ),
    "no names at all": (".pth", lambda state: {f"t{i}": t for i, t in enumerate(state.values())}),
}


@pytest.mark.parametrize("case", FILES)
def test_a_classifier_file_fills_the_backbone(case, small, resnet18, tmp_path):
    suffix, wrap = FILES[case]
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(wrap(resnet18), path)
    model, report = fill(small, path)
    state = {n: t.half().float() for n, t in resnet18.items()} if "half" in case else resnet18
    assert holds(model, state)
    assert report.how == ("by position" if "names" in case else "by name")
    assert report.fitted == 75, "layer4 and the classifier stay behind"
    assert all("body" not in name for name in report.new)
    assert f"{path}: 75 of {report.in_file} tensors fit ({report.how}) the backbone" in str(report)
    assert str(report).endswith("26 tensors of the detector start new (fpn, rpn, roi_heads)")


# every way in which torchvision names a trunk
@pytest.mark.parametrize(
    "name",
    [
        "shufflenet_v2_x0_5",
        "squeezenet1_1",
        pytest.param("regnet_y_400mf", marks=pytest.mark.slow),
        pytest.param("mnasnet0_5", marks=pytest.mark.slow),
        pytest.param("mobilenet_v3_small", marks=pytest.mark.slow),
        pytest.param("densenet121", marks=pytest.mark.slow),
        pytest.param("swin_t", marks=pytest.mark.slow),
        pytest.param("efficientnet_b0", marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_classifier_file_fits(name, tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(torchvision.models.get_model(name, weights=None).state_dict(), path)
    built = build(path, name)
    assert built.weights_report.how == "by name"
    body = built.model.backbone.body.state_dict().values()
    assert built.weights_report.fitted == sum(tensor.is_floating_point() for tensor in body)


def test_a_detector_file_fills_everything_but_other_categories(tmp_path):
    path = tmp_path / "detector.pth"
    first = build("none", "small", categories=["person", "car"], seed=1)
    torch.save(first.model.state_dict(), path)
    same = build(path, "small", categories=["person", "dog"])
    state = first.model.state_dict()
    assert all(torch.equal(tensor, state[name]) for name, tensor in same.model.state_dict().items())
    assert same.weights_report.new == ()
    assert "101 of 101 tensors fit (by name) the detector" in str(same.weights_report)

    other = build(path, "small", categories=["person"]).weights_report
    predictor = {
        f"roi_heads.box_predictor.{layer}.{kind}"
        for layer in ("cls_score", "bbox_pred")
        for kind in ("weight", "bias")
    }
    assert set(other.other_shape) == set(other.new) == predictor
    assert "in another shape, so left out: roi_heads.box_predictor" in str(other)


@pytest.mark.skipif(not MOBILENET.is_file(), reason="needs shared/weights/mobilenet_v2_features.pt")
def test_the_shared_mobilenet_fits_by_position():
    built = build(MOBILENET, "mobilenet_v2")
    report = built.weights_report
    assert (report.fitted, report.in_file, report.how) == (260, 260, "by position")
    assert "260 of 260 tensors fit (by position) the backbone" in str(report)
    tensors = torch.load(MOBILENET, weights_only=True)
    last = built.model.backbone.body.state_dict()["18.1.running_var"]
    assert torch.equal(last, tensors["features.18.1.running_var"])


def test_position_never_swaps_a_norms_tensors(small, resnet18, tmp_path):
    """A norm's four tensors share a shape: in another order they must not pass as the same."""
    renamed = {f"x.{i}.{n.rpartition('.')[2]}": t for i, (n, t) in enumerate(resnet18.items())}
    names = list(renamed)
    names[1], names[3] = names[3], names[1]
    path = tmp_path / "swapped.pth"
    torch.save({name: renamed[name] for name in names}, path)
    with pytest.raises(RelayError, match="does not fit the model 'small'"):
        fill(small, path)


class Malicious:
    """A pickle that would write a file when loaded."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


BAD_FILES = {
    "missing": (None, "there is no file .* give auto, coco, imagenet, none"),
    "empty": (lambda path, state: path.write_bytes(b""), "damaged"),
    "text": (lambda path, state: path.write_text("# weights"), "refused"),
    "truncated": (
        lambda path, state: (
            torch.save(state, path),
            path.write_bytes(path.read_bytes()[:100_000]),
        ),
        "damaged",
    ),
    "needs code": (lambda path, state: torch.save({"a": Malicious(path)}, path), "refused"),
    "a whole module": (
        lambda path, state: torch.save(torch.nn.Linear(2, 2), path),
        r"refused.*torch\.save\(model\.state_dict\(\), path\)",
    ),
    "a tensor": (lambda path, state: torch.save(torch.ones(3), path), "no state dict"),
    "no tensors": (lambda path, state: torch.save({"model": {"a": 1}}, path), "no state dict"),
    "fits nothing": (
        lambda path, state: torch.save({"a.weight": torch.ones(3)}, path),
        "does not fit the model 'small' .*fills 0 of the 75.*set MODEL",
    ),
    "a wider relative": (  # three quarters of a resnet18 can be filled from it
        lambda path, state: torch.save(zeros_like("resnet50"), path),
        "does not fit the model 'small' .*fills 59 of the 75",
    ),
    "a deeper relative": (  # all of a resnet18 can be filled from it
        lambda path, state: torch.save(zeros_like("resnet34"), path),
        "does not fit the model 'small' .*has 70 more",
    ),
}


def holding_itself(path: Path, key: str) -> None:
    content: dict = {"a": torch.ones(3)}
    content[key] = content
    torch.save(content, path)


def nested(depth: int) -> dict:
    content: dict = {"a": torch.ones(3)}
    for _ in range(depth):
        content = {"state_dict": content}
    return content


def in_a_cycle() -> dict:
    items: list = []
    items.append(items)
    return {"model": items}


def inflated(path: Path) -> None:
    """A file of torch.save whose numbers, packed, take a thousandth of their room."""
    torch.save({"a": torch.zeros(1_000_000)}, path)
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)


SPECIAL = {
    "sparse": (torch.eye(3).to_sparse(), "sparse"),
    "meta": (torch.ones(3, device="meta"), "on the device 'meta', without its numbers"),
    "complex": (torch.ones(3, dtype=torch.complex64), "of complex numbers"),
}
BAD_FILES |= {
    f"a {name} tensor": (
        lambda path, state, tensor=tensor: torch.save({"conv1.weight": tensor}, path),
        f"the tensor 'conv1.weight' is {message}",
    )
    for name, (tensor, message) in SPECIAL.items()
}
if hasattr(torch, "quantize_per_tensor"):
    BAD_FILES["a quantized tensor"] = (
        lambda path, state: torch.save(
            {"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.quint8)}, path
        ),
        "the tensor 'a' is quantized",
    )
BAD_FILES |= {
    "holds itself": (lambda path, state: holding_itself(path, "model"), "without an end"),
    "holds itself deeper": (
        lambda path, state: holding_itself(path, "model_state_dict"),
        "without an end",
    ),
    "nested deep": (lambda path, state: torch.save(nested(100), path), "without an end"),
    "a list in a cycle": (lambda path, state: torch.save(in_a_cycle(), path), "no state dict"),
    "a cycle beside": (
        lambda path, state: torch.save({**in_a_cycle(), "a": torch.ones(3)}, path),
        "does not fit the model 'small'",
    ),
    "inflated": (lambda path, state: inflated(path), "claims 400.* bytes of tensors in a file of"),
    "not finite": (
        lambda path, state: torch.save(
            {**state, "bn1.weight": torch.full((64,), float("nan"))}, path
        ),
        "'bn1.weight' has numbers that are not finite",
    ),
}


@pytest.mark.parametrize("case", BAD_FILES)
def test_a_bad_file_is_explained(case, small, resnet18, tmp_path):
    write, message = BAD_FILES[case]
    path = tmp_path / "weights.pth"
    if write is not None:
        write(path, resnet18)
        size = path.stat().st_mtime_ns
    with pytest.raises(RelayError, match=message) as caught:
        fill(small, path)
    assert str(path) in str(caught.value)
    assert write is None or path.stat().st_mtime_ns == size, "no code in the file ran"


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x08\0\0\0\0\0\0\0{}",
        (1 << 62).to_bytes(8, "little") + b"{}",
        (2).to_bytes(8, "little") + b"[]",
        (200_000).to_bytes(8, "little") + b"[" * 200_000,
    ],
)
def test_a_damaged_safetensors_file_is_explained(data, small, tmp_path):
    path = tmp_path / "weights.safetensors"
    path.write_bytes(data)
    with pytest.raises(RelayError, match="damaged"):
        fill(small, path)


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("resnet18", "imagenet", r"offline: .*attach the file resnet18-\w+\.pth and give its path"),
        ("mobilenet_v3_large_320_fpn", "coco", "offline: .*attach the file fasterrcnn_mobilenet"),
        ("small", "coco", "no coco weights are published .* resnet50_fpn"),
        ("resnet18", "coco", "no coco weights are published"),
        ("resnet18", "cocoo", "there is no file 'cocoo'; give auto, coco"),
    ],
)
def test_weights_that_cannot_be_had_are_explained(name, weights, message):
    with pytest.raises(RelayError, match=message):
        build(weights, name)


@pytest.mark.parametrize(
    ("name", "weights", "reason"),
    [
        ("small", "auto", "its recipe trains from scratch in minutes"),
        ("resnet18", "auto", "offline: no connection to download.pytorch.org"),
        pytest.param("mobilenet_v3_large_320_fpn", "auto", "offline", marks=pytest.mark.slow),
        ("resnet18", "none", "as asked"),
    ],
)
def test_from_scratch_says_why(name, weights, reason):
    built = build(weights, name)
    assert built.weights_report.source == "none"
    assert reason in str(built.weights_report)
    assert not built.frozen


@pytest.mark.parametrize(
    ("name", "weights"),
    [
        ("resnet18", "auto"),
        pytest.param("resnet18", "imagenet", marks=pytest.mark.slow),
        ("small", "auto"),
        ("small", "imagenet"),
    ],
)
def test_a_cached_file_is_used_offline(name, weights, resnet18):
    torch.save(resnet18, cached(torchvision.models.ResNet18_Weights.DEFAULT.url))
    built = build(weights, name)
    if (name, weights) == ("small", "auto"):
        assert built.weights_report.source == "none"
        return
    assert built.weights_report.source == "imagenet"
    assert "already downloaded" in str(built.weights_report)
    assert holds(built.model, resnet18)
    assert built.frozen


@pytest.mark.parametrize(
    "weights",
    ["coco", *(pytest.param(weights, marks=pytest.mark.slow) for weights in ("auto", "path"))],
)
def test_coco_rows_are_copied_for_the_categories_that_it_knows(weights, coco_state):
    path = cached(COCO_320.url)
    torch.save(coco_state, path)
    categories = ["dog", "unicorn", "Person"]
    built = build(
        path if weights == "path" else weights,
        "mobilenet_v3_large_320_fpn",
        categories=categories,
    )
    report = built.weights_report
    assert (report.copied, report.unknown) == (("dog", "Person"), ("unicorn",))
    assert report.new == ()
    mine = built.model.roi_heads.box_predictor
    name = "roi_heads.box_predictor"
    coco = COCO_320.meta["categories"]
    for label, row in [(0, 0), (1, coco.index("dog")), (3, coco.index("person"))]:
        for kind in ("weight", "bias"):
            theirs = coco_state[f"{name}.cls_score.{kind}"][row]
            assert torch.equal(getattr(mine.cls_score, kind)[label], theirs)
            theirs = coco_state[f"{name}.bbox_pred.{kind}"][4 * row : 4 * row + 4]
            assert torch.equal(getattr(mine.bbox_pred, kind)[4 * label : 4 * label + 4], theirs)
    fresh = build("none", "mobilenet_v3_large_320_fpn", categories=categories).model
    assert torch.equal(
        mine.cls_score.weight[2], fresh.roi_heads.box_predictor.cls_score.weight[2]
    ), "an unknown category starts as from scratch with the same seed"
    assert "it already knows dog, Person" in str(report)
    still = {
        n.split(".")[0]
        for n, p in built.model.backbone.body.named_parameters()
        if not p.requires_grad
    }
    assert still == {"0", "1", "2", "3", "4", "5", "6"}, "as torchvision fine-tunes it"


def test_a_coco_detector_detects_what_torchvisions_does(coco_state):
    """With all of COCO's categories, the whole detector is torchvision's own."""
    torch.save(coco_state, cached(COCO_320.url))
    # In torchvision's list, "N/A" stands for the numbers that COCO never used.
    categories = list(dict.fromkeys(COCO_320.meta["categories"][1:]))
    mine = build("coco", "mobilenet_v3_large_320_fpn", categories=categories).model.eval()
    theirs = detection.fasterrcnn_mobilenet_v3_large_320_fpn(
        weights=None, weights_backbone=None
    ).eval()
    theirs.load_state_dict(coco_state)
    images = torch.rand(1, 3, 64, 64)
    features = mine.backbone(images)
    for a, b in zip(features.values(), theirs.backbone(images).values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)
    pooled = torch.rand(2, 1024)
    mine_scores = mine.roi_heads.box_predictor(pooled)[0]
    their_scores = theirs.roi_heads.box_predictor(pooled)[0]
    for label, category in enumerate(categories, start=1):
        row = COCO_320.meta["categories"].index(category)
        torch.testing.assert_close(mine_scores[:, label], their_scores[:, row])


def test_resnet50s_coco_norms_add_no_epsilon():
    """torchvision trained this one file with an epsilon of 0; ours is folded into the variance."""
    entry = detection.FasterRCNN_ResNet50_FPN_Weights.COCO_V1
    state = zeros_like("fasterrcnn_resnet50_fpn", weights_backbone=None)
    state["backbone.body.bn1.running_var"] = torch.rand(64) + 0.01
    torch.save(state, cached(entry.url))
    norm = build("coco", "resnet50_fpn").model.backbone.body.bn1
    expected = state["backbone.body.bn1.running_var"].rsqrt()
    torch.testing.assert_close((norm.running_var + norm.eps).rsqrt(), expected)


@pytest.mark.parametrize(
    ("version", "hole"),
    [
        ("2.0.1+cu117", "CVE-2025-32434"),
        ("2.5.1", "CVE-2025-32434"),
        ("2.6.0", "CVE-2026-24747"),
        ("2.9.1+cpu", "CVE-2026-24747"),
        ("2.10.0", ""),
        ("2.11.0a0+git1", ""),
        ("3.0.0", ""),
    ],
)
def test_where_torch_may_run_code_of_a_file_only_safetensors_are_taken(
    version, hole, resnet18, small, tmp_path, monkeypatch
):
    monkeypatch.setattr(compat.torch, "__version__", version)
    monkeypatch.setattr(weights_module, "unsafe_pickles", compat.unsafe_pickles)
    assert hole in compat.unsafe_pickles()
    pickled, safe = tmp_path / "theirs.pth", tmp_path / "theirs.safetensors"
    torch.save(resnet18, pickled)
    save_file(resnet18, safe)
    assert holds(fill(small, safe)[0], resnet18)
    if hole:
        with pytest.raises(RelayError, match=rf"{hole}\); convert it to \.safetensors"):
            fill(small, pickled)
    else:
        assert holds(fill(small, pickled)[0], resnet18)


def test_a_published_file_is_known_by_its_hash(resnet18, small, tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "unsafe_pickles", lambda: "a crafted one can run code")
    pickled = tmp_path / "a.pth"
    torch.save(resnet18, pickled)
    digest = hashlib.sha256(pickled.read_bytes()).hexdigest()
    for name, taken in ((f"resnet18-{digest[:8]}.pth", True), ("resnet18-f37072fd.pth", False)):
        path = tmp_path / name
        path.write_bytes(pickled.read_bytes())
        if taken:
            assert holds(fill(small, path)[0], resnet18)
        else:
            with pytest.raises(RelayError, match="a crafted one can run code"):
                fill(small, path)


def test_as_many_names_as_a_crafted_file_may_have_are_matched_in_seconds(small, tmp_path):
    path = tmp_path / "names.safetensors"
    zero = torch.zeros(1)
    save_file({f"p{i}.conv1.weight": zero.clone() for i in range(20_000)}, path)
    start = time.monotonic()
    with pytest.raises(RelayError, match="does not fit the model 'small'"):
        fill(small, path)
    assert time.monotonic() - start < 60


def test_more_entries_than_any_model_has_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(weights_module, "MOST_TENSORS", 3)
    path = tmp_path / "names.pth"
    torch.save({f"p{i}": torch.zeros(1) for i in range(4)}, path)
    with pytest.raises(RelayError, match="has 4 entries, more than any state dict"):
        read_tensors(path)
