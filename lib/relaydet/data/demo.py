"""The generated demo set: three folders of real files in two real formats, from a seed.

`street` and `inhouse` are COCO; `search` is CUHK-SYSU's folder of .mat files, nested as the real
ones are (https://github.com/ShuangLI59/person_search). A scene depends on (seed, set, index) alone,
so the same call writes the same bytes.
"""

from __future__ import annotations

import io
import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from scipy.io import savemat

from relaydet.config import SourceConfig
from relaydet.data.demo_scenes import (
    SUPERSAMPLING,
    Domain,
    Look,
    Scene,
    Visible,
    draw_scene,
    random_look,
)

VERSION = 3
LICENCE = "CC0-1.0"
TRAIN_SHARE = 0.62
GALLERY = 50
EMPTY = np.empty((1, 0))

STREET = Domain(
    number=1,
    size=(192, 144),
    portrait=1 / 3,
    person_height=(0.4, 0.95),
    persons=(1, 4),
    clutter=(1, 3),
    backgrounds=(0.3, 0.25, 0.2, 0.25),
    saturation=(0.3, 0.9),
    warmth=0.0,
    night=0.05,
    crowd=0.15,
)
SEARCH = Domain(
    number=2,
    size=(288, 216),
    portrait=0.0,
    person_height=(0.18, 0.42),
    persons=(3, 7),
    clutter=(2, 5),
    backgrounds=(0.35, 0.25, 0.2, 0.2),
    saturation=(0.2, 0.8),
    warmth=0.0,
    night=0.05,
)
INHOUSE = Domain(
    number=3,
    size=(224, 168),
    portrait=0.0,
    person_height=(0.28, 0.65),
    persons=(1, 5),
    clutter=(1, 4),
    backgrounds=(0.2, 0.2, 0.35, 0.25),
    saturation=(0.2, 0.7),
    warmth=0.04,
    night=0.03,
)
STREET_CATEGORIES = {"person": 1, "car": 3, "lamp": 14}
INHOUSE_CATEGORIES = {"person": 17}

Job = tuple[Domain, int]
Progress = Callable[[Iterable[Job]], Iterable[Job]]


@dataclass
class _Coco:
    """A COCO file in the making."""

    name: str
    categories: dict[str, int]
    images: list[dict[str, Any]] = field(default_factory=list)
    annotations: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True)
class _Seen:
    """One person in a scene of the search set; `box` is [x, y, w, h], counted from 1."""

    box: tuple[int, int, int, int]
    hard: bool
    identity: int


def write_demo(
    folder: Path,
    seed: int = 0,
    sizes: tuple[int, int, int] = (240, 80, 80),
    *,
    progress: Progress = iter,
) -> tuple[SourceConfig, SourceConfig, SourceConfig]:
    """Write the demo set, unless a finished one with the same seed and sizes is there.

    Args:
        folder: where the folders street, search and inhouse go; other files there stay.
        seed: seed of every scene.
        sizes: number of scenes of street, search and inhouse.
        progress: wrapped around the loop over the scenes, such as `tqdm`.

    Returns:
        The sources street (COCO: few large people, other categories, crowds), search (CUHK-SYSU:
        many small people) and inhouse (COCO: held out for evaluation).
    """
    folder = Path(folder).absolute()
    done = folder / "demo.json"
    wanted = {"version": VERSION, "seed": seed, "sizes": list(sizes)}
    if not _holds(done, wanted):
        done.unlink(missing_ok=True)
        _write_sets(folder, seed, sizes, progress)
        done.write_text(json.dumps(wanted) + "\n")
    street, inhouse = (_coco_source(folder / name) for name in ("street", "inhouse"))
    search = SourceConfig(
        name="search",
        format="cuhk_sysu",
        annotations=str(folder / "search" / "annotation"),
        images=str(folder / "search" / "Image" / "SSM"),
        licence=LICENCE,
    )
    return street, search, inhouse


def _coco_source(folder: Path) -> SourceConfig:
    return SourceConfig(
        name=folder.name,
        format="coco",
        annotations=str(folder / "annotations.json"),
        images=str(folder / "images"),
        licence=LICENCE,
    )


def _holds(path: Path, wanted: dict[str, Any]) -> bool:
    try:
        return json.loads(path.read_text()) == wanted
    except (OSError, ValueError):
        return False


def _write_sets(folder: Path, seed: int, sizes: tuple[int, int, int], progress: Progress) -> None:
    street, inhouse = _Coco("street", STREET_CATEGORIES), _Coco("inhouse", INHOUSE_CATEGORIES)
    search: dict[int, list[_Seen]] = {}
    image_folders = {
        STREET.number: folder / "street" / "images",
        SEARCH.number: folder / "search" / "Image" / "SSM",
        INHOUSE.number: folder / "inhouse" / "images",
    }
    for images in image_folders.values():
        images.mkdir(parents=True, exist_ok=True)
        # Scenes of an earlier seed have other names and would stay behind unannotated.
        for old in images.glob("*.jpg"):
            old.unlink()
    jobs = [
        (domain, index)
        for domain, size in zip((STREET, SEARCH, INHOUSE), sizes, strict=True)
        for index in range(size)
    ]
    for domain, index in progress(jobs):
        cast = _cast(seed, index) if domain is SEARCH else ()
        scene = draw_scene(_generator(seed, domain.number, index), domain, cast)
        if domain is SEARCH:
            name = _search_name(seed, index)
            search[index] = _search_boxes(scene, index)
        else:
            name = _add_to_coco(street if domain is STREET else inhouse, scene, index)
        path = image_folders[domain.number] / name
        Image.fromarray(scene.image).save(path, quality=scene.jpeg_quality)
    _write_coco(folder / "street" / "annotations.json", street)
    _write_coco(folder / "inhouse" / "annotations.json", inhouse)
    _write_search(folder / "search" / "annotation", seed, search)


def _generator(*key: int) -> np.random.Generator:
    return np.random.default_rng(key)


# COCO ---------------------------------------------------------------------------------------------


def _add_to_coco(coco: _Coco, scene: Scene, index: int) -> str:
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
    x0, y0, x1, y1 = (edge / SUPERSAMPLING for edge in _edges(thing.mask))
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


def _edges(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First and last + 1 column and row of a mask, as x0, y0, x1, y1."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


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
    x0, y0, x1, y1 = _edges(mask)
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


def _write_coco(path: Path, coco: _Coco) -> None:
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


# CUHK-SYSU ----------------------------------------------------------------------------------------


def _search_name(seed: int, index: int) -> str:
    """Name of a scene; about one number in ten is missing, as in the real set."""
    return f"s{index + 1 + (index + seed % 9) // 9}.jpg"


def _in_train(seed: int, index: int) -> bool:
    start = _generator(seed, SEARCH.number).random()
    return (start + index * 0.6180339887) % 1 < TRAIN_SHARE


def _cast(seed: int, index: int) -> list[tuple[int, Look]]:
    """Three of the five identities that eight scenes in a row share, apart for train and test."""
    first = 1 + 10 * (index // 8) + (0 if _in_train(seed, index) else 5)
    chosen = first + _generator(seed, SEARCH.number, index, 1).permutation(5)[:3]
    return [
        (int(i), random_look(_generator(seed, SEARCH.number, int(i), 2), SEARCH.saturation))
        for i in chosen
    ]


def _search_boxes(scene: Scene, index: int) -> list[_Seen]:
    height, width = scene.image.shape[:2]
    seen = []
    for thing in scene.visible:
        if thing.label != "person":
            continue
        x0, y0, x1, y1 = _edges(thing.mask)
        x, y = x0 // SUPERSAMPLING + 1, y0 // SUPERSAMPLING + 1
        right, bottom = -(-x1 // SUPERSAMPLING) + 1, -(-y1 // SUPERSAMPLING) + 1
        # In the real files no box reaches beyond x + w = width.
        box = (x, y, min(right, width) - x, min(bottom, height) - y)
        hard = thing.share < 0.65 or box[3] < 0.12 * height
        seen.append(_Seen(box, hard, thing.identity))
    # Every loader of the real files has to drop some boxes without an area.
    empty = {1: (31, 60, 0, 24), 4: (52, 71, 12, 0)}
    return [*seen, _Seen(empty[index], False, -1)] if index in empty else seen


def _struct(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> np.ndarray:
    """A MATLAB 1xn struct."""
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in names])
    for number, row in enumerate(rows):
        array[0, number] = row
    return array


def _cells(values: Sequence[Any]) -> np.ndarray:
    """A MATLAB nx1 cell array."""
    array = np.empty((len(values), 1), dtype=object)
    for number, value in enumerate(values):
        array[number, 0] = value
    return array


def _box(seen: _Seen) -> np.ndarray:
    """The 1x4 box, as uint8 where that holds every value: MATLAB's smallest type."""
    return np.array([seen.box], dtype=np.uint8 if max(seen.box) < 256 else np.uint16)


def _number(value: int) -> np.ndarray:
    return np.array([[value]], dtype=np.uint8)


Appearances = dict[int, list[tuple[str, _Seen]]]


def _appearances(seed: int, search: dict[int, list[_Seen]], train: bool) -> Appearances:
    """Where each identity of one part is seen; once is no use for a search, so it is no label."""
    found: Appearances = defaultdict(list)
    for index, people in search.items():
        for seen in people:
            if seen.identity > 0 and _in_train(seed, index) == train:
                found[seen.identity].append((_search_name(seed, index), seen))
    return {identity: found[identity] for identity in sorted(found) if len(found[identity]) > 1}


def _persons(found: Appearances) -> np.ndarray:
    rows = []
    for identity, places in found.items():
        scenes = [(name, _box(seen), _number(seen.hard)) for name, seen in places]
        scene = _struct(("imname", "idlocate", "ishard"), scenes)
        rows.append((f"p{identity}", _number(len(places)), scene))
    return _struct(("idname", "nAppear", "scene"), rows)


def _queries(seed: int, found: Appearances, pool: list[str]) -> np.ndarray:
    """One query for each identity; the gallery lists its other images, then images without it."""
    rows = []
    for identity, places in found.items():
        (name, seen), *others = places
        query = (name, _box(seen), _number(seen.hard), f"p{identity}")
        gallery = [(other, _box(at), _number(at.hard)) for other, at in others]
        listed = {other for other, _ in places}
        rest = [other for other in pool if other not in listed]
        order = _generator(seed, SEARCH.number, identity, 3).permutation(len(rest))
        gallery += [(rest[n], EMPTY, EMPTY) for n in order[: GALLERY - len(gallery)]]
        rows.append(
            (
                _struct(("imname", "idlocate", "ishard", "idname"), [query]),
                _struct(("imname", "idlocate", "ishard"), gallery),
            )
        )
    return _struct(("Query", "Gallery"), rows)


def _write_search(folder: Path, seed: int, search: dict[int, list[_Seen]]) -> None:
    images = []
    for index, people in search.items():
        boxes = [(_box(seen), _number(seen.hard)) for seen in people]
        box = _struct(("idlocate", "ishard"), boxes)
        images.append((_search_name(seed, index), _number(len(people)), box))
    pool = [_search_name(seed, index) for index in search if not _in_train(seed, index)]
    train, test = (_appearances(seed, search, part) for part in (True, False))
    parts = folder / "test" / "train_test"
    parts.mkdir(parents=True, exist_ok=True)
    _write_mat(folder / "Images.mat", "Img", _struct(("imname", "nAppear", "box"), images))
    _write_mat(folder / "Person.mat", "Person", _persons({**train, **test}))
    _write_mat(folder / "pool.mat", "pool", _cells([_cells([name]) for name in pool]))
    rows = _persons(train)
    _write_mat(parts / "Train.mat", "Train", _cells([rows[:, n : n + 1] for n in range(rows.size)]))
    _write_mat(parts / "TestG50.mat", "TestG50", _queries(seed, test, pool))


def _write_mat(path: Path, name: str, value: np.ndarray) -> None:
    buffer = io.BytesIO()
    savemat(buffer, {name: value}, do_compression=True)
    # The first 116 bytes are a comment with the time of writing; the same call writes the same.
    header = b"MATLAB 5.0 MAT-file, written by relaydet".ljust(116)
    path.write_bytes(header + buffer.getvalue()[116:])
