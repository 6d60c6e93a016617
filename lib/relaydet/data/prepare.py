"""From sources, as a user names them, to parts that can be merged: read, narrowed, checked.

What is not wanted goes before any image file is touched, so that a try with a few hundred images of
a large dataset reads (and downloads) a few hundred images.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

import msgspec

from relaydet.bars import OpenBar, no_bar
from relaydet.config import MergeConfig, SourceConfig, parse_images
from relaydet.data.categories import (
    CategoryUse,
    category_names,
    mapping_table,
    parse_categories,
    take_categories,
)
from relaydet.data.checks.boxes import check_boxes
from relaydet.data.checks.duplicates import Duplicates, find_duplicates
from relaydet.data.checks.files import FileFacts, check_images
from relaydet.data.checks.structure import check_structure
from relaydet.data.dataset import Dataset
from relaydet.data.findings import Finding
from relaydet.data.formats import hash_annotations, read_source
from relaydet.data.images import Images, open_images
from relaydet.data.known import known_source
from relaydet.data.merge import Part
from relaydet.data.narrow import narrow
from relaydet.data.saved import SavedDataset, open_sources
from relaydet.errors import RelayError

# Facts of image files by source and by name in that source.
Files = dict[str, dict[str, FileFacts]]


@dataclass(frozen=True)
class Prepared:
    """Sources, ready to be merged."""

    parts: list[Part]
    images: dict[str, Images]
    """Where the images of each source are."""
    files: Files
    categories: str
    """What became of every source's categories, as text."""
    findings: list[Finding]


def choose_sources(config: MergeConfig) -> list[SourceConfig]:
    """The sources of a merge: known names looked up, INCLUDE and EXCLUDE applied.

    Raises:
        RelayError: a name is unknown, or nothing is left.
    """
    given = [s if isinstance(s, SourceConfig) else known_source(s) for s in config.sources]
    names = [source.name for source in given]
    for parameter, wanted in (("INCLUDE", config.include), ("EXCLUDE", config.exclude)):
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            raise RelayError(
                f"{parameter}: there is no source {unknown[0]!r}; there are {', '.join(names)}."
            )
    chosen = [
        source
        for source in given
        if (not config.include or source.name in config.include)
        and source.name not in config.exclude
    ]
    if not chosen:
        raise RelayError("INCLUDE and EXCLUDE leave no source; name fewer in EXCLUDE.")
    return chosen


def prepare(
    sources: Sequence[SourceConfig], config: MergeConfig, bar: OpenBar = no_bar
) -> Prepared:
    """Read sources, take of them what the merge asks for, and check it with its image files.

    Args:
        sources: what `choose_sources` gave.
        config: of the merge.
        bar: shows how far downloads and checks are.

    Raises:
        RelayError: a source cannot be read, or nothing is left of it.
    """
    elsewhere = parse_images(config.images, [source.name for source in sources])
    sources = [replace(s, images=elsewhere.get(s.name, s.images)) for s in sources]
    datasets, uses, findings = _read(sources)
    renames = parse_categories(category_names(datasets), config.categories)
    parts, images, files = [], {}, Files()
    for number, source in enumerate(sources):
        limit = config.max_images if source.max_images is None else source.max_images
        dataset, found = narrow(
            datasets[number], source, renames, bool(config.categories), limit, config.seed
        )
        datasets[number] = dataset  # lets go of what was narrowed away
        findings += found
        images[source.name] = open_images(source.images, bar)
        checked, files[source.name], found = _check(
            dataset, source.name, images[source.name], config, bar
        )
        findings += found
        parts.append(Part(source, checked, hash_annotations(source)))
    return Prepared(parts, images, files, mapping_table(uses, renames), findings)


def compare(
    prepared: Prepared, config: MergeConfig, held_out: Sequence[SavedDataset], bar: OpenBar = no_bar
) -> tuple[Prepared, Duplicates]:
    """Find images that are there more than once, or in a held-out set; drop them where asked to.

    Args:
        prepared: what `prepare` gave.
        config: of the merge.
        held_out: datasets that should have no image in common with it.
        bar: shows how far the reading of their images is.

    Raises:
        RelayError: the images of a held-out dataset cannot be read.
    """
    outside: Files = {}
    for saved in held_out:
        for source, opened in open_sources(saved, bar=bar).items():
            label = f"{saved.name}: {source}"
            outside[label] = _files_of(saved, source, opened, config.near_duplicates, bar)
    drop = config.duplicates == "drop"
    found = find_duplicates(prepared.files, outside, action="dropped" if drop else "kept")
    parts = [_without(part, found.repeated) for part in prepared.parts] if drop else prepared.parts
    return replace(prepared, parts=parts, findings=prepared.findings + found.findings), found


def _read(
    sources: Sequence[SourceConfig],
) -> tuple[list[Dataset], dict[str, list[CategoryUse]], list[Finding]]:
    datasets, uses, findings = [], {}, []
    for source in sources:
        dataset, of_format = read_source(source)
        dataset, of_structure = check_structure(dataset, source.name)
        dataset, uses[source.name], of_categories = take_categories(dataset, source)
        datasets.append(dataset)
        findings += of_format + of_structure + of_categories
    return datasets, uses, findings


def _check(
    dataset: Dataset, source: str, images: Images, config: MergeConfig, bar: OpenBar
) -> tuple[Dataset, dict[str, FileFacts], list[Finding]]:
    images.fetch([image.file_name for image in dataset.images], bar)
    checked = check_images(dataset, images, source, bar, likeness=config.near_duplicates)
    dataset, of_boxes = check_boxes(
        checked.dataset, source, drop_duplicates=config.duplicates == "drop"
    )
    files = {image.file_name: checked.files[image.id] for image in dataset.images}
    return dataset, files, checked.findings + of_boxes


def _files_of(
    saved: SavedDataset, source: str, images: Images, likeness: bool, bar: OpenBar
) -> dict[str, FileFacts]:
    """Facts of the image files that a saved dataset has of one of its sources."""
    records = [
        msgspec.structs.replace(image, file_name=image.file_name.split("/", 1)[1])
        for image in saved.dataset.images
        if image.source == source
    ]
    label = f"{saved.name}: {source}"
    checked = check_images(Dataset(records, [], []), images, label, bar, likeness=likeness)
    return {image.file_name: checked.files[image.id] for image in checked.dataset.images}


def _without(part: Part, repeated: Collection[str]) -> Part:
    """A part without the images of some names, which start with the source's."""
    dataset = part.dataset
    images = [i for i in dataset.images if f"{part.source.name}/{i.file_name}" not in repeated]
    if len(images) == len(dataset.images):
        return part
    ids = {image.id for image in images}
    annotations = [a for a in dataset.annotations if a.image_id in ids]
    return replace(part, dataset=replace(dataset, images=images, annotations=annotations))
