"""Merging beside the usual way (json and pycocotools), in one run on one machine.

The files have the size of the study's: 64,115 images with 301,834 annotations of two categories
(262,465 persons, of which 3,604 are crowds with run-length masks, the rest with polygons) and
18,184 images with 96,143 boxes. Both ways read the two files, keep the persons, number everything
anew, check ids and boxes, and write one file. What relaydet wrote is then checked: every crowd is
there, and every mask is the bytes that it was.
"""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import msgspec
import numpy as np

from relaydet.config import SourceConfig

IMAGES, ANNOTATIONS, PERSONS, CROWDS = 64_115, 301_834, 262_465, 3_604
SEARCH_IMAGES, SEARCH_BOXES = 18_184, 96_143
SIDE = 640
BEST_OF = 3


def write_big(path: Path) -> None:
    """A COCO file with polygons, crowds and the fields that COCO's own files have."""
    rng = np.random.default_rng(0)
    owner = rng.integers(1, IMAGES + 1, ANNOTATIONS).tolist()
    corners = rng.uniform(0, SIDE - 10, (ANNOTATIONS, 2))
    sizes = 4 + rng.random((ANNOTATIONS, 2)) * (SIDE - 6 - corners)
    boxes = np.round(np.concatenate([corners, sizes], axis=1), 2).tolist()
    points = rng.integers(6, 45, ANNOTATIONS).tolist()
    annotations = []
    for number, box in enumerate(boxes):
        crowd = number < CROWDS
        annotations.append(
            {
                "segmentation": _runs(rng) if crowd else [_polygon(rng, points[number])],
                "area": round(0.6 * box[2] * box[3], 4),
                "iscrowd": int(crowd),
                "image_id": owner[number],
                "bbox": box,
                "category_id": 1 if number < PERSONS else 3,
                "id": 1_000_000 + number,
            }
        )
    order = rng.permutation(ANNOTATIONS).tolist()
    _write(path, IMAGES, [annotations[i] for i in order], ["person", "", "car"])


def write_search(path: Path) -> None:
    """A COCO file with boxes only."""
    rng = np.random.default_rng(1)
    owner = rng.integers(1, SEARCH_IMAGES + 1, SEARCH_BOXES).tolist()
    boxes = rng.integers(5, 300, (SEARCH_BOXES, 4)).tolist()
    annotations = [
        {"id": n, "image_id": owner[n - 1], "category_id": 1, "bbox": boxes[n - 1],
         "area": boxes[n - 1][2] * boxes[n - 1][3], "iscrowd": 0}
        for n in range(1, SEARCH_BOXES + 1)
    ]  # fmt: skip
    _write(path, SEARCH_IMAGES, annotations, ["person"])


def _polygon(rng: np.random.Generator, points: int) -> list[float]:
    return np.round(rng.uniform(0, SIDE, 2 * points), 2).tolist()


def _runs(rng: np.random.Generator) -> dict:
    return {"counts": rng.integers(1, 900, 300).tolist(), "size": [SIDE, SIDE]}


def _write(path: Path, images: int, annotations: list[dict], categories: list[str]) -> None:
    data = {
        "info": {"year": 2017},
        "licenses": [{"url": "http://example.org/by", "id": 1, "name": "Attribution"}],
        "images": [
            {"license": 1, "file_name": f"{n:012d}.jpg", "height": SIDE, "width": SIDE, "id": n,
             "coco_url": f"http://example.org/train/{n:012d}.jpg",
             "date_captured": "2013-11-14 11:18:45",
             "flickr_url": f"http://example.org/photos/{n}_z.jpg"}
            for n in range(1, images + 1)
        ],
        "annotations": annotations,
        "categories": [
            {"supercategory": name, "id": n, "name": name}
            for n, name in enumerate(categories, start=1)
            if name
        ],
    }  # fmt: skip
    path.write_text(json.dumps(data))


def ours(sources: list[Path], out: Path) -> None:
    """What the merge job does, without image files: there are none."""
    from relaydet.data.categories import category_names, parse_categories, take_categories
    from relaydet.data.checks.boxes import check_boxes
    from relaydet.data.checks.structure import check_structure
    from relaydet.data.dataset import gc_paused
    from relaydet.data.formats import coco, read_source
    from relaydet.data.merge import Part, merge
    from relaydet.data.narrow import narrow

    with gc_paused():
        parts = []
        for path in sources:
            source = SourceConfig(path.stem, "coco", str(path), "")
            dataset, _ = read_source(source)
            dataset, _ = check_structure(dataset, source.name)
            dataset, _, _ = take_categories(dataset, source)
            renames = parse_categories(category_names([dataset]), ["person"])
            dataset, _ = narrow(dataset, source, renames, True, None, 0)
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


def measure(way: str, folder: Path) -> tuple[float, float]:
    """CPU seconds and peak memory in MB of one way, in a process of its own."""
    command = [sys.executable, __file__, way, str(folder)]
    answer = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    cpu, memory = answer.splitlines()[-1].split()
    return float(cpu), float(memory)


def child(way: str, folder: Path) -> None:

    import relaydet.data.merge
    import relaydet.data.narrow  # noqa: F401  what takes time to import is not what is measured

    started = time.process_time()
    WAYS[way]([folder / "big.json", folder / "search.json"], folder / "merged.json")
    print(time.process_time() - started, _peak_megabytes())


def _peak_megabytes() -> float:
    # Not ru_maxrss: a child starts with its parent's peak there.
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1e3


def crowds_and_masks(folder: Path) -> str:
    """Compare what relaydet wrote with what it read, as bytes."""
    ours([folder / "big.json", folder / "search.json"], folder / "merged.json")
    was = _masks(folder / "big.json", 1)
    now = _masks(folder / "merged.json", 1)
    crowds = (folder / "merged.json").read_bytes().count(b'"iscrowd":1')
    return (
        f"{crowds:,} of {CROWDS:,} crowds and {sum((was & now).values()):,} of"
        f" {sum(was.values()):,} masks are there, byte for byte."
    )


class _Annotation(msgspec.Struct):
    category_id: int
    segmentation: msgspec.Raw = msgspec.Raw(b"")


class _File(msgspec.Struct):
    annotations: list[_Annotation]


def _masks(path: Path, category: int) -> Counter[bytes]:
    file = msgspec.json.decode(path.read_bytes(), type=_File)
    return Counter(
        hashlib.sha256(bytes(a.segmentation)).digest()
        for a in file.annotations
        if a.category_id == category and bytes(a.segmentation)
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_big(folder / "big.json")
        write_search(folder / "search.json")
        # In turns, so that a busy moment of the machine meets both.
        runs: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
        for _ in range(BEST_OF):
            for way in WAYS:
                runs[way].append(measure(way, folder))
        size = (folder / "big.json").stat().st_size / 1e6
        checked = crowds_and_masks(folder)
    best = {way: tuple(map(min, zip(*measured, strict=True))) for way, measured in runs.items()}
    base = best["json + pycocotools"][0]
    print(f"larger file: {size:.0f} MB; best of {BEST_OF}; {checked}\n")
    print("| merge, check, write | CPU s | times faster | peak MB | of the larger file |")
    print("|---|---|---|---|---|")
    for way, (cpu, memory) in best.items():
        print(f"| {way} | {cpu:.2f} | {base / cpu:.1f} | {memory:.0f} | {memory / size:.1f}x |")


if __name__ == "__main__":
    child(sys.argv[1], Path(sys.argv[2])) if len(sys.argv) > 2 else main()
