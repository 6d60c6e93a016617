"""The images of a merged dataset, found by what is in them, and each as a page to look at.

`Catalogue` finds the images that filters leave; `Pages` draws and describes one. Neither knows a
screen: `viewing.browse` puts widgets over them.

Shape suffixes: H height, W width, C channels, M images, N annotations, K rows of a selection.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from msgspec import UNSET
from PIL import Image as Pillow

from relaydet.console import markup
from relaydet.data.dataset import Annotation, Dataset, Image
from relaydet.data.distributions import Places, places
from relaydet.data.findings import Finding
from relaydet.data.images import Images
from relaydet.data.statistics import LARGE_AREA, MEDIUM_AREA
from relaydet.viewing.draw import draw_boxes, with_legend
from relaydet.viewing.samples import Legend, name_in_source, read_pixels

SIZES = ("small", "medium", "large")
_WIDTH, _HEIGHT = 800, 640  # of a drawn image, in pixels at most
_FINDINGS_SHOWN = 20


@dataclass(frozen=True)
class Filters:
    """Which images to show; None lets every image pass."""

    source: str | None = None
    category: str | None = None
    """Images with an object or a crowd of this category."""
    size: str | None = None
    """small, medium or large: images with such an object (of that category), as COCO parts them by
    area; crowds have no size."""
    code: str | None = None
    """Images that a finding of this code is about."""


@dataclass(frozen=True, eq=False)
class Catalogue:
    """Where to find the images of a dataset by what is in them."""

    places: Places
    categories: tuple[str, ...]
    category_N: np.ndarray
    """Position in `categories` of each annotation's category; int64."""
    size_N: np.ndarray
    """Position in SIZES of each annotation, -1 for crowds; int64."""
    findings: dict[int, list[Finding]]
    """By row: what was found about an image that is in the dataset."""

    rows_of_code: dict[str, np.ndarray]
    """Rows that each code was found in, ascending int64; the most frequent code first."""

    def select(self, filters: Filters) -> np.ndarray:
        """Rows of `dataset.images` that pass all filters, ascending: int64 [K]."""
        source_M = self.places.source_M
        passes_M = np.ones(len(source_M), dtype=bool)
        if filters.source is not None:
            passes_M &= source_M == _position(self.places.sources, filters.source)
        if filters.category is not None or filters.size is not None:
            fits_N = np.ones(len(self.category_N), dtype=bool)
            if filters.category is not None:
                fits_N &= self.category_N == _position(self.categories, filters.category)
            if filters.size is not None:
                fits_N &= self.size_N == SIZES.index(filters.size)
            with_object_M = np.zeros_like(passes_M)
            with_object_M[self.places.image_N[fits_N]] = True
            passes_M &= with_object_M
        rows = np.flatnonzero(passes_M)
        if filters.code is None:
            return rows
        about = self.rows_of_code.get(filters.code, np.zeros(0, np.int64))
        return np.intersect1d(rows, about, assume_unique=True)


def catalogue(dataset: Dataset, findings: Sequence[Finding] = ()) -> Catalogue:
    """Look through a merged dataset once, so that filters need only compare arrays.

    Findings about no image, or about one that was left out, cannot be browsed.
    """
    position_of = {category.id: place for place, category in enumerate(dataset.categories)}
    area_N = np.array([a.area for a in dataset.annotations], dtype=np.float64)
    crowd_N = np.array([a.iscrowd for a in dataset.annotations], dtype=bool)
    size_N = np.searchsorted([MEDIUM_AREA, LARGE_AREA], area_N, side="right")
    by_row = _findings_by_row(dataset.images, findings)
    return Catalogue(
        places(dataset),
        tuple(category.name for category in dataset.categories),
        np.array([position_of[a.category_id] for a in dataset.annotations], dtype=np.int64),
        np.where(crowd_N, -1, size_N),
        by_row,
        _rows_of_code(by_row),
    )


def _findings_by_row(
    images: Sequence[Image], findings: Sequence[Finding]
) -> dict[int, list[Finding]]:
    row_of = {(i.source or "", name_in_source(i)): row for row, i in enumerate(images)}
    by_row: dict[int, list[Finding]] = {}
    for finding in findings:
        row = row_of.get((finding.source, finding.image)) if finding.image is not None else None
        if row is not None:
            by_row.setdefault(row, []).append(finding)
    return by_row


def _rows_of_code(by_row: Mapping[int, Sequence[Finding]]) -> dict[str, np.ndarray]:
    rows: dict[str, set[int]] = {}
    for row, found in by_row.items():
        for finding in found:
            rows.setdefault(finding.code, set()).add(row)
    most_first = sorted(rows.items(), key=lambda item: (-len(item[1]), item[0]))
    return {code: np.array(sorted(those), dtype=np.int64) for code, those in most_first}


class Pages:
    """Each image of a dataset as it is shown: drawn, and described. Reads only what it shows."""

    def __init__(
        self, dataset: Dataset, images: Mapping[str, Images], catalogue: Catalogue
    ) -> None:
        self.dataset = dataset
        self._images = images
        self._findings = catalogue.findings
        self._legend = Legend(dataset.categories)
        image_N = catalogue.places.image_N
        # Annotations in the order of their images; those of row r start at starts[r].
        self._order_N = np.argsort(image_N, kind="stable")
        self._starts = np.searchsorted(image_N[self._order_N], np.arange(len(dataset.images) + 1))

    def annotations(self, row: int) -> list[Annotation]:
        """The annotations of the image in a row of `dataset.images`."""
        mine = self._order_N[self._starts[row] : self._starts[row + 1]]
        return [self.dataset.annotations[place] for place in mine]

    def render(self, row: int) -> Pillow.Image:
        """An image with its boxes, and a legend of what is in it.

        Raises:
            RelayError: the image cannot be read.
        """
        pixels_HWC = read_pixels(self._images, self.dataset.images[row])
        height, width = pixels_HWC.shape[:2]
        fitting = max(1, min(_WIDTH, round(width * _HEIGHT / height)))
        annotations = self.annotations(row)
        picture = draw_boxes(pixels_HWC, self._legend.boxes(annotations), fitting)
        return with_legend(picture, self._legend.keys(annotations))

    def describe(self, row: int) -> str:
        """What is in an image, its licence and its findings, as HTML."""
        image = self.dataset.images[row]
        lines = [
            f"<b>{markup(name_in_source(image))}</b> of {markup(image.source or 'no source')},"
            f" {image.width} x {image.height} pixels: {markup(self.contents(row))}"
        ]
        lines += [f"Licence: {text}" for text in [self._licence(image)] if text]
        found = self._findings.get(row, [])
        for finding in found[:_FINDINGS_SHOWN]:
            what = f"{finding.severity}: {finding.code}, {finding.action}: {finding.message}"
            lines.append(markup(what))
        if len(found) > _FINDINGS_SHOWN:
            lines.append(f"and {len(found) - _FINDINGS_SHOWN} more findings")
        return "<br>".join(lines)

    def contents(self, row: int) -> str:
        """The objects of an image in words, for those who cannot see it: "3 person, 1 crowd"."""
        names = {category.id: category.name for category in self.dataset.categories}
        annotations = self.annotations(row)
        counts = Counter(names[a.category_id] for a in annotations if not a.iscrowd)
        crowds = Counter(f"crowd of {names[a.category_id]}" for a in annotations if a.iscrowd)
        parts = [f"{count} {name}" for name, count in (counts + crowds).items()]
        return ", ".join(parts) or "no objects"

    def _licence(self, image: Image) -> str:
        """Name and address of an image's licence, or what its source says of all, as HTML."""
        of_image = {} if image.license is UNSET else self._licences().get(bytes(image.license), {})
        sources = self.dataset.info.get("sources")
        facts = sources.get(image.source) if isinstance(sources, dict) else None
        of_source = facts.get("licence") if isinstance(facts, dict) else None
        address = str(of_image.get("url") or "")
        name = markup(str(of_image.get("name") or of_source or address))
        if address.startswith(("http://", "https://")):
            link = f'<a href="{markup(address)}" target="_blank" rel="noopener noreferrer">'
            return f"{link}{name}</a>"
        return " ".join(part for part in (name, markup(address)) if part)

    def _licences(self) -> dict[bytes, dict[str, Any]]:
        listed = (entry for entry in self.dataset.licenses if entry.get("id") is not None)
        return {msgspec.json.encode(entry["id"]): entry for entry in listed}


def _position(names: Sequence[str], name: str) -> int:
    """Position of a name; -1, which nothing has, if it is not there."""
    return names.index(name) if name in names else -1
