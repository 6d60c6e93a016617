"""Writing the demo's search set as CUHK-SYSU's folder of .mat files, nested as the real ones are.

See https://github.com/ShuangLI59/person_search.
"""

from __future__ import annotations

import io
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.io import savemat

from relaydet.data.demo.domains import SEARCH, generator
from relaydet.data.demo.figures import Look, random_look
from relaydet.data.demo.stage import SUPERSAMPLING, Scene, edges

TRAIN_SHARE = 0.62
GALLERY = 50
EMPTY = np.empty((1, 0))


@dataclass(frozen=True)
class Seen:
    """One person in a scene of the search set; `box` is [x, y, w, h], counted from 1."""

    box: tuple[int, int, int, int]
    hard: bool
    identity: int


Appearances = dict[int, list[tuple[str, Seen]]]


def search_name(seed: int, index: int) -> str:
    """Name of a scene; about one number in ten is missing, as in the real set."""
    return f"s{index + 1 + (index + seed % 9) // 9}.jpg"


def _in_train(seed: int, index: int) -> bool:
    start = generator(seed, SEARCH.number).random()
    return (start + index * 0.6180339887) % 1 < TRAIN_SHARE


def cast_of(seed: int, index: int) -> list[tuple[int, Look]]:
    """Three of the five identities that eight scenes in a row share, apart for train and test."""
    first = 1 + 10 * (index // 8) + (0 if _in_train(seed, index) else 5)
    chosen = first + generator(seed, SEARCH.number, index, 1).permutation(5)[:3]
    return [
        (int(i), random_look(generator(seed, SEARCH.number, int(i), 2), SEARCH.saturation))
        for i in chosen
    ]


def search_boxes(scene: Scene, index: int) -> list[Seen]:
    """List the boxes of a scene as its file shall hold them."""
    height, width = scene.image.shape[:2]
    seen = []
    for thing in scene.visible:
        if thing.label != "person":
            continue
        x0, y0, x1, y1 = edges(thing.mask)
        x, y = x0 // SUPERSAMPLING + 1, y0 // SUPERSAMPLING + 1
        right, bottom = -(-x1 // SUPERSAMPLING) + 1, -(-y1 // SUPERSAMPLING) + 1
        # In the real files no box reaches beyond x + w = width.
        box = (x, y, min(right, width) - x, min(bottom, height) - y)
        hard = thing.share < 0.65 or box[3] < 0.12 * height
        seen.append(Seen(box, hard, thing.identity))
    # Every loader of the real files has to drop some boxes without an area.
    empty = {1: (31, 60, 0, 24), 4: (52, 71, 12, 0)}
    return [*seen, Seen(empty[index], False, -1)] if index in empty else seen


def write_search(folder: Path, seed: int, search: dict[int, list[Seen]]) -> None:
    """Write CUHK-SYSU's .mat files.

    Args:
        folder: where they go, with a folder test/train_test below it.
        seed: seed of the set.
        search: index of a scene -> the people in it.
    """
    images = []
    for index, people in search.items():
        boxes = [(_box(seen), _number(seen.hard)) for seen in people]
        box = _struct(("idlocate", "ishard"), boxes)
        images.append((search_name(seed, index), _number(len(people)), box))
    pool = [search_name(seed, index) for index in search if not _in_train(seed, index)]
    train, test = (_appearances(seed, search, part) for part in (True, False))
    parts = folder / "test" / "train_test"
    parts.mkdir(parents=True, exist_ok=True)
    _write_mat(folder / "Images.mat", "Img", _struct(("imname", "nAppear", "box"), images))
    _write_mat(folder / "Person.mat", "Person", _persons({**train, **test}))
    _write_mat(folder / "pool.mat", "pool", _cells([_cells([name]) for name in pool]))
    rows = _persons(train)
    _write_mat(parts / "Train.mat", "Train", _cells([rows[:, n : n + 1] for n in range(rows.size)]))
    _write_mat(parts / "TestG50.mat", "TestG50", _queries(seed, test, pool))


def _appearances(seed: int, search: dict[int, list[Seen]], train: bool) -> Appearances:
    """Where each identity of one part is seen; once is no use for a search, so it is no label."""
    found: Appearances = defaultdict(list)
    for index, people in search.items():
        for seen in people:
            if seen.identity > 0 and _in_train(seed, index) == train:
                found[seen.identity].append((search_name(seed, index), seen))
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
        order = generator(seed, SEARCH.number, identity, 3).permutation(len(rest))
        gallery += [(rest[n], EMPTY, EMPTY) for n in order[: GALLERY - len(gallery)]]
        rows.append(
            (
                _struct(("imname", "idlocate", "ishard", "idname"), [query]),
                _struct(("imname", "idlocate", "ishard"), gallery),
            )
        )
    return _struct(("Query", "Gallery"), rows)


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


def _box(seen: Seen) -> np.ndarray:
    """The 1x4 box, as uint8 where that holds every value: MATLAB's smallest type."""
    return np.array([seen.box], dtype=np.uint8 if max(seen.box) < 256 else np.uint16)


def _number(value: int) -> np.ndarray:
    return np.array([[value]], dtype=np.uint8)


def _write_mat(path: Path, name: str, value: np.ndarray) -> None:
    buffer = io.BytesIO()
    savemat(buffer, {name: value}, do_compression=True)
    # The first 116 bytes are a comment with the time of writing; the same call writes the same.
    header = b"MATLAB 5.0 MAT-file, written by relaydet".ljust(116)
    path.write_bytes(header + buffer.getvalue()[116:])
