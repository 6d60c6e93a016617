"""From sources, as a user names them, to parts that can be merged: read, narrowed, checked.

What is not wanted goes before any image file is touched, so that a try with a few hundred images of
a large dataset reads (and downloads) a few hundred images.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from relaydet.addresses import shown
from relaydet.bars import OpenBar, no_bar
from relaydet.config import MergeConfig, SourceConfig
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
from relaydet.data.merge import Part, refuse_bad_names
from relaydet.data.narrow import drop_empty, narrow, select_all
from relaydet.data.saved import SavedDataset, open_sources
from relaydet.errors import RelayError
from relaydet.parameters import listing
from relaydet.places import expand_home

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
    given = [
        replace(
            source,
            annotations=expand_home(source.annotations, f"Source {source.name!r}:"),
            images=expand_home(source.images, f"Source {source.name!r}:"),
            image_list=expand_home(source.image_list, f"Source {source.name!r}:"),
        )
        for source in given
    ]
    names = [source.name for source in given]
    refuse_bad_names(names)
    for parameter, wanted in (("INCLUDE", config.include), ("EXCLUDE", config.exclude)):
        unknown = sorted(set(wanted) - set(names))
        if unknown:
            raise RelayError(
                f"{parameter}: there is no source {unknown[0]!r}; {listing(unknown[0], names)}."
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
    sources: Sequence[SourceConfig],
    config: MergeConfig,
    moved: Mapping[str, str],
    bar: OpenBar = no_bar,
) -> Prepared:
    """Read sources, take of them what the merge asks for, and check it with its image files.

    A source of which nothing is taken is left out, and its images stay unopened.

    Args:
        sources: what `choose_sources` gave.
        config: of the merge.
        moved: by source, where its images are on this machine if not where the source says.
        bar: shows how far downloads and checks are.

    Raises:
        RelayError: a source cannot be read, or nothing is left of it.
    """
    datasets, uses, findings = _read(sources)
    renames = parse_categories(category_names(datasets), config.categories)
    findings += [_address_with_key(source) for source in sources if _has_key(source)]
    parts, images, files = [], {}, Files()
    for number, source in enumerate(sources):
        limit = config.max_images if source.max_images is None else source.max_images
        dataset, found = narrow(
            datasets[number], source, renames, bool(config.categories), limit, config.seed
        )
        datasets[number] = dataset  # lets go of what was narrowed away
        findings += found
        if not dataset.images:
            message = "nothing of it has the categories that are taken"
            findings.append(Finding("source-empty", "warning", source.name, message, "left out"))
            continue
        images[source.name] = open_images(moved.get(source.name, source.images), bar)
        checked, files[source.name], found = _check(
            dataset, source, images[source.name], config, bar
        )
        findings += found
        parts.append(Part(source, checked, hash_annotations(source)))
    if not parts:
        raise RelayError(
            "The merge leaves no image: none has an object of the categories"
            f" {', '.join(config.categories)}; choose other CATEGORIES or set keep_empty."
        )
    return Prepared(parts, images, files, mapping_table(uses, renames), findings)


def compare(
    prepared: Prepared,
    config: MergeConfig,
    held_out: Sequence[SavedDataset],
    moved: Mapping[str, str],
    bar: OpenBar = no_bar,
) -> tuple[Prepared, Duplicates]:
    """Find images that are there more than once, or in a held-out set; drop them where asked to.

    Args:
        prepared: what `prepare` gave.
        config: of the merge.
        held_out: datasets that should have no image in common with it.
        moved: by source, where its images are if not where they were when it was merged.
        bar: shows how far the reading of their images is.

    Raises:
        RelayError: the images of a held-out dataset cannot be read.
    """
    outside: Files = {}
    findings = list(prepared.findings)
    for saved in held_out:
        for source, opened in open_sources(saved, moved, bar=bar).items():
            label = f"{saved.name}: {source}"
            outside[label], found = _files_of(saved, source, opened, config.near_duplicates, bar)
            findings += found
    drop = config.duplicates == "drop"
    duplicates = find_duplicates(prepared.files, outside, action="dropped" if drop else "kept")
    parts = prepared.parts
    if drop:
        parts = [_without(part, duplicates.repeated) for part in parts]
        if not any(part.dataset.images for part in parts):
            raise RelayError(
                "The merge leaves no image: HELD_OUT has them all, and DUPLICATES is drop; take"
                " other sources."
            )
    return replace(prepared, parts=parts, findings=findings + duplicates.findings), duplicates


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


def _has_key(source: SourceConfig) -> bool:
    return any(shown(place) != place for place in (source.annotations, source.images))


def _address_with_key(source: SourceConfig) -> Finding:
    message = "its address has a password, a query or a fragment, which may be secret"
    action = "not stored: whoever needs its images gives the whole address in IMAGES"
    return Finding("address-with-key", "warning", source.name, message, action)


def _check(
    dataset: Dataset, source: SourceConfig, images: Images, config: MergeConfig, bar: OpenBar
) -> tuple[Dataset, dict[str, FileFacts], list[Finding]]:
    images.fetch([image.file_name for image in dataset.images], bar)
    checked = check_images(dataset, images, source.name, bar, likeness=config.near_duplicates)
    dataset, findings = check_boxes(
        checked.dataset, source.name, drop_duplicates=config.duplicates == "drop"
    )
    if (config.categories or source.categories) and not source.keep_empty:
        # Before duplicates are looked for: of two copies one may have lost all its boxes.
        selection = select_all(dataset)
        findings += drop_empty(selection, source.name)
        dataset = selection.cut()
    files = {image.file_name: checked.files[image.id] for image in dataset.images}
    return dataset, files, checked.findings + findings


def _files_of(
    saved: SavedDataset, source: str, images: Images, likeness: bool, bar: OpenBar
) -> tuple[dict[str, FileFacts], list[Finding]]:
    """Facts of a saved dataset's image files of one source, and which cannot be compared."""
    records = [
        msgspec.structs.replace(image, file_name=image.file_name.split("/", 1)[1])
        for image in saved.dataset.images
        if image.source == source
    ]
    label = f"{saved.name}: {source}"
    checked = check_images(Dataset(records, [], []), images, label, bar, likeness=likeness)
    files = {image.file_name: checked.files[image.id] for image in checked.dataset.images}
    unseen = [
        replace(finding, action="not compared")
        for finding in checked.findings
        if finding.code in ("image-missing", "image-unreadable")
    ]
    return files, unseen


def _without(part: Part, repeated: Collection[str]) -> Part:
    """A part without the images of some names, which start with the source's."""
    dataset = part.dataset
    images = [i for i in dataset.images if f"{part.source.name}/{i.file_name}" not in repeated]
    if len(images) == len(dataset.images):
        return part
    ids = {image.id for image in images}
    annotations = [a for a in dataset.annotations if a.image_id in ids]
    return replace(part, dataset=replace(dataset, images=images, annotations=annotations))
