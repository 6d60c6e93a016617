"""The detector and its optimizer as a checkpoint has them, and what is different since."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from relaydet.config import TrainConfig
from relaydet.data.order import share_of
from relaydet.data.saved import SavedDataset
from relaydet.errors import RelayError
from relaydet.model import BuiltModel, build_model, recipe_of
from relaydet.runtime.device import Device
from relaydet.speedups import speed_up
from relaydet.training.checkpoint import Checkpoint
from relaydet.training.loop import autocast, build_optimizer, build_scaler
from relaydet.training.micro_batch import (
    MicroBatch,
    choose_micro_batch,
    has_synchronised_norms,
    norm_buffers,
    probe_memory,
)
from relaydet.training.recompute import recompute_backbone
from relaydet.training.team import ALONE, Team


@dataclass(frozen=True)
class Restored:
    """What a session trains."""

    built: BuiltModel
    optimizer: torch.optim.Optimizer
    scaler: Any
    """Of float16's losses; None in other precisions."""
    micro_batch: MicroBatch


def restore(
    checkpoint: Checkpoint | None,
    new: BuiltModel | None,
    config: TrainConfig,
    device: Device,
    saved: SavedDataset,
    say: Callable[[str], None],
    team: Team = ALONE,
) -> Restored:
    """The detector and its optimizer as they were at a checkpoint, or new.

    Args:
        checkpoint: where to go on; None for a new run.
        new: a new detector, where one was built already.
        config: what is trained.
        device: where to.
        saved: the dataset, which must be the one that the checkpoint was trained on.
        say: takes what differs from the session before and reaches the weights.
        team: the ranks that do the same beside this one.

    Raises:
        RelayError: the checkpoint is of another dataset or another model, or SYNC_BATCH_NORM or
            RECOMPUTE cannot be had.
    """
    torch.use_deterministic_algorithms(config.deterministic)
    built = new if new and not checkpoint else build(config, saved, checkpoint)
    if config.sync_batch_norm:
        built = _synchronised(built, device, team, say)
    if config.recompute:
        recompute_backbone(built.model)
    optimizer, scaler = equip(built, device)
    if checkpoint:
        try:
            built.model.load_state_dict(checkpoint.state["model"])
            optimizer.load_state_dict(checkpoint.state["optimizer"])
            if scaler and "scaler" in checkpoint.state:
                scaler.load_state_dict(checkpoint.state["scaler"])
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise RelayError(
                f"{checkpoint.where}: is of another model than MODEL {config.model!r}"
                f" ({str(error).splitlines()[0]}); choose another RUN, or remove that file."
            ) from error
    micro_batch = _micro_batch(checkpoint, config, device, built, optimizer, say, team)
    if checkpoint:
        _tell_changes(checkpoint, micro_batch.size, device, built, say, team)
    return Restored(built, optimizer, scaler, micro_batch)


def equip(built: BuiltModel, device: Device) -> tuple[torch.optim.Optimizer, Any]:
    """Bring a detector to the device, and make what trains it there: optimizer and loss scaler."""
    if device.quick:
        speed_up(built.model)
    built.model.to(device.device)
    if device.channels_last:
        built.model.to(memory_format=torch.channels_last)
    built.model.train()
    return build_optimizer(built.model, recipe_of(built.name)), build_scaler(device)


def _micro_batch(
    checkpoint: Checkpoint | None,
    config: TrainConfig,
    device: Device,
    built: BuiltModel,
    optimizer: torch.optim.Optimizer,
    say: Callable[[str], None],
    team: Team,
) -> MicroBatch:
    manifest = checkpoint.manifest if checkpoint else {}
    cuda = device.device.type == "cuda"
    same = (manifest.get("device"), manifest.get("ranks", 1)) == (device.name, team.ranks)
    before = manifest.get("micro_batch") if cuda and same else None
    most = share_of(config.batch_size, 0, team.ranks).most
    probe = partial(probe_memory, built.model, optimizer, device, most, partial(autocast, device))
    # Ranks whose norms wait for each other would have to probe in step.
    probed = cuda and not has_synchronised_norms(built.model)
    size, why = choose_micro_batch(config.micro_batch, most, before, probe if probed else None)
    sizes = team.gather(size, int)
    if min(sizes) < max(sizes):
        size, why = min(sizes), f"of {sizes} on the ranks, the smallest"
    if why:
        say(f"micro-batch: {size} of {most} images ({why})")
    return MicroBatch(size)


def _synchronised(
    built: BuiltModel, device: Device, team: Team, say: Callable[[str], None]
) -> BuiltModel:
    """With batch norms that see all ranks' images (torch has them for GPUs alone)."""
    if not norm_buffers(built.model):
        say("SYNC_BATCH_NORM: nothing to do, this model's batch norms do not train")
        return built
    if device.device.type != "cuda":
        raise RelayError(
            f"SYNC_BATCH_NORM: torch has it for GPUs alone, and this is {device.name}; set it to"
            " False."
        )
    if team.ranks == 1:
        return built
    convert = torch.nn.SyncBatchNorm.convert_sync_batchnorm
    return replace(built, model=convert(built.model, process_group=team.gradients))


def build(config: TrainConfig, saved: SavedDataset, checkpoint: Checkpoint | None) -> BuiltModel:
    """The detector with its first weights, or one that the checkpoint fits; raises RelayError."""
    categories = [category.name for category in saved.dataset.categories]
    if checkpoint is None:
        return build_model(config.model, categories, config.weights, config.image_size, config.seed)
    if checkpoint.manifest.get("dataset_sha256", saved.sha256) != saved.sha256:
        raise RelayError(
            f"Dataset {config.dataset!r} has changed since run {config.run!r} was started; merge"
            " it again as it was, or start a new RUN."
        )
    frozen = bool(checkpoint.manifest.get("frozen"))
    return build_model(config.model, categories, "none", config.image_size, frozen=frozen)


_UNTOLD = {"ranks": 1, "plain": True}
"""What a checkpoint was made with that does not say."""


def _tell_changes(
    checkpoint: Checkpoint,
    micro_batch: int,
    device: Device,
    built: BuiltModel,
    say: Callable[[str], None],
    team: Team,
) -> None:
    """Name what is free to differ from the session before and yet reaches the weights."""
    before = checkpoint.manifest
    now = {
        "precision": str(device.dtype).removeprefix("torch."),
        "device": device.name,
        "threads": torch.get_num_threads(),
        "ranks": team.ranks,
        "plain": not device.quick,
    }
    for fact, value in now.items():
        was = before.get(fact, _UNTOLD.get(fact, value))
        if was != value and (fact != "threads" or device.device.type == "cpu"):
            say(
                f"{fact}: {was} until now, {value} from here on; the samples stay the same, the"
                " last bits of the weights may not"
            )
    if before.get("micro_batch", micro_batch) != micro_batch and not built.frozen:
        say(
            f"micro-batch: {before.get('micro_batch')} until now, {micro_batch} from here on; this"
            " model's batch norms train on it, so the weights will differ from a run that kept it"
        )
