"""What can be evaluated: a run of a store, a file of results, torchvision's detectors."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN

from relaydet.config import check_name
from relaydet.download import obtain
from relaydet.errors import RelayError
from relaydet.json_file import UNDECODABLE
from relaydet.model import BUILDERS
from relaydet.places import expand_home
from relaydet.storage.store import Store
from relaydet.training.export import load_model
from relaydet.weights import PREDICTOR, read_tensors, refuse_not_finite

FROM_TORCHVISION = "torchvision/"
_RESULTS = ".json"


@dataclass(frozen=True, eq=False)
class Detector:
    """Something that says where objects are: a model, or what one has said already."""

    name: str
    """What it is called in tables; of a run, the run's name."""
    home: str
    """The folder in a store that its evaluations are kept in; empty where they are not."""
    sha256: str
    """Of its weights, or of its results."""
    model: FasterRCNN | None = None
    categories: tuple[str, ...] = ()
    """Names of the model's labels 1, 2, ...; empty takes the dataset's, in the order of their
    ids."""
    results: bytes = b""
    """A COCO results file, with the dataset's ids."""
    step: int | None = None
    """Optimizer steps that a run was trained for."""
    of_run: bool = False
    config: Mapping[str, Any] = field(default_factory=dict)
    """What a run was trained with, as model.json has it; empty of others."""


def is_run(given: str) -> bool:
    """Whether an entry of RUNS names a run, and no detector from elsewhere."""
    return not given.startswith(FROM_TORCHVISION) and not given.endswith(_RESULTS)


def open_detector(given: str, store: Store) -> Detector:
    """The detector that an entry of RUNS means.

    Args:
        given: a run, the path of a COCO results file (.json), torchvision/BUILDER, or
            torchvision/BUILDER=FILE.
        store: where the run is.

    Raises:
        RelayError: there is no such run, file or builder, or the weights do not fit.
    """
    if given.startswith(FROM_TORCHVISION):
        name, _, file = given.removeprefix(FROM_TORCHVISION).partition("=")
        return _of_torchvision(name.removeprefix("fasterrcnn_"), file)
    if given.endswith(_RESULTS):
        return _of_results(Path(expand_home(given, "RUNS")))
    check_name("RUNS", given)
    exported = load_model(store, given)
    return Detector(
        name=given,
        home=f"runs/{given}",
        sha256=exported.facts["sha256"],
        model=exported.model,
        categories=tuple(exported.facts["categories"]),
        step=exported.facts["step"],
        of_run=True,
        config=exported.facts.get("config") or {},
    )


def made_on(results: str) -> str:
    """SHA-256 of the dataset that results are of, as metrics.json beside them says; or nothing."""
    beside = Path(results).with_name("metrics.json")
    if not beside.is_file():
        return ""
    try:
        facts = msgspec.json.decode(beside.read_bytes())
    except (*UNDECODABLE, OSError):
        return ""  # of another program
    sha256 = facts.get("dataset_sha256") if isinstance(facts, dict) else None
    return sha256 if isinstance(sha256, str) else ""


def _of_results(path: Path) -> Detector:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RelayError(f"RUNS: {path} cannot be read ({error.strerror}).") from error
    return Detector(path.stem, "", hashlib.sha256(data).hexdigest(), results=data)


def _of_torchvision(name: str, file: str) -> Detector:
    builder = BUILDERS.get(name)
    published = builder.offer.coco if builder else None
    if builder is None or published is None:
        raise RelayError(
            f"RUNS: torchvision has no detector {name!r} here; there are {', '.join(BUILDERS)}."
        )
    path, reason = (Path(expand_home(file, "RUNS")), "") if file else obtain(published)
    if path is None:
        raise RelayError(
            f"RUNS {FROM_TORCHVISION}{name}: its weights are not to be had ({reason}); connect to"
            f" the internet, or give a file: {FROM_TORCHVISION}{name}=FILE."
        )
    tensors = read_tensors(path)
    classes = _classes(tensors)
    if not classes:
        raise RelayError(f"RUNS: {path} is no Faster R-CNN: it has no box predictor.")
    model = builder.build(weights=None, weights_backbone=None, num_classes=classes)
    if published.epsilon_free and path.name == published.url.rpartition("/")[2]:
        _without_epsilon(model)
    try:
        unfit = model.load_state_dict(tensors, strict=False)
    except RuntimeError as error:
        raise RelayError(f"RUNS: {path} does not fit {name} ({error}).") from error
    missing = [key for key in unfit.missing_keys if not key.endswith("num_batches_tracked")]
    if missing or unfit.unexpected_keys:
        what = [*missing, *unfit.unexpected_keys][0]
        raise RelayError(f"RUNS: {path} is not of {name}: {what} is on one side alone.")
    refuse_not_finite(path, tensors)
    categories = published.categories[1:] if classes == len(published.categories) else ()
    called = f"{name}-{path.stem}" if file else name
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return Detector(called, f"detectors/{called}", digest, model, categories)


def _classes(tensors: Mapping[str, Tensor]) -> int:
    """Rows of a file's box predictor, the background's among them; 0 where it has none."""
    weight = tensors.get(f"{PREDICTOR}cls_score.weight")
    # A tensor that repeats one number may claim any size.
    if weight is None or weight.ndim != 2 or not weight.is_contiguous():
        return 0
    return weight.shape[0]


def _without_epsilon(model: nn.Module) -> None:
    """These were trained with batch norms that add nothing to the variance."""
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.eps = 0.0
