"""What there is already of a run when a session comes to it: stores, dataset, images, settings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, fields, replace
from typing import Any

import msgspec

from relaydet.bars import OpenBar
from relaydet.config import TrainConfig, parse_images
from relaydet.data.loader import Samples, training_samples
from relaydet.data.saved import SavedDataset, annotations_name, load_dataset, open_sources
from relaydet.errors import DamagedError, ForeignFileError, RelayError, StoreError
from relaydet.json_file import UNDECODABLE
from relaydet.model import recipe_of
from relaydet.parameters import listing
from relaydet.runtime.auto_store import find_store
from relaydet.runtime.detect import Runtime
from relaydet.storage.store import Store
from relaydet.training.checkpoint import folder_of, sealed_manifests
from relaydet.training.resume import earlier_outputs
from relaydet.training.run_files import RunFiles, refuse_newer
from relaydet.training.settings import check_started, differences


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
    """What a run was started with: by its config.json, and by the manifests of its checkpoints.

    The manifests are sealed and config.json is not, so where all of them say something else, and
    name this run, they are believed. A checkpoint that alone differs is another run's: `find_start`
    passes over it.

    Raises:
        ForeignFileError: what there is is of another run, or of a newer version.
        RelayError: config.json and the checkpoints contradict each other.
    """
    files = RunFiles(store, run)
    manifests = [m for m in sealed_manifests(store, run) if isinstance(m.get("config"), dict)]
    named = any(m["config"].get("run") == run for m in manifests)
    found = legible(lambda: _sound(files, named), None, say)
    where = store.describe(folder_of(run))
    own = [m for m in manifests if m["config"].get("run", run) == run]
    sealed = [config for m in own if (config := _sealed(m, run, where))]
    if found is not None:
        return _reconciled(found, sealed, say)
    if sealed:
        say(f"run {run!r}: what it was started with is taken from its newest checkpoint")
        return sealed[0]
    if manifests and not own:
        other = str(manifests[0]["config"]["run"])[:60]
        raise ForeignFileError(
            f"{where}: holds checkpoints of run {other!r}, and run {run!r} has no config.json; give"
            " RUN that name, or start a new RUN."
        )
    return None


def _sound(files: RunFiles, is_sealed: bool) -> TrainConfig | None:
    """config.json, validated as what a user gives is."""
    config = files.config(is_sealed)
    if config is not None:
        check_started(config, f"{files.where}/config.json")
    return config


def _sealed(manifest: dict[str, Any], run: str, where: str) -> TrainConfig | None:
    """The configuration in a manifest; None where this version cannot train with it."""
    given = manifest["config"]
    known = [field.name for field in fields(TrainConfig)]
    refuse_newer(where, manifest.get("relaydet"), given, known)
    try:
        config = msgspec.convert({**given, "run": run}, TrainConfig, strict=False)
        check_started(config, where)
    except (*UNDECODABLE, DamagedError):
        return None
    return config


def _reconciled(
    found: TrainConfig, sealed: Sequence[TrainConfig], say: Callable[[str], None]
) -> TrainConfig:
    """What config.json says, or what the checkpoints of the run say where all contradict it."""
    run = found.run
    agreeing = [config for config in sealed if not differences(asdict(config), found)]
    if sealed and not agreeing:
        changed = ", ".join(differences(asdict(found), sealed[0]))
        if any(differences(asdict(config), sealed[0]) for config in sealed):
            raise RelayError(
                f"Run {run!r}: config.json says {changed} of the newest checkpoint, and the others"
                " say something else again; remove those of another run, or start a new RUN."
            )
        say(
            f"run {run!r}: config.json says {changed}, which its checkpoints were made with; they"
            " are sealed, and what they say is taken"
        )
        return sealed[0]
    trained = int(agreeing[0].epochs or 0) if agreeing else 0
    planned = int(found.epochs or 0)
    if trained > planned:
        say(
            f"run {run!r}: config.json says EPOCHS {planned} instead of {trained}, which its newest"
            " checkpoint was made with; that is sealed, and taken"
        )
        return replace(found, epochs=trained)
    if agreeing and planned > trained:
        say(
            f"run {run!r}: EPOCHS {planned} by config.json, {trained} when its newest checkpoint"
            " was made: it was made longer since"
        )
    return found


def legible(read: Callable[[], Any], otherwise: Any, say: Callable[[str], None]) -> Any:
    """What a file of the run says; a damaged one counts as absent, and is named."""
    try:
        return read()
    except (StoreError, ForeignFileError):
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
