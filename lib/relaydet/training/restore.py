"""The detector and its optimizer as a checkpoint has them, and what is different since."""

from __future__ import annotations

from collections.abc import Callable

import torch

from relaydet.config import TrainConfig
from relaydet.data.saved import SavedDataset
from relaydet.errors import RelayError
from relaydet.model import BuiltModel, build_model, recipe_of
from relaydet.runtime.device import Device
from relaydet.training.checkpoint import Checkpoint
from relaydet.training.loop import build_optimizer


def restore(
    checkpoint: Checkpoint | None,
    new: BuiltModel | None,
    config: TrainConfig,
    device: Device,
    saved: SavedDataset,
    say: Callable[[str], None],
) -> tuple[BuiltModel, torch.optim.Optimizer]:
    """The detector and its optimizer as they were at a checkpoint, or new.

    Args:
        checkpoint: where to go on; None for a new run.
        new: a new detector, where one was built already.
        config: what is trained.
        device: where to.
        saved: the dataset, which must be the one that the checkpoint was trained on.
        say: takes what differs from the session before and reaches the weights.

    Raises:
        RelayError: the checkpoint is of another dataset or another model.
    """
    torch.use_deterministic_algorithms(config.deterministic)
    built = new if new and not checkpoint else build(config, saved, checkpoint)
    built.model.to(device.device)
    built.model.to(memory_format=torch.channels_last)
    built.model.train()
    optimizer = build_optimizer(built.model, recipe_of(config.model))
    if checkpoint:
        try:
            built.model.load_state_dict(checkpoint.state["model"])
            optimizer.load_state_dict(checkpoint.state["optimizer"])
        except (KeyError, TypeError, RuntimeError, ValueError) as error:
            raise RelayError(
                f"{checkpoint.where}: is of another model than MODEL {config.model!r}"
                f" ({str(error).splitlines()[0]}); choose another RUN, or remove that file."
            ) from error
        _tell_changes(checkpoint, config, device, built, say)
    return built, optimizer


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


def _tell_changes(
    checkpoint: Checkpoint,
    config: TrainConfig,
    device: Device,
    built: BuiltModel,
    say: Callable[[str], None],
) -> None:
    """Name what is free to differ from the session before and yet reaches the weights."""
    before = checkpoint.manifest
    now = {
        "precision": str(device.dtype).removeprefix("torch."),
        "device": device.name,
        "threads": torch.get_num_threads(),
    }
    for fact, value in now.items():
        was = before.get(fact, value)
        if was != value and (fact != "threads" or device.device.type == "cpu"):
            say(
                f"{fact}: {was} until now, {value} from here on; the samples stay the same, the"
                " last bits of the weights may not"
            )
    micro_batch = config.micro_batch or config.batch_size
    if before.get("micro_batch", micro_batch) != micro_batch and not built.frozen:
        say(
            f"micro-batch: {before.get('micro_batch')} until now, {micro_batch} from here on; this"
            " model's batch norms train on it, so the weights will differ from a run that kept it"
        )
