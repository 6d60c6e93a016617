"""What the ranks of a team must have in common, and what the first one gives the others."""

from __future__ import annotations

import io
import platform
from dataclasses import dataclass, fields, replace
from typing import Any

import msgspec
import torch

import relaydet
from relaydet.config import BenchConfig, TrainConfig
from relaydet.data.saved import SavedDataset
from relaydet.errors import RelayError
from relaydet.model import BuiltModel, build_model
from relaydet.runtime.detect import Runtime
from relaydet.runtime.device import Device, choose_device, choose_rank_device, plainly
from relaydet.training.checkpoint import Checkpoint
from relaydet.training.team import Team

_OWN_FIELDS = ("store", "images", "workers", "device", "max_minutes")
"""What each rank was told itself: machines are not alike."""


def device_of(team: Team, asked: TrainConfig | BenchConfig, runtime: Runtime) -> Device:
    """The device of this rank; gradients then go the way that it takes.

    Args:
        team: the ranks.
        asked: its device, precision and plain count.
        runtime: where this is.

    Raises:
        RelayError: it cannot be used, or there are more ranks here than GPUs.
    """
    precision = "float32" if asked.plain and asked.precision == "auto" else asked.precision
    if team.ranks == 1:
        device = choose_device(asked.device, precision, runtime.name)
    else:
        device = choose_rank_device(asked.device, precision, runtime.name, team.local_rank)
        if device.device.type == "cuda":
            torch.cuda.set_device(device.device)
            team.use_gpus()
    return plainly(device) if asked.plain else device


@dataclass(frozen=True)
class Plan:
    """What rank 0 has found in the store and decided."""

    config: TrainConfig
    """With everything decided."""
    checkpoint: Checkpoint | None
    """What to go on from; None for a new run."""
    weights: dict[str, Any] | None
    """State dict of the new detector; None where there is a checkpoint."""
    frozen: bool
    """Whether that one's batch norms and first stages do not train."""


def plan_of(config: TrainConfig, checkpoint: Checkpoint | None, new: BuiltModel | None) -> Plan:
    """What the others need, of a run that starts from a checkpoint or with a new detector."""
    if checkpoint is None and new is not None:
        return Plan(config, None, new.model.state_dict(), new.frozen)
    return Plan(config, checkpoint, None, False)


class _Head(msgspec.Struct):
    """What of a plan is not tensors."""

    config: TrainConfig
    frozen: bool
    step: int | None
    """Of the checkpoint; None where there are new weights."""
    manifest: dict[str, Any]
    where: str


def share_plan(team: Team, plan: Plan | None) -> Plan | None:
    """Return rank 0's plan on every rank, None where there is nothing to train.

    A line of JSON, and the tensors as a checkpoint has them: no more than values is read from it.

    Args:
        team: the ranks.
        plan: rank 0's; the others give None.

    Raises:
        RankLostError: as `Team.share_first` does.
        RelayError: rank 0 has another version.
    """
    if team.ranks == 1:
        return plan
    told = team.share_bytes(_packed(plan) if team.leads and plan is not None else b"")
    if team.leads or not told:
        return plan
    head, _, tensors = bytes(told).partition(b"\n")
    try:
        read = msgspec.json.decode(head, type=_Head)
        state = torch.load(io.BytesIO(tensors), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever comes of something else than tensors
        raise RelayError(
            f"Rank 0 told a plan that is not understood here ({type(error).__name__}: {error});"
            " install the same versions of relaydet and torch on all machines."
        ) from error
    if read.step is None:
        return Plan(read.config, None, state, read.frozen)
    return Plan(read.config, Checkpoint(read.step, state, read.manifest, read.where), None, False)


def _packed(plan: Plan) -> bytes:
    checkpoint = plan.checkpoint
    head = _Head(
        config=plan.config,
        frozen=plan.frozen,
        step=checkpoint.step if checkpoint else None,
        manifest=checkpoint.manifest if checkpoint else {},
        where=checkpoint.where if checkpoint else "",
    )
    tensors = io.BytesIO()
    torch.save(checkpoint.state if checkpoint else plan.weights, tensors)
    return b"\n".join((msgspec.json.encode(head), tensors.getbuffer()))


def own_config(plan: Plan, asked: TrainConfig) -> TrainConfig:
    """The run's configuration with what this machine was told for itself."""
    return replace(plan.config, **{name: getattr(asked, name) for name in _OWN_FIELDS})


def same_detector(plan: Plan, saved: SavedDataset) -> BuiltModel | None:
    """Rank 0's new detector; None where the run goes on from a checkpoint."""
    if plan.weights is None:
        return None
    config, categories = plan.config, [category.name for category in saved.dataset.categories]
    built = build_model(config.model, categories, "none", config.image_size, frozen=plan.frozen)
    built.model.load_state_dict(plan.weights)
    return built


@dataclass(frozen=True)
class Facts:
    """What must be the same on all ranks."""

    relaydet: str
    dataset: str
    images: int
    precision: str
    plain: bool
    device: str


def agree(team: Team, saved: SavedDataset, images: int, device: Device) -> None:
    """Make sure that all ranks train the same thing.

    Args:
        team: the ranks.
        saved: the dataset as this rank sees it.
        images: how many of its images are trained on.
        device: where this rank computes.

    Raises:
        RelayError: a rank has another version, dataset, precision or kind of device.
    """
    precision = str(device.dtype).removeprefix("torch.")
    mine = Facts(
        relaydet.__version__, saved.sha256, images, precision, not device.quick, device.device.type
    )
    told = team.gather((platform.node(), mine), tuple[str, Facts])
    (_, first), *others = told
    for rank, (host, facts) in enumerate(others, start=1):
        for name in (field.name for field in fields(Facts)):
            ours, theirs = getattr(first, name), getattr(facts, name)
            if ours != theirs:
                raise RelayError(
                    f"Rank {rank} on {host} differs in {_SAID[name]}: {theirs} instead of {ours};"
                    f" {_REMEDIES[name]}."
                )


_SAID = {
    "relaydet": "the version of relaydet",
    "dataset": "the dataset (SHA-256)",
    "images": "the number of images",
    "precision": "the precision",
    "plain": "PLAIN",
    "device": "the kind of device",
}
_REMEDIES = {
    "relaydet": "install the same on all machines",
    "dataset": "give all machines one STORE, or the same merged dataset",
    "images": "give all the same INCLUDE",
    "plain": "give all the same PLAIN",
    "precision": "set PRECISION to one that all have, such as float32",
    "device": "start ranks on machines that are alike",
}
