"""Merging beside the usual way (json and pycocotools), in one run on one machine.

The files have the size of the study's: 64,115 images with about 300,000 polygon annotations in
several categories, and 18,184 images with 96,143 boxes. Both ways read the two files, keep the
persons, number everything anew, check boxes, and write one file.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from relaydet.config import SourceConfig

BIG, SMALL = (64_115, 301_834), (18_184, 96_143)


def write_coco(path: Path, images: int, annotations: int, polygons: bool) -> None:
    rng = np.random.default_rng(images)
    boxes = np.round(rng.uniform(1, 300, (annotations, 4)), 2).tolist()
    owner = rng.integers(1, images + 1, annotations).tolist()
    category = (1 + (rng.random(annotations) > 0.87) * 2).tolist()
    points = np.round(rng.uniform(0, 600, (annotations, 24)), 2).tolist()
    data = {
        "info": {},
        "licenses": [],
        "categories": [{"id": 1, "name": "person"}, {"id": 3, "name": "car"}],
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "width": 640, "height": 640}
            for i in range(1, images + 1)
        ],
        "annotations": [
            {"id": n, "image_id": owner[n - 1], "category_id": category[n - 1],
             "bbox": boxes[n - 1], "area": boxes[n - 1][2] * boxes[n - 1][3],
             "iscrowd": int(n % 83 == 0)}
            | ({"segmentation": [points[n - 1]]} if polygons else {})
            for n in range(1, annotations + 1)
        ],
    }  # fmt: skip
    path.write_text(json.dumps(data))


def ours(sources: list[Path], out: Path) -> None:
    from relaydet.data.checks.boxes import check_boxes
    from relaydet.data.checks.structure import check_structure
    from relaydet.data.formats import coco, read_source
    from relaydet.data.merge import Part, merge

    parts = []
    for path in sources:
        source = SourceConfig(path.stem, "coco", str(path), "")
        dataset, _ = read_source(source)
        dataset, _ = check_structure(dataset, source.name)
        dataset, _ = check_boxes(dataset, source.name)
        parts.append(Part(source, dataset, ""))
    dataset, _ = merge(parts, ["person"])
    with out.open("wb") as file:
        file.writelines(coco.iter_encoded(dataset))


def usual(sources: list[Path], out: Path) -> None:
    from pycocotools.coco import COCO

    merged: dict[str, list] = {"categories": [{"id": 1, "name": "person"}], "images": []}
    merged["annotations"] = []
    for path in sources:
        coco = COCO(str(path))
        ids: dict[int, int] = {}
        for annotation in coco.loadAnns(coco.getAnnIds(catIds=coco.getCatIds(["person"]))):
            x, y, width, height = annotation["bbox"]
            if width <= 0 or height <= 0 or x < 0 or y < 0:
                continue
            image = annotation["image_id"]
            if image not in ids:
                ids[image] = len(merged["images"]) + 1
                merged["images"].append({**coco.imgs[image], "id": ids[image]})
            number = len(merged["annotations"]) + 1
            merged["annotations"].append({**annotation, "id": number, "image_id": ids[image]})
    with out.open("w") as file:
        json.dump(merged, file)


WAYS: dict[str, Callable[[list[Path], Path], None]] = {
    "relaydet": ours,
    "json + pycocotools": usual,
}


def measure(way: str, folder: Path) -> float:
    """CPU seconds of one way, in a process of its own."""
    command = [sys.executable, __file__, way, str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(answer.splitlines()[-1])


def child(way: str, folder: Path) -> None:
    started = time.process_time()
    WAYS[way]([folder / "big.json", folder / "small.json"], folder / "merged.json")
    print(time.process_time() - started)


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_coco(folder / "big.json", *BIG, polygons=True)
        write_coco(folder / "small.json", *SMALL, polygons=False)
        best = {way: min(measure(way, folder) for _ in range(3)) for way in WAYS}
    base = best["json + pycocotools"]
    print("| merge, check, write | CPU s | times faster |\n|---|---|---|")
    for way, cpu in best.items():
        print(f"| {way} | {cpu:.2f} | {base / cpu:.1f} |")


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 2 else main()
