"""Datasets in the store: STORE/datasets/NAME/{annotations.json, report.json}."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from relaydet.addresses import scheme_of, shown
from relaydet.bars import OpenBar, no_bar
from relaydet.config import check_name
from relaydet.data.dataset import Dataset
from relaydet.data.findings import Finding
from relaydet.data.formats import coco
from relaydet.data.images import Images, open_images
from relaydet.data.known import KNOWN
from relaydet.data.locations import is_remote, same_place
from relaydet.errors import DamagedError, RelayError
from relaydet.json_file import decode_json
from relaydet.parameters import listing
from relaydet.storage.cache import cache_root, disk_trouble, locked
from relaydet.storage.store import Store
from relaydet.storage.troubles import on_drive

AGREED = "addresses.json"
"""In the folder of copies from afar: the addresses that users of this machine have named."""


@dataclass(frozen=True)
class SavedDataset:
    """A merged dataset as a job uses it."""

    name: str
    dataset: Dataset
    locations: dict[str, str]
    """Where each source's images were when it was merged, as `open_images` takes it."""
    sha256: str
    """Of annotations.json."""
    annotations: bytes
    """annotations.json itself."""
    key_needed: frozenset[str] = frozenset()
    """Sources whose address had a password or a key in it, which is not stored."""
    in_store: frozenset[str] = frozenset()
    """Sources whose images lie in the store, or in the bucket that it is in."""


def annotations_name(name: str) -> str:
    """Name of a dataset's annotation file in the store."""
    return f"datasets/{name}/annotations.json"


def save_dataset(
    store: Store, name: str, dataset: Dataset, summary: dict[str, Any], findings: list[Finding]
) -> None:
    """Write a dataset and the report about it; the annotations come last and make it complete."""
    report = {**summary, "findings": [asdict(finding) for finding in findings]}
    store.write(
        f"datasets/{name}/report.json", msgspec.json.format(msgspec.json.encode(report), indent=1)
    )
    store.write(annotations_name(name), coco.iter_encoded(dataset))


def load_dataset(store: Store, name: str) -> SavedDataset:
    """Read a dataset that a merge wrote.

    Raises:
        RelayError: there is none of that name, or it was not written by a merge.
    """
    check_name("DATASET", name)
    if not store.exists(annotations_name(name)):
        others = [folder.rpartition("/")[2] for folder in store.folders("datasets")]
        raise RelayError(
            f"{store.describe(annotations_name(name))}: there is no dataset {name!r} in this"
            f" store, {listing(name, others)}; make it with 1_merge_data (or relaydet merge), or"
            " set DATASET, STORE or, in training, RESUME_FROM."
        )
    data = store.read(annotations_name(name))
    if not data.rstrip().endswith(b"}") and on_drive(store.place("")):
        raise RelayError(
            f"{store.describe(annotations_name(name))}: only {len(data)} bytes of it are on Drive,"
            " which had not uploaded all of it when the machine that wrote it went away; run"
            " 1_merge_data again, and leave that runtime connected for a few minutes."
        )
    dataset, findings = coco.decode(data, name, store.describe(annotations_name(name)))
    sources: Any = dataset.info.get("sources")
    if findings or not _names_images(sources):
        problem = findings[0].message if findings else "info.sources is missing or incomplete"
        raise RelayError(
            f"{store.describe(annotations_name(name))}: not a file that a merge wrote ({problem});"
            " merge it again."
        )
    if not all("/" in image.file_name and image.source in sources for image in dataset.images):
        raise RelayError(
            f"{store.describe(annotations_name(name))}: not a file that a merge wrote (an image has"
            " no source of info.sources, or no folder named after it); merge it again."
        )
    where = store.describe(annotations_name(name))
    locations = {
        source: _located(store, facts["images"], where) for source, facts in sources.items()
    }
    return SavedDataset(
        name,
        dataset,
        locations,
        hashlib.sha256(data).hexdigest(),
        data,
        frozenset(source for source, facts in sources.items() if facts.get("key_needed")),
        frozenset(
            source
            for source, location in locations.items()
            if is_remote(location) and same_place(location, store.place(""))
        ),
    )


def open_sources(
    saved: SavedDataset,
    moved: Mapping[str, str] | None = None,
    sources: Sequence[str] = (),
    bar: OpenBar = no_bar,
) -> dict[str, Images]:
    """Open the images of a dataset's sources, and bring those here that are far away.

    A source that the dataset has no image of is left out.

    Args:
        saved: the dataset.
        moved: by source, where its images are if not where they were when it was merged.
        sources: which sources; empty opens all.
        bar: shows how far a download is.

    Raises:
        RelayError: images are not where they should be, or at an address that only the dataset's
            file names: nothing is asked for there before the user has named it as well.
    """
    names: dict[str, list[str]] = {}
    for image in saved.dataset.images:
        source = str(image.source)
        if not sources or source in sources:
            names.setdefault(source, []).append(image.file_name.split("/", 1)[1])
    opened = {}
    for source, files in names.items():
        location = (moved or {}).get(source, "")
        if location:
            agree(location)
        else:
            location = saved.locations[source]
            _refuse_unnamed(saved, source, location)
        try:
            opened[source] = open_images(location, bar)
        except RelayError as error:
            raise RelayError(
                f"Dataset {saved.name!r}, source {source!r}: {error} If its images are elsewhere"
                f' on this machine, set IMAGES to "{source}=that place".'
            ) from error
        opened[source].fetch(files, bar)
    return opened


def agree(location: str) -> None:
    """Remember on this machine that the user named an address to take images from.

    It is kept beside the copies from afar, never in the store: what a store holds may be anybody's.

    Raises:
        RelayError: the folder of copies cannot be written.
    """
    if not is_remote(location) or shown(location) in _agreed():
        return
    path = cache_root() / AGREED
    with disk_trouble(path.parent), locked(path):
        half = path.with_name(f"{AGREED}.part")
        half.write_bytes(msgspec.json.encode(sorted({*_agreed(), shown(location)})))
        half.replace(path)


def _agreed() -> set[str]:
    """Addresses without their keys; a damaged file counts as none, and each is asked for again."""
    path = cache_root() / AGREED
    try:
        return set(decode_json(path.read_bytes(), str(path), list[str]))
    except (OSError, DamagedError):
        return set()


def _refuse_unnamed(saved: SavedDataset, source: str, location: str) -> None:
    """Refuse to ask for images where only the dataset's file says that they are."""
    if not is_remote(location):
        return
    where = f"Dataset {saved.name!r}: the images of source {source!r} are at {shown(location)}"
    if source in saved.key_needed:
        raise RelayError(
            f"{where}, whose address had a password or a key, which is not stored; set IMAGES to"
            f' "{source}=that address with its key", or to where they are on this machine.'
        )
    known = {entry.images for entry in KNOWN.values()}
    if source in saved.in_store or location in known or shown(location) in _agreed():
        return
    raise RelayError(
        f"{where}, an address that only the dataset's file names; nothing was asked for there. If"
        f' you trust it, set IMAGES to "{source}={shown(location)}", once on each machine.'
    )


def _located(store: Store, location: str, where: str) -> str:
    if scheme_of(location) or Path(location).is_absolute():
        return location
    if ".." in re.split(r"[/\\]", location):
        raise RelayError(
            f"{where}: not a file that a merge wrote (images in {location!r}, which leads out of"
            " the store); merge it again."
        )
    return store.place(location)


def _names_images(sources: Any) -> bool:
    return isinstance(sources, dict) and all(
        isinstance(facts, dict) and isinstance(facts.get("images"), str)
        for facts in sources.values()
    )


def portable(store: Store, location: str) -> str:
    """A location as info.sources records it: relative where it lies inside the store.

    The store may be mounted elsewhere the next time; what lies inside it moves along.
    """
    top = store.place("")
    if is_remote(top) and location.startswith(top):
        return location[len(top) :]
    if scheme_of(location):
        return location  # the merge leaves out what may be secret in it
    # Links followed, so that another way to the same place is known for one.
    path, root = (Path(os.path.realpath(place)) for place in (location, top))
    inside = path.is_relative_to(root)
    return path.relative_to(root).as_posix() if inside else str(Path(location).absolute())
