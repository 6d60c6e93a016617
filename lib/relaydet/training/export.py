"""The trained weights as a file for others: model.safetensors and model.json."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from typing import Any

import msgspec
import safetensors.torch
from safetensors import SafetensorError
from torchvision.models.detection import FasterRCNN

from relaydet.config import TrainConfig, public
from relaydet.errors import DamagedError, RelayError
from relaydet.json_file import decode_json
from relaydet.model import BuiltModel, build_model
from relaydet.parameters import listing
from relaydet.storage.store import Store
from relaydet.training.checkpoint import folder_of
from relaydet.training.run_files import Best, RunFiles, as_json


class _Facts(msgspec.Struct):
    """What is used of model.json, which an older version wrote with less in it."""

    model: str = ""
    categories: list[str] = []
    image_size: int = 0
    frozen: bool = False
    step: int = 0
    sha256: str = ""
    size: int | None = None
    config: dict[str, Any] = {}
    ap: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class ExportedModel:
    """A trained detector as it is evaluated."""

    model: FasterRCNN
    facts: dict[str, Any]
    """model.json: {model, categories, image_size, frozen, step, sha256, config, ap}."""


def export_model(store: Store, config: TrainConfig, built: BuiltModel, step: int) -> None:
    """Write the weights, then model.json, which names their SHA-256."""
    state = built.model.state_dict()
    tensors = {name: tensor.contiguous().cpu() for name, tensor in state.items()}
    data = safetensors.torch.save(tensors)
    facts = {
        "model": config.model,
        "categories": list(built.categories),
        "image_size": config.image_size,
        "frozen": built.frozen,
        "step": step,
        "sha256": _sha256(data),
        "size": len(data),
        "config": asdict(public(config)),
        "ap": {},
    }
    store.write(_weights_name(config.run), data)
    store.write(facts_name(config.run), as_json(facts))


def load_model(store: Store, run: str) -> ExportedModel:
    """Build a run's detector with its trained weights.

    Raises:
        RelayError: the run has no exported model, or the weights are not those that model.json
            names.
    """
    if not store.exists(facts_name(run)):
        folders = [folder.rpartition("/")[2] for folder in store.folders("runs")]
        others = [other for other in folders if other != run and store.exists(facts_name(other))]
        raise RelayError(
            f"{store.describe(facts_name(run))}: run {run!r} has no exported model (of those that"
            f" have one, {listing(run, others)}); train it first (2_train or relaydet train), or"
            " check RUNS and STORE."
        )
    try:
        facts = _facts_of(store, run)
        data = store.read(_weights_name(run))
        if _sha256(data) != facts["sha256"]:
            raise RelayError(
                f"{store.describe(_weights_name(run))}: the weights do not match model.json; train"
                " the run once more to export them again."
            )
        built = build_model(
            facts["model"],
            facts["categories"],
            weights="none",
            image_size=facts["image_size"],
            frozen=facts["frozen"],
        )
        built.model.load_state_dict(safetensors.torch.load(data))
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise RelayError(
            f"{store.describe(facts_name(run))}: not a model that relaydet exported ({error!r})."
        ) from error
    return ExportedModel(built.model, facts)


def is_exported(store: Store, run: str, step: int, read: bool = True) -> bool:
    """Whether the store has a run's weights, whole; the end of a session may not have got there.

    Args:
        store: where the run is.
        run: its name.
        step: that the weights must be of, if model.json tells theirs.
        read: read the weights and compare their SHA-256; else their size is compared alone, which
            model.json of an older version does not tell: there, any weights will do.
    """
    size = store.size(_weights_name(run))
    if not size or not store.exists(facts_name(run)):
        return False
    try:
        facts = _facts_of(store, run)
        if facts.get("size", size) != size or facts.get("step", step) != step:
            return False
        return not read or _sha256(store.read(_weights_name(run))) == facts["sha256"]
    except (DamagedError, KeyError):
        return False


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def record_ap(store: Store, run: str, dataset: str, metrics: dict[str, float]) -> None:
    """Note a run's metrics on a dataset in its model.json, and which checkpoint is the best.

    The best is that with the highest AP on the dataset that was evaluated first; what it reaches on
    other datasets says nothing beside that. It stays in the store as long as the run does.
    """
    facts = _facts_of(store, run)
    facts["ap"] = {**facts.get("ap", {}), dataset: metrics}
    store.write(facts_name(run), as_json(facts))
    files, step = RunFiles(store, run), int(facts["step"])
    best = files.best()
    better = best is None or (best.dataset == dataset and metrics["AP"] > best.AP)
    if better and store.exists(f"{folder_of(run)}/step-{step:08d}.json"):
        files.write_best(Best(step, dataset, metrics["AP"]))


def _facts_of(store: Store, run: str) -> dict[str, Any]:
    """What model.json says; raises DamagedError where it is not whole."""
    name = facts_name(run)
    data, where = store.read(name), store.describe(name)
    remedy = "train the run once more to export it again"
    decode_json(data, where, _Facts, remedy=remedy)  # its types; what else is in it stays
    facts: dict[str, Any] = decode_json(data, where, dict[str, Any], remedy=remedy)
    return facts


def _weights_name(run: str) -> str:
    return f"runs/{run}/model.safetensors"


def facts_name(run: str) -> str:
    """The name of a run's model.json in its store."""
    return f"runs/{run}/model.json"
