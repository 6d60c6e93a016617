"""Merge datasets of any format into one COCO file, checked, counted and drawn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from relaydet.config import DEMO, MergeConfig, SourceConfig, check_name
from relaydet.data import merge as merging
from relaydet.data.checks.boxes import check_boxes
from relaydet.data.checks.files import check_images
from relaydet.data.checks.structure import check_structure
from relaydet.data.dataset import Dataset
from relaydet.data.demo import write_demo
from relaydet.data.findings import Finding, findings_table
from relaydet.data.formats import hash_annotations, read_source
from relaydet.data.images import Images, open_images
from relaydet.data.saved import annotations_name, portable, save_dataset
from relaydet.data.statistics import statistics_table, summarise, summarise_sources
from relaydet.errors import RelayError
from relaydet.storage.local import LocalStore
from relaydet.storage.store import open_store
from relaydet.viewing.charts import size_chart
from relaydet.viewing.pictures import Picture, png
from relaydet.viewing.progress import bar, progress
from relaydet.viewing.samples import object_sizes, sample_sheet

# The demo's scenes are kept here, in the formats that real datasets have.
DEMO_FOLDER = "demo_scenes"


@dataclass(frozen=True)
class MergeResult:
    """What `merge` wrote."""

    dataset: Dataset
    findings: list[Finding]
    table: str
    """The statistics per source and merged, as text."""
    pictures: dict[str, Picture]
    """By name: drawn samples of each source, and the object sizes of all."""
    where: str
    """Path of annotations.json."""

    def __str__(self) -> str:
        return f"{self.table}\n\n{findings_table(self.findings)}\n\nThe dataset is {self.where}"


def merge(config: MergeConfig, say: Callable[[str], None] = print) -> MergeResult:
    """Read, check, merge, draw and write; nothing is written unless all of it succeeded.

    With `sources="demo"` the demo set is generated first, and its held-out part is written as a
    second dataset, "<dataset>_heldout".

    Args:
        config: what to merge.
        say: takes each line that tells the user what happens.

    Raises:
        RelayError: a source cannot be read, or nothing is left of it.
    """
    check_name("DATASET", config.dataset)
    store = open_store(config.store)
    if isinstance(config.sources, tuple):
        return _merge_into(store, config.dataset, config.sources, config.categories, say)
    if config.sources != DEMO:
        raise RelayError(f"SOURCES {config.sources!r}: load them with load_sources first.")
    try:
        *sources, heldout = write_demo(store.path(DEMO_FOLDER), progress=progress("drawing scenes"))
    except OSError as error:
        raise RelayError(
            f"STORE {config.store}: the demo set cannot be written ({error.strerror}); free space"
            " or choose another folder."
        ) from error
    categories = config.categories or ("person",)
    _merge_into(store, f"{config.dataset}_heldout", [heldout], categories, say)
    return _merge_into(store, config.dataset, sources, categories, say)


def _merge_into(
    store: LocalStore,
    name: str,
    sources: Sequence[SourceConfig],
    categories: Sequence[str],
    say: Callable[[str], None],
) -> MergeResult:
    folders = {source.name: open_images(source.images) for source in sources}
    parts, findings = [], []
    for source in sources:
        part, found = _read_part(store, source, folders[source.name])
        parts.append(part)
        findings += found
    dataset, found = merging.merge(parts, categories)
    findings += found
    pictures = _pictures(dataset, folders)
    per_source, merged = summarise_sources(dataset), summarise(dataset)
    save_dataset(store, name, dataset, {"sources": per_source, "merged": merged}, findings)
    for title, picture in pictures.items():
        store.write(f"datasets/{name}/{title}.png", picture.png)
    table = statistics_table({**per_source, "merged": merged})
    where = store.describe(annotations_name(name))
    result = MergeResult(dataset, findings, table, pictures, where)
    say(f"dataset {name!r}\n{result}\n")
    return result


def _read_part(
    store: LocalStore, source: SourceConfig, images: Images
) -> tuple[merging.Part, list[Finding]]:
    dataset, findings = read_source(source)
    dataset, found = check_structure(dataset, source.name)
    checked = check_images(dataset, images, source.name, bar)
    dataset, of_boxes = check_boxes(checked.dataset, source.name)
    found += checked.findings + of_boxes
    recorded = replace(
        source,
        annotations=portable(store, source.annotations),
        images=portable(store, source.images),
    )
    return merging.Part(recorded, dataset, hash_annotations(source)), findings + found


def _pictures(dataset: Dataset, folders: dict[str, Images]) -> dict[str, Picture]:
    pictures = {
        f"samples_{source}": Picture(
            png(sample_sheet(dataset, folders, source)),
            f"{source}: boxes as read; crowd regions hatched.",
        )
        for source in folders
    }
    chart = size_chart(object_sizes(dataset), "Object size by source")
    pictures["object_sizes"] = Picture(png(chart), "Relative size of the objects, by source.")
    return pictures
