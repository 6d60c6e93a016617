"""Writing the demo set: three folders of real files in two real formats, from a seed.

`street` and `inhouse` are COCO; `search` is CUHK-SYSU's folder of .mat files. A scene depends on
(seed, set, index) alone, so the same call writes the same bytes.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from PIL import Image

from relaydet.config import SourceConfig
from relaydet.data.demo.coco_files import CocoFile, add_to_coco, write_coco
from relaydet.data.demo.cuhk_files import Seen, cast_of, search_boxes, search_name, write_search
from relaydet.data.demo.domains import INHOUSE, SEARCH, STREET, Domain, generator
from relaydet.data.demo.scenes import draw_scene

VERSION = 6
LICENCE = "CC0-1.0"
STREET_CATEGORIES = {"person": 1, "car": 3, "lamp": 14}
INHOUSE_CATEGORIES = {"person": 17}

Job = tuple[Domain, int]
Progress = Callable[[Iterable[Job]], Iterable[Job]]


def write_demo(
    folder: Path,
    seed: int = 0,
    sizes: tuple[int, int, int] = (480, 160, 80),
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
    except (OSError, ValueError, RecursionError):
        return False


def _write_sets(folder: Path, seed: int, sizes: tuple[int, int, int], progress: Progress) -> None:
    street, inhouse = CocoFile("street", STREET_CATEGORIES), CocoFile("inhouse", INHOUSE_CATEGORIES)
    search: dict[int, list[Seen]] = {}
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
        cast = cast_of(seed, index) if domain is SEARCH else ()
        scene = draw_scene(generator(seed, domain.number, index), domain, cast)
        if domain is SEARCH:
            name = search_name(seed, index)
            search[index] = search_boxes(scene, index)
        else:
            name = add_to_coco(street if domain is STREET else inhouse, scene, index)
        path = image_folders[domain.number] / name
        Image.fromarray(scene.image).save(path, quality=scene.jpeg_quality)
    write_coco(folder / "street" / "annotations.json", street)
    write_coco(folder / "inhouse" / "annotations.json", inhouse)
    write_search(folder / "search" / "annotation", seed, search)
