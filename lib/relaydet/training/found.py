"""What there is already of a run when a session comes to it: stores, dataset, images, settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from relaydet.bars import OpenBar
from relaydet.config import TrainConfig, parse_images
from relaydet.data.loader import Samples, training_samples
from relaydet.data.saved import SavedDataset, annotations_name, load_dataset, open_sources
from relaydet.errors import RelayError, StoreError
from relaydet.model import recipe_of
from relaydet.parameters import listing
from relaydet.runtime.auto_store import find_store
from relaydet.runtime.detect import Runtime
from relaydet.storage.store import Store
from relaydet.training.checkpoint import newest_manifest
from relaydet.training.resume import earlier_outputs
from relaydet.training.run_files import RunFiles


def places_of(config: TrainConfig, runtime: Runtime, say: Callable[[str], None]) -> list[Store]:
    """The store, and those in which the run was trained before."""
    return [
        find_store(config.store, say),
        *earlier_outputs(config.run, config.resume_from, runtime),
    ]


def dataset_of(places: Sequence[Store], config: TrainConfig) -> SavedDataset:
    """The dataset, from the store or where the run was trained before."""
    having = [place for place in places if place.exists(annotations_name(config.dataset))]
    return load_dataset((having or places)[0], config.dataset)


def started_config(store: Store, run: str, say: Callable[[str], None]) -> TrainConfig | None:
    """What a run was started with: by its config.json, else by its newest checkpoint."""
    found = legible(RunFiles(store, run).config, None, say)
    manifest = None if found else newest_manifest(store, run)
    if not manifest or "config" not in manifest:
        return found
    say(f"run {run!r}: what it was started with is taken from its newest checkpoint")
    try:
        return msgspec.convert(manifest["config"], TrainConfig, strict=False)
    except msgspec.ValidationError:
        return found  # of a version with other fields; `settle` then decides as for a new run


def legible(read: Callable[[], Any], otherwise: Any, say: Callable[[str], None]) -> Any:
    """What a file of the run says; a damaged one counts as absent, and is named."""
    try:
        return read()
    except StoreError:
        raise
    except RelayError as error:
        say(f"{str(error).partition(';')[0]}; it counts as absent")
        return otherwise


def samples_of(saved: SavedDataset, config: TrainConfig, bar: OpenBar) -> Samples:
    """The images to train on, and what has to be fetched for them.

    Raises:
        RelayError: INCLUDE names a source that there is not, or no image is left.
    """
    unknown = sorted(set(config.include) - set(saved.locations))
    if unknown:
        raise RelayError(
            f"INCLUDE: dataset {saved.name!r} has no source {unknown[0]!r};"
            f" {listing(unknown[0], sorted(saved.locations))}."
        )
    folders = open_sources(saved, parse_images(config.images, saved.locations), config.include, bar)
    sides = recipe_of(config.model).sides(config.image_size)
    samples = training_samples(saved.dataset, folders, config.include, sides)
    if not len(samples):
        raise RelayError(f"Dataset {saved.name!r} has no image to train on; check INCLUDE.")
    return samples
