"""Merge datasets of any format into one COCO file, checked, counted and drawn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

from relaydet.config import DEMO, MergeConfig, SourceConfig, check_name, check_seed, parse_images
from relaydet.data import merge as merging
from relaydet.data.checks.duplicates import Duplicates
from relaydet.data.dataset import Dataset, gc_paused
from relaydet.data.demo import write_demo
from relaydet.data.distributions import distributions
from relaydet.data.findings import Finding, findings_table
from relaydet.data.formats import WRITERS, check_writable, write_format
from relaydet.data.images import Images
from relaydet.data.prepare import choose_sources, compare, prepare
from relaydet.data.saved import agree, annotations_name, load_dataset, portable, save_dataset
from relaydet.data.split import parse_split, split
from relaydet.data.statistics import statistics_table, summarise, summarise_sources
from relaydet.errors import RelayError
from relaydet.runtime.auto_store import find_store, tell_drive
from relaydet.storage.cache import cache_root, tell_cache
from relaydet.storage.local import LocalStore
from relaydet.storage.store import Store
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
    _check_parameters(config)
    store = find_store(config.store, say)
    tell_cache(say)
    if config.sources == DEMO:
        result = _merge_demo(store, config, say)
        tell_drive(store, say)
        return result
    if isinstance(config.sources, str):
        raise RelayError(f"SOURCES {config.sources!r}: load them with load_sources first.")
    result = _merge_into(store, config, choose_sources(config), say)
    tell_drive(store, say)
    return result


def _merge_demo(store: Store, config: MergeConfig, say: Callable[[str], None]) -> MergeResult:
    folder = store.path("") if isinstance(store, LocalStore) else cache_root()
    try:
        drawn = write_demo(folder / DEMO_FOLDER, progress=progress("drawing scenes"))
    except OSError as error:
        raise RelayError(
            f"STORE {config.store}: the demo set cannot be written ({error.strerror}); free space"
            " or choose another folder."
        ) from error
    *sources, heldout = (
        drawn if isinstance(store, LocalStore) else _carry_demo(store, folder, drawn)
    )
    name = f"{config.dataset}_heldout"
    config = replace(config, sources=tuple(sources), categories=config.categories or ("person",))
    chosen = choose_sources(config)
    plain = MergeConfig(name, (heldout,), config.categories, config.store, strict=config.strict)
    _merge_into(store, plain, [heldout], say)
    compared = replace(config, held_out=tuple(dict.fromkeys((*config.held_out, name))))
    return _merge_into(store, compared, chosen, say)


def _carry_demo(store: Store, folder: Path, sources: Sequence[SourceConfig]) -> list[SourceConfig]:
    """Put the demo's scenes into a bucket, where every other machine finds them."""
    mark = f"{DEMO_FOLDER}/demo.json"
    drawn = (folder / mark).read_bytes()
    if not store.exists(mark) or store.read(mark) != drawn:
        for source in sources:
            place = Path(source.images).relative_to(folder).as_posix()
            files = sorted(Path(source.images).iterdir())
            for file in progress(f"carrying {source.name} to the store")(files):
                store.write(f"{place}/{file.name}", file.read_bytes())
        store.write(mark, drawn)
    return [
        replace(source, images=store.place(Path(source.images).relative_to(folder).as_posix()))
        for source in sources
    ]


def _check_parameters(config: MergeConfig) -> None:
    """Refuse what can be seen to be wrong before anything is read."""
    check_name("DATASET", config.dataset)
    check_seed(config.seed)
    for form in config.formats:
        check_writable(form)
    names = {config.dataset, *_part_names(config)}
    for name in sorted(names):
        check_name("DATASET and SPLIT", name)
    for name in config.held_out:
        check_name("HELD_OUT", name)
    held_out = set(config.held_out)
    if config.sources == DEMO:
        held_out.add(f"{config.dataset}_heldout")
    for name in sorted(names & held_out):
        raise RelayError(
            f"HELD_OUT: {name!r} is a dataset that this merge writes; give it or the part of the"
            " split another name."
        )


def _part_names(config: MergeConfig) -> list[str]:
    return [f"{config.dataset}_{part}" for part in parse_split(config.split)]


def _merge_into(
    store: Store,
    config: MergeConfig,
    sources: Sequence[SourceConfig],
    say: Callable[[str], None],
) -> MergeResult:
    fractions = parse_split(config.split)
    held_out = [load_dataset(store, name) for name in config.held_out]
    known = [s.name for s in sources] + [name for saved in held_out for name in saved.locations]
    moved = parse_images(config.images, dict.fromkeys(known))
    for source in sources:
        agree(moved.get(source.name, source.images))
    with gc_paused():
        prepared = prepare(sources, config, moved, bar)
        prepared, duplicates = compare(prepared, config, held_out, moved, bar)
        recorded = [replace(p, source=_as_recorded(store, p.source)) for p in prepared.parts]
        dataset, found = merging.merge(recorded, config.categories)
    prepared = replace(prepared, parts=[], findings=prepared.findings + found)
    _refuse_errors(config, prepared.findings)
    parts = _split(dataset, fractions, duplicates, config)
    if config.dataset not in parts and store.exists(annotations_name(config.dataset)):
        message = f"{store.describe(annotations_name(config.dataset))} is of an earlier merge"
        older = Finding("dataset-older", "warning", "", message, "left there")
        prepared = replace(prepared, findings=[*prepared.findings, older])
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


def _as_recorded(store: Store, source: SourceConfig) -> SourceConfig:
    """A source as info.sources names it: places in the store from there on."""
    return replace(
        source,
        annotations=portable(store, source.annotations),
        images=portable(store, source.images),
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
    store: Store,
    config: MergeConfig,
    parts: Mapping[str, Dataset],
    findings: Sequence[Finding],
    pictures: Mapping[str, Picture],
) -> list[Finding]:
    """Write all datasets; returns what the formats beside COCO could not hold."""
    of_formats = []
    shown_with = config.dataset if config.dataset in parts else next(iter(parts))
    with ExitStack() as stack:  # which puts the folders of other formats in their place
        for name, part in parts.items():
            for form in config.formats:
                put = stack.enter_context(store.folder(f"datasets/{name}/{form}"))
                of_formats += write_format(form, part, put)
        shown = {f"datasets/{shown_with}/{title}.png": p.png for title, p in pictures.items()}
        for path, picture in shown.items():
            store.write(path, picture)
        for name, part in parts.items():
            summary = {"sources": summarise_sources(part), "merged": summarise(part)}
            save_dataset(store, name, part, summary, [*findings, *of_formats])
            _clear(store, name, config.formats, shown)
    return of_formats


def _clear(store: Store, name: str, formats: Sequence[str], shown: Mapping[str, bytes]) -> None:
    """Remove what an earlier merge wrote there and this one does not: it would be of other data."""
    for picture in store.names(f"datasets/{name}"):
        if picture.endswith(".png") and picture not in shown:
            store.delete(picture)
    for form in WRITERS:
        if form not in formats:
            store.delete(f"datasets/{name}/{form}")


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
