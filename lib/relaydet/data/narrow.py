"""Part of a source: some categories, the images of a list, a limited number of them.

Everything is decided from the annotations alone, so that image files are only touched for what is
taken. What is left keeps its ids and its order.

Shape suffixes: M images, N annotations.
"""

from __future__ import annotations

import io
import zlib
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np

from relaydet.addresses import shown
from relaydet.config import SourceConfig
from relaydet.data.categories import left_out
from relaydet.data.dataset import Dataset
from relaydet.data.findings import Finding
from relaydet.data.locations import read_bytes
from relaydet.errors import RelayError
from relaydet.randomness import keyed_bits

# Parts of a path that are compared, from its end: of images, and of listed names.
INDEXED_PARTS = 4
LISTED_PARTS = 20
AMBIGUOUS = ""
# Part of the random key, so that no other draw by name goes the same way.
DRAW = 1

_LIST_PROBLEMS = {
    "image-list-unknown": ("warning", "fit no image", "ignored"),
    "image-list-folder": ("info", "have other folders than their images", "matched by their end"),
}


@dataclass
class Selection:
    """The images and annotations of a dataset that are still taken.

    An annotation goes with its image, whatever `annotations_N` says.
    """

    dataset: Dataset
    rows_N: np.ndarray
    """int64 [N]: the image of each annotation, as its place in `dataset.images`."""
    images_M: np.ndarray
    """bool [M]"""
    annotations_N: np.ndarray
    """bool [N]"""

    def cut(self) -> Dataset:
        """The dataset of what is taken; what lost nothing is not copied."""
        taken_N = self.annotations_N & self.images_M[self.rows_N]
        dataset, rows_N = self.dataset, self.rows_N
        if not taken_N.all():
            dataset = replace(dataset, annotations=list(compress(dataset.annotations, taken_N)))
            rows_N = rows_N[taken_N]
        if not self.images_M.all():
            dataset = replace(dataset, images=list(compress(dataset.images, self.images_M)))
            rows_N = (np.cumsum(self.images_M) - 1)[rows_N]
        return dataset if dataset is self.dataset else dataset.knowing_rows(rows_N)


def select_all(dataset: Dataset) -> Selection:
    """Everything there is, to be narrowed down; ValueError where `check_structure` was left out."""
    rows_N = dataset.image_rows_N
    if (rows_N < 0).any():
        raise ValueError("an annotation is of an image that is not there")
    everything = [np.ones(len(records), bool) for records in (dataset.images, dataset.annotations)]
    return Selection(dataset, rows_N, *everything)


def narrow(
    dataset: Dataset,
    source: SourceConfig,
    renames: Mapping[str, str],
    filtered: bool,
    limit: int | None,
    seed: int,
) -> tuple[Dataset, list[Finding]]:
    """Take of a source what the merge asks for: listed images, some categories, a limited number.

    Args:
        dataset: the source after `check_structure` and `categories.take_categories`.
        source: its `image_list` and `keep_empty` count here.
        renames: the categories to keep, from `categories.parse_categories`.
        filtered: whether the user chose categories: images without an object of those are then
            left out, unless the source has `keep_empty`. Where the source chose, they always are.
        limit: images to take at most; None takes all. Drawn evenly at random, as a pure function
            of `seed`, the source's name and theirs, so that a larger limit takes the same and more.
        seed: of that draw.

    Returns:
        The dataset with ids, order and categories as they were, and what was left out.

    Raises:
        RelayError: the image list cannot be read, names an image ambiguously, or names none at all;
            or the limit is below 1.
    """
    if limit is not None and limit < 1:
        raise RelayError(
            f"source {source.name}: max_images is {limit}; take at least 1, or EXCLUDE the source."
        )
    drops_empty = (filtered or bool(source.categories)) and not source.keep_empty
    every_category = all(category.name in renames for category in dataset.categories)
    if every_category and not drops_empty and limit is None and not source.image_list:
        return dataset, []
    selection = select_all(dataset)
    findings = keep_listed(selection, source) if source.image_list else []
    findings += keep_categories(selection, renames, source.name)
    if drops_empty:
        findings += drop_empty(selection, source.name)
    if limit is not None:
        findings += keep_some(selection, limit, seed, source.name)
    return selection.cut(), findings


def keep_listed(selection: Selection, source: SourceConfig) -> list[Finding]:
    """Leave out the images that `source.image_list` does not name.

    The list is UTF-8 text with a name on each line; blank lines and lines that start with # do not
    count. A name means the image of that file name; else the image whose path ends alike for the
    most folders; else the only one of that base name.

    Raises:
        RelayError: the list cannot be read, names no image of the source, or a name fits several.
    """
    names = [image.file_name for image in selection.dataset.images]
    found, findings = _find_listed(set(names), source)
    if not found:
        raise RelayError(
            f"{shown(source.image_list)}: names no image of source {source.name}, whose images are"
            f" called {names[0]} and the like; write a file name on each line, or another"
            " image_list."
        )
    selection.images_M &= np.fromiter(map(found.__contains__, names), bool, len(names))
    others = len(names) - int(selection.images_M.sum())
    if others:
        message = f"{others:,} images are not in {shown(source.image_list)}"
        findings.append(Finding("image-not-listed", "info", source.name, message, "left out"))
    return findings


def keep_categories(selection: Selection, names: Collection[str], source: str) -> list[Finding]:
    """Leave out the annotations of categories other than these."""
    dataset = selection.dataset
    name_of = {category.id: category.name for category in dataset.categories}
    wanted = {category_id for category_id, name in name_of.items() if name in names}
    ids = [annotation.category_id for annotation in dataset.annotations]
    if wanted.issuperset(ids):
        return []
    of_wanted_N = np.fromiter(map(wanted.__contains__, ids), bool, len(ids))
    dropped_N = selection.annotations_N & selection.images_M[selection.rows_N] & ~of_wanted_N
    selection.annotations_N &= of_wanted_N
    counts: Counter[str] = Counter()
    for category_id, count in Counter(compress(ids, dropped_N)).items():
        counts[name_of[category_id]] += count
    return left_out(counts, source)


def drop_empty(selection: Selection, source: str) -> list[Finding]:
    """Leave out the images without an annotation that is still taken."""
    before = selection.images_M.sum()
    with_object_M = np.zeros(len(selection.images_M), bool)
    with_object_M[selection.rows_N[selection.annotations_N]] = True
    selection.images_M &= with_object_M
    count = before - selection.images_M.sum()
    message = f"{count:,} images have no object of the categories"
    return [Finding("image-filtered", "info", source, message, "left out")] if count else []


def keep_some(selection: Selection, limit: int, seed: int, source: str) -> list[Finding]:
    """Leave out images at random until there are `limit`."""
    left_R = np.flatnonzero(selection.images_M)
    if len(left_R) <= limit:
        return []
    images = selection.dataset.images
    names = (f"{source}/{images[row].file_name}" for row in left_R.tolist())
    drawn = left_R[np.argsort(name_bits(names, seed, DRAW), kind="stable")[:limit]]
    selection.images_M = np.zeros_like(selection.images_M)
    selection.images_M[drawn] = True
    message = f"{limit:,} of {len(left_R):,} images are taken, drawn at random with seed {seed}"
    return [Finding("image-limited", "info", source, message, "others left out")]


def name_bits(names: Iterable[str], *key: int) -> np.ndarray:
    """64 random bits for each name, a pure function of it and the key; uint64.

    Two of a hundred thousand names may get the same bits: they depend on 32 bits of the name.
    """
    hashes = [zlib.crc32(name.encode("utf-8", "surrogatepass")) for name in names]
    return keyed_bits(*key, np.array(hashes, dtype=np.int64))


def _find_listed(known: set[str], source: SourceConfig) -> tuple[set[str], list[Finding]]:
    """The image names that the list means, out of those known."""
    by_ending: dict[str, str] | None = None
    found: set[str] = set()
    # Only an example of each: the list may be long, and nothing in it fit.
    counts: Counter[str] = Counter()
    examples: dict[str, str] = {}
    for name in _listed_names(source.image_list):
        if name in known:
            found.add(name)
            continue
        by_ending = _by_ending(known) if by_ending is None else by_ending
        match, code = _find(name, known, by_ending, shown(source.image_list))
        found.update([match] if match else [])
        counts[code] += 1
        examples.setdefault(code, name)
    findings = []
    for code in sorted(_LIST_PROBLEMS.keys() & counts.keys()):
        severity, what, action = _LIST_PROBLEMS[code]
        message = (
            f"{counts[code]:,} names in {shown(source.image_list)} {what}, such as {examples[code]}"
        )
        findings.append(Finding(code, severity, source.name, message, action))
    return found, findings


def _listed_names(location: str) -> Iterator[str]:
    # Line by line: a list of short lines would take many times the memory of the file.
    lines = io.TextIOWrapper(io.BytesIO(read_bytes(location)), "utf-8-sig")
    try:
        for line in lines:
            name = line.strip()
            if name and not name.startswith("#"):
                yield name
    except UnicodeDecodeError as error:
        raise RelayError(
            f"{shown(location)}: not a list of image names ({error.reason} at byte {error.start});"
            " save it as UTF-8 text with one name on each line."
        ) from error


def _endings(name: str, most: int) -> list[str]:
    """A path without 0, 1, 2, ... of its first folders, the longest of at most `most` parts."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".")]
    return ["/".join(parts[start:]) for start in range(max(0, len(parts) - most), len(parts))]


def _by_ending(names: Iterable[str]) -> dict[str, str]:
    """The name of each ending that only one name has; AMBIGUOUS for the others."""
    by_ending: dict[str, str] = {}
    for name in names:
        for ending in _endings(name, INDEXED_PARTS):
            if by_ending.setdefault(ending, name) != name:
                by_ending[ending] = AMBIGUOUS
    return by_ending


def _find(name: str, known: set[str], by_ending: Mapping[str, str], where: str) -> tuple[str, str]:
    """The image that a listed name means, "" if none, and the code of what is to be noted.

    Raises:
        RelayError: it fits several equally well.
    """
    endings = _endings(name, LISTED_PARTS)
    for ending in endings:
        match = ending if ending in known else by_ending.get(ending)
        if match is None:
            continue
        if match != AMBIGUOUS:
            return match, "" if ending in (match, endings[0]) else "image-list-folder"
        if "/" not in ending and len(endings) > 1:
            break  # its folders are none of theirs
        raise RelayError(
            f"{where}: {name!r} fits several images; write the name with more of its folders."
        )
    return "", "image-list-unknown"
