"""Writing a demo set as a COCO file, with polygons for persons and run lengths for crowds."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from relaydet.data.demo.stage import SUPERSAMPLING, Scene, Visible, edges


@dataclass
class CocoFile:
    """A COCO file in the making."""

    name: str
    categories: dict[str, int]
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)


def add_to_coco(coco: CocoFile, scene: Scene, index: int) -> str:
    """Add a scene's image and annotations; return the image's file name."""
    image_id = 139 + 37 * index
    name = f"{image_id:012d}.jpg"
    height, width = scene.image.shape[:2]
    coco.images.append(
        {
            "license": 1 + index % 2,
            "file_name": name,
            "coco_url": f"http://demo.invalid/{coco.name}/{name}",
            "height": height,
            "width": width,
            "date_captured": f"2024-{1 + index % 12:02d}-{1 + index % 28:02d} 12:00:00",
            "flickr_url": f"http://demo.invalid/photos/{image_id}",
            "id": image_id,
        }
    )
    for number, thing in enumerate(scene.visible):
        if thing.label in coco.categories or thing.label == "crowd":
            record = _coco_annotation(thing, coco.categories)
            coco.annotations.append({**record, "image_id": image_id, "id": image_id * 100 + number})
    return name


def _coco_annotation(thing: Visible, categories: dict[str, int]) -> dict[str, Any]:
    crowd = thing.label == "crowd"
    x0, y0, x1, y1 = (edge / SUPERSAMPLING for edge in edges(thing.mask))
    middle = SUPERSAMPLING // 2
    pixels = thing.mask[middle::SUPERSAMPLING, middle::SUPERSAMPLING]
    fine_area = float(thing.mask.sum()) / SUPERSAMPLING**2
    return {
        "segmentation": _rle(pixels) if crowd else _polygons(thing.mask),
        "area": float(pixels.sum()) if crowd else round(fine_area, 4),
        "iscrowd": int(crowd),
        "bbox": [round(value, 2) for value in (x0, y0, x1 - x0, y1 - y0)],
        "category_id": categories["person" if crowd else thing.label],
    }


def _rle(mask: np.ndarray) -> dict[str, list[int]]:
    """COCO's uncompressed run lengths: column by column, beginning with a run of zeros."""
    flat = mask.ravel(order="F").astype(np.int8)
    changes = np.flatnonzero(np.diff(np.concatenate([[0], flat, [-1]])))
    counts = np.diff(changes, prepend=0)
    return {"counts": counts.tolist(), "size": list(mask.shape)}


def _polygons(mask: np.ndarray) -> list[list[float]]:
    """Outline a mask by strips that have one run of pixels in each row, in final pixels.

    A strip ends where its run splits or merges, so a figure becomes several polygons and no
    polygon has a hole.
    """
    x0, y0, x1, y1 = edges(mask)
    first, middle = y0 // SUPERSAMPLING, SUPERSAMPLING // 2
    rows = mask[first * SUPERSAMPLING + middle : y1 : SUPERSAMPLING, x0:x1].astype(np.int8)
    changes = np.argwhere(np.diff(rows, prepend=0, append=0))
    runs_of: list[list[tuple[float, float, float]]] = [[] for _ in rows]
    for (row, a), (_, b) in changes.reshape(-1, 2, 2).tolist():
        run = (float(first + row), (x0 + a) / SUPERSAMPLING, (x0 + b) / SUPERSAMPLING)
        runs_of[row].append(run)
    strips: list[list[tuple[float, float, float]]] = []
    growing: list[list[tuple[float, float, float]]] = []
    for runs in runs_of:
        above = [[s for s in growing if s[-1][1] < b and a < s[-1][2]] for _, a, b in runs]
        met = [id(strip) for group in above for strip in group]
        growing = []
        for run, group in zip(runs, above, strict=True):
            if len(group) == 1 and met.count(id(group[0])) == 1:
                group[0].append(run)
            else:
                group = [[run]]
                strips.append(group[0])
            growing.append(group[0])
    return [_outline(s) for s in strips if sum(b - a for _, a, b in s) > 1] or [
        [c / SUPERSAMPLING for c in (x0, y0, x1, y0, x1, y1, x0, y1)]
    ]


def _outline(strip: list[tuple[float, float, float]]) -> list[float]:
    """Go down the left side of a strip and up the right side, by every second row."""
    top, bottom = strip[0], strip[-1]
    sides = [(y + 0.5, a, b) for y, a, b in strip[1:-1:2]]
    sides = [top, *sides, (bottom[0] + 1, bottom[1], bottom[2])]
    left = [(a, y) for y, a, _ in sides]
    right = [(b, y) for y, _, b in reversed(sides)]
    return [round(value, 2) for point in [*left, *right] for value in point]


def write_coco(path: Path, coco: CocoFile) -> None:
    """Write a COCO file as a JSON document."""
    licences = ("Attribution License", "No known copyright restrictions")
    document = {
        "info": {
            "description": f"relaydet demo set: {coco.name}",
            "url": "http://demo.invalid",
            "version": "1.0",
            "year": 2024,
            "contributor": "relaydet",
            "date_created": "2024/01/01",
        },
        "licenses": [
            {"url": f"http://demo.invalid/licenses/{number}", "id": number, "name": name}
            for number, name in enumerate(licences, 1)
        ],
        "images": coco.images,
        "annotations": coco.annotations,
        "categories": [
            {"supercategory": "person" if name == "person" else "outdoor", "id": id_, "name": name}
            for name, id_ in coco.categories.items()
        ],
    }
    path.write_text(json.dumps(document, separators=(",", ":")))
