"""Datasets in the store: STORE/datasets/NAME/{annotations.json, report.json}."""

from __future__ import annotations

import hashlib
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import msgspec

from relaydet.data.dataset import Dataset
from relaydet.data.findings import Finding
from relaydet.data.formats import coco
from relaydet.data.images import Images, open_images
from relaydet.errors import RelayError
from relaydet.storage.local import LocalStore
from relaydet.storage.store import Store


@dataclass(frozen=True)
class SavedDataset:
    """A merged dataset as a job uses it."""

    name: str
    dataset: Dataset
    folders: dict[str, Images]
    """Where each source's images are."""
    sha256: str
    """Of annotations.json."""
    annotations: bytes
    """annotations.json itself."""


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
    store.write(annotations_name(name), coco.encode(dataset))


def load_dataset(store: LocalStore, name: str) -> SavedDataset:
    """Read a dataset that a merge wrote.

    Raises:
        RelayError: there is none of that name, or it was not written by a merge.
    """
    if not store.exists(annotations_name(name)):
        raise RelayError(
            f"{store.describe(annotations_name(name))}: there is no dataset {name!r} in this"
            " store; make it with 1_merge_data (or relaydet merge), or set DATASET or STORE."
        )
    data = store.read(annotations_name(name))
    dataset, findings = coco.decode(data, name, store.describe(annotations_name(name)))
    sources: Any = dataset.info.get("sources")
    if findings or not _names_images(sources):
        problem = findings[0].message if findings else "info.sources is missing or incomplete"
        raise RelayError(
            f"{store.describe(annotations_name(name))}: not a file that a merge wrote ({problem});"
            " merge it again."
        )
    folders = {
        source: open_images(str(store.path(facts["images"]))) for source, facts in sources.items()
    }
    return SavedDataset(name, dataset, folders, hashlib.sha256(data).hexdigest(), data)


def _names_images(sources: Any) -> bool:
    return isinstance(sources, dict) and all(
        isinstance(facts, dict) and isinstance(facts.get("images"), str)
        for facts in sources.values()
    )


def portable(store: LocalStore, location: str) -> str:
    """A location as info.sources records it: relative where it lies inside the store.

    The store may be mounted elsewhere the next time; what lies inside it moves along.
    """
    path = Path(location).expanduser().absolute()
    inside = path.is_relative_to(store.root)
    return path.relative_to(store.root).as_posix() if inside else str(path)
