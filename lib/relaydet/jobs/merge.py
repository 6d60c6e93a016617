"""Merge datasets of any format into one COCO file, checked, counted and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace

from relaydet.config import DEMO, MergeConfig, SourceConfig, check_name
from relaydet.data import merge as merging
from relaydet.data.checks.duplicates import Duplicates
from relaydet.data.dataset import Dataset, gc_paused
from relaydet.data.demo import write_demo
from relaydet.data.distributions import distributions
from relaydet.data.findings import Finding, findings_table
from relaydet.data.formats import WRITERS, check_writable, write_format
from relaydet.data.images import Images
from relaydet.data.prepare import choose_sources, compare, prepare
from relaydet.data.saved import annotations_name, load_dataset, portable, save_dataset
from relaydet.data.split import parse_split, split
from relaydet.data.statistics import statistics_table, summarise, summarise_sources
from relaydet.errors import RelayError
from relaydet.storage.local import LocalStore
from relaydet.storage.store import open_store
from relaydet.viewing.charts import distribution_charts
from relaydet.viewing.pictures import Picture, png
from relaydet.viewing.progress import bar, progress
from relaydet.viewing.samples import offset_sheet, sample_sheet

# The demo's scenes are kept here, in the formats that real datasets have.
DEMO_FOLDER = "demo_scenes"


@dataclass(frozen=True)
class MergeResult:
    """What `merge` wrote."""

    dataset: Dataset
    """Everything that was merged, before any split."""
    images: dict[str, Images]
    """Where the images of each source are."""
    findings: list[Finding]
    categories: str
    """What became of every source's categories, as text."""
    table: str
    """The statistics per source and merged, and of each part of a split, as text."""
    pictures: dict[str, Picture]
    """By name: drawn samples of each source, and distributions of all."""
    written: dict[str, str]
    """Path of annotations.json, by name of the dataset."""

    def __str__(self) -> str:
        where = "\n".join(f"Dataset {name!r} is {path}" for name, path in self.written.items())
        return f"{self.table}\n\n{self.categories}\n\n{findings_table(self.findings)}\n\n{where}"


def merge(config: MergeConfig, say: Callable[[str], None] = print) -> MergeResult:
    """Read, check, merge, draw and write; nothing is written unless all of it succeeded.

    With `sources="demo"` the demo set is generated first, and its held-out part is written as a
    second dataset, "<dataset>_heldout", which the first is then compared with.

    Args:
        config: what to merge.
        say: takes each line that tells the user what happens.

    Raises:
        RelayError: a source cannot be read, or nothing is left of it; with `strict`, a finding is
            an error.
    """
    check_name("DATASET", config.dataset)
    store = open_store(config.store)
    if config.sources == DEMO:
        return _merge_demo(store, config, say)
    if isinstance(config.sources, str):
        raise RelayError(f"SOURCES {config.sources!r}: load them with load_sources first.")
    return _merge_into(store, config, choose_sources(config), say)


def _merge_demo(store: LocalStore, config: MergeConfig, say: Callable[[str], None]) -> MergeResult:
    try:
        *sources, heldout = write_demo(store.path(DEMO_FOLDER), progress=progress("drawing scenes"))
    except OSError as error:
        raise RelayError(
            f"STORE {config.store}: the demo set cannot be written ({error.strerror}); free space"
            " or choose another folder."
        ) from error
    name = f"{config.dataset}_heldout"
    config = replace(config, sources=tuple(sources), categories=config.categories or ("person",))
    plain = MergeConfig(name, (heldout,), config.categories, config.store, strict=config.strict)
    _merge_into(store, plain, [heldout], say)
    compared = replace(config, held_out=tuple(dict.fromkeys((*config.held_out, name))))
    return _merge_into(store, compared, choose_sources(config), say)


def _merge_into(
    store: LocalStore,
    config: MergeConfig,
    sources: Sequence[SourceConfig],
    say: Callable[[str], None],
) -> MergeResult:
    fractions = parse_split(config.split)
    for form in config.formats:
        check_writable(form)
    if config.dataset in config.held_out:
        raise RelayError(f"HELD_OUT: {config.dataset!r} is the dataset itself; name others.")
    held_out = [load_dataset(store, name) for name in config.held_out]
    with gc_paused():
        prepared, duplicates = compare(prepare(sources, config, bar), config, held_out, bar)
        recorded = [
            replace(p, source=_as_recorded(store, p.source, sources)) for p in prepared.parts
        ]
        dataset, found = merging.merge(recorded, config.categories)
    prepared = replace(prepared, parts=[], findings=prepared.findings + found)
    _refuse_errors(config, prepared.findings)
    parts = _split(dataset, fractions, duplicates, config)
    tables = {**summarise_sources(dataset), "merged": summarise(dataset)}
    if fractions:
        tables.update({name: summarise(part) for name, part in parts.items()})
    pictures = _pictures(dataset, prepared.images)
    findings = prepared.findings + _write(store, config, parts, prepared.findings, pictures)
    result = MergeResult(
        dataset=dataset,
        images=prepared.images,
        findings=findings,
        categories=prepared.categories,
        table=statistics_table(tables),
        pictures=pictures,
        written={name: store.describe(annotations_name(name)) for name in parts},
    )
    say(f"dataset {config.dataset!r}\n{result}\n")
    return result


def _as_recorded(
    store: LocalStore, used: SourceConfig, given: Sequence[SourceConfig]
) -> SourceConfig:
    """A source as info.sources names it: where it was said to be, not where IMAGES moved it."""
    images = next(source.images for source in given if source.name == used.name)
    return replace(
        used, annotations=portable(store, used.annotations), images=portable(store, images)
    )


def _refuse_errors(config: MergeConfig, findings: Sequence[Finding]) -> None:
    errors = [finding for finding in findings if finding.severity == "error"]
    if config.strict and errors:
        raise RelayError(
            f"Dataset {config.dataset!r} is not written, since {len(errors)} findings are errors;"
            f" the first: source {errors[0].source}, {errors[0].code}: {errors[0].message}. Mend"
            " the sources, or merge without STRICT."
        )


def _split(
    dataset: Dataset, fractions: Mapping[str, float], duplicates: Duplicates, config: MergeConfig
) -> dict[str, Dataset]:
    """The datasets to write, by name."""
    if not fractions:
        return {config.dataset: dataset}
    parts = split(dataset, fractions, duplicates.groups, config.seed)
    return {
        f"{config.dataset}_{part}" if part else config.dataset: cut for part, cut in parts.items()
    }


def _write(
    store: LocalStore,
    config: MergeConfig,
    parts: Mapping[str, Dataset],
    findings: Sequence[Finding],
    pictures: Mapping[str, Picture],
) -> list[Finding]:
    """Write all datasets; returns what the formats beside COCO could not hold."""
    of_formats = []
    with ExitStack() as stack:
        for name, part in parts.items():
            for form in config.formats:
                put = stack.enter_context(store.folder(f"datasets/{name}/{form}"))
                of_formats += write_format(form, part, put)
    for name, part in parts.items():
        _clear(store, name, config.formats)
        summary = {"sources": summarise_sources(part), "merged": summarise(part)}
        save_dataset(store, name, part, summary, [*findings, *of_formats])
    shown_with = config.dataset if config.dataset in parts else next(iter(parts))
    for title, picture in pictures.items():
        store.write(f"datasets/{shown_with}/{title}.png", picture.png)
    return of_formats


def _clear(store: LocalStore, name: str, formats: Sequence[str]) -> None:
    """Remove what an earlier merge wrote there and this one does not: it would be of other data."""
    for picture in store.names(f"datasets/{name}"):
        if picture.endswith(".png"):
            store.delete(picture)
    for form in WRITERS:
        if form not in formats:
            store.delete_folder(f"datasets/{name}/{form}")


def _pictures(dataset: Dataset, images: Mapping[str, Images]) -> dict[str, Picture]:
    pictures = {}
    for source in images:
        sheet = sample_sheet(dataset, images, source)
        caption = f"{source}: boxes as read; crowd regions hatched."
        pictures[f"samples_{source}"] = Picture(png(sheet), caption)
        offset = offset_sheet(dataset, images, source)
        if offset is not None:
            caption = f"{source}: small boxes magnified, as read and as stored. Which fits?"
            pictures[f"offset_{source}"] = Picture(png(offset), caption)
    for name, chart in distribution_charts(distributions(dataset)).items():
        pictures[name] = Picture(png(chart), f"{name.replace('_', ' ').capitalize()} by source.")
    return pictures
