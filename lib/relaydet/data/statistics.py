"""Numbers that describe a dataset: the table of the study, per source and merged.

Shape suffixes: N annotations.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from relaydet.console import shown
from relaydet.data.dataset import Annotation, Dataset, Image

# COCO's limits between small, medium and large objects: `area` in square pixels.
MEDIUM_AREA = 32.0**2
LARGE_AREA = 96.0**2

Summary = dict[str, Any]

_COLUMNS = {
    "images": "{:d}",
    "annotations": "{:d}",
    "crowd": "{:d}",
    "mean_width": "{:.1f}",
    "mean_height": "{:.1f}",
    "mean_object_size": "{:.4f}",
    "objects_per_image": "{:.2f}",
    "small": "{:d}",
    "medium": "{:d}",
    "large": "{:d}",
}


def summarise(dataset: Dataset) -> Summary:
    """Describe a dataset in a few numbers, all of which JSON can hold.

    Objects are the annotations that are not crowds. An empty mean is 0.

    Returns:
        images, annotations (crowds included) and crowd: counts;
        mean_width and mean_height: of the images, in pixels;
        mean_object_size: mean over objects of box area / image area, 0 to 1;
        objects_per_image: mean over all images;
        small, medium, large: objects by `area`, parted at 32 * 32 and 96 * 96 pixels as COCO does.
    """
    return _summarise(dataset.images, dataset.annotations)


def summarise_sources(dataset: Dataset) -> dict[str, Summary]:
    """Describe each source of a merged dataset, by name, in the order of their first images."""
    images: dict[str, list[Image]] = {}
    for image in dataset.images:
        images.setdefault(str(image.source or ""), []).append(image)
    source_of = {image.id: name for name, group in images.items() for image in group}
    annotations: dict[str, list[Annotation]] = {name: [] for name in images}
    for annotation in dataset.annotations:
        annotations[source_of[annotation.image_id]].append(annotation)
    return {name: _summarise(images[name], annotations[name]) for name in images}


def statistics_table(summaries: Mapping[str, Summary]) -> str:
    """A plain-text table of summaries, one line each.

    Args:
        summaries: what `summarise` gave, by the name to print before it.
    """
    header = ["", *(name.replace("_", " ") for name in _COLUMNS)]
    lines = [header]
    for name, summary in summaries.items():
        lines.append([shown(name), *(form.format(summary[key]) for key, form in _COLUMNS.items())])
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    rows = [[line[0].ljust(widths[0]), *map(str.rjust, line[1:], widths[1:])] for line in lines]
    return "\n".join("  ".join(row).rstrip() for row in rows)


def _summarise(images: list[Image], annotations: list[Annotation]) -> Summary:
    objects = [annotation for annotation in annotations if not annotation.iscrowd]
    area_N = np.array([annotation.area for annotation in objects], dtype=np.float64)
    small, below_large = int((area_N < MEDIUM_AREA).sum()), int((area_N < LARGE_AREA).sum())
    return {
        "images": len(images),
        "annotations": len(annotations),
        "crowd": len(annotations) - len(objects),
        "mean_width": _mean([image.width for image in images]),
        "mean_height": _mean([image.height for image in images]),
        "mean_object_size": _mean(_relative_sizes(images, objects)),
        "objects_per_image": len(objects) / max(len(images), 1),
        "small": small,
        "medium": below_large - small,
        "large": len(objects) - below_large,
    }


def _relative_sizes(images: list[Image], objects: list[Annotation]) -> list[float]:
    """Box area / image area of each object; images of unknown size (0) are left out."""
    image_area = {image.id: image.width * image.height for image in images}
    return [
        a.bbox[2] * a.bbox[3] / image_area[a.image_id]
        for a in objects
        if image_area[a.image_id] > 0
    ]


def _mean(values: list[float]) -> float:
    return float(np.mean(values)) if values else 0.0
