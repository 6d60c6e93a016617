"""Scoring beside pycocotools, and the bootstrap's time, in one run on one machine.

5,000 images with 36,781 objects and 500,000 detections, of one class and of eighty: files on disk,
from which each way reads, matches and gives the twelve numbers, in a process of its own. What a
process takes before it reads (imports) is not counted. Then 1,000 draws of a paired bootstrap over
two detectors with 94,000 detections each.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from relaydet.evaluation.records import truth_of
from relaydet.evaluation.results import detections_of
from relaydet.evaluation.score import score
from relaydet.evaluation.significance import bootstrap

IMAGES, OBJECTS, DETECTIONS, FEWER = 5_000, 36_781, 500_000, 94_000
BEST_OF = 2


def write(folder: Path, classes: int, seed: int, detections: int) -> tuple[Path, Path]:
    """Objects anywhere, crowds among them; detections near objects, and some beside them."""
    rng = np.random.default_rng(seed)
    truth, results = folder / f"truth-{classes}.json", folder / f"results-{classes}-{seed}.json"
    fixed = np.random.default_rng(classes)
    image = fixed.integers(1, IMAGES + 1, OBJECTS)
    kind = fixed.integers(1, classes + 1, OBJECTS)
    sides = np.exp(fixed.uniform(np.log(6), np.log(300), (OBJECTS, 2)))
    box = np.round(np.column_stack([fixed.uniform(0, 400, (OBJECTS, 2)), sides]), 2)
    annotations = [
        {
            "id": n + 1,
            "image_id": int(image[n]),
            "category_id": int(kind[n]),
            "bbox": box[n].tolist(),
            "area": round(float(box[n, 2] * box[n, 3]), 2),
            "iscrowd": int(n % 50 == 0),
        }
        for n in range(OBJECTS)
    ]
    _dump(truth, {
        "images": [{"id": i, "width": 640, "height": 480} for i in range(1, IMAGES + 1)],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"class {k}"} for k in range(1, classes + 1)],
    })  # fmt: skip
    near = rng.integers(0, OBJECTS, detections)
    moved = rng.normal(size=(detections, 4)) * rng.choice([1, 4, 40], detections)[:, None]
    found = np.round(box[near] + moved, 2)
    found[:, 2:] = np.abs(found[:, 2:]) + 1
    value = np.round(rng.random(detections), 3)
    _dump(results, [
        {
            "image_id": int(image[near[d]]),
            "category_id": int(kind[near[d]]),
            "bbox": found[d].tolist(),
            "score": float(value[d]),
        }
        for d in range(detections)
    ])  # fmt: skip
    return truth, results


def ours(truth: Path, results: Path) -> list[float]:
    objects = truth_of(truth.read_bytes())
    return list(score(objects, detections_of(results.read_bytes(), objects)).metrics.values())


def reference(truth: Path, results: Path) -> list[float]:
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(str(truth))
        evaluation = COCOeval(coco, coco.loadRes(str(results)), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return evaluation.stats.tolist()


def measure(way: str, truth: Path, results: Path) -> tuple[float, float, list[float]]:
    """CPU seconds, megabytes at most, and the twelve numbers, in a process of its own."""
    command = [sys.executable, __file__, way, str(truth), str(results)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    seconds, megabytes, stats = json.loads(done.stdout)
    return seconds, megabytes, stats


def child(way: str, truth: Path, results: Path) -> None:
    import hotcoco  # noqa: F401  both ways' imports are done before the clock runs
    import pycocotools.cocoeval  # noqa: F401

    began = time.process_time()
    stats = (ours if way == "ours" else reference)(truth, results)
    print(json.dumps([time.process_time() - began, _peak_megabytes(), stats]))


def _peak_megabytes() -> float:
    # Not ru_maxrss: a child starts with its parent's peak there.
    status = Path("/proc/self/status")
    if not status.exists():
        return float("nan")
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status.read_text())[0]) / 1e3


def _dump(path: Path, value: object) -> None:
    path.write_text(json.dumps(value))


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"{IMAGES:,} images, {OBJECTS:,} objects, {DETECTIONS:,} detections")
        print(f"{'classes':>7}  {'way':<12} {'CPU s':>7} {'MB':>6}")
        for classes in (1, 80):
            _scoring(folder, classes)
        _bootstrap(folder)


def _scoring(folder: Path, classes: int) -> None:
    truth, results = write(folder, classes, 0, DETECTIONS)
    best = {
        way: min(measure(way, truth, results) for _ in range(BEST_OF))
        for way in ("ours", "pycocotools")
    }
    for way, (seconds, megabytes, _) in best.items():
        print(f"{classes:>7}  {way:<12} {seconds:7.2f} {megabytes:6.0f}")
    (fast, little, mine), (slow, much, theirs) = best["ours"], best["pycocotools"]
    apart = max(abs(a - b) for a, b in zip(mine, theirs, strict=True))
    print(f"         {slow / fast:.1f} x the speed, 1/{much / little:.1f} of the memory,", end=" ")
    print(f"numbers at most {apart:.0e} apart")


def _bootstrap(folder: Path) -> None:
    files = [write(folder, 1, seed, FEWER) for seed in (1, 2)]
    truth = truth_of(files[0][0].read_bytes())
    found = {path.stem: detections_of(path.read_bytes(), truth) for _, path in files}
    for measures in (["AP50"], ["AP", "AP50", "AR100"]):
        began = time.monotonic()
        result = bootstrap(truth, found, measures)
        seconds = time.monotonic() - began
        print(f"bootstrap of {', '.join(measures)}: {result.draws} draws, 2 detectors,", end=" ")
        print(f"{FEWER:,} detections each: {seconds:.1f} s")


if __name__ == "__main__":
    if len(sys.argv) > 1:
        child(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
    else:
        main()
