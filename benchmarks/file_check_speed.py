"""Checking image files (header and SHA-256) beside the usual loop, in one run on one machine.

The files are generated JPEGs of about the size of COCO's, in the page cache. The usual way is a
loop with Pillow and hashlib over the same files.
"""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image as PillowImage

from relaydet.data.checks.files import check_images
from relaydet.data.dataset import Dataset, Image
from relaydet.data.images import open_images

FILES, ROUNDS, BEST_OF = 256, 10, 3
WIDTH, HEIGHT = 640, 480


def write_images(folder: Path) -> list[str]:
    """Smooth noise: it compresses about as well as a photo."""
    rng = np.random.default_rng(0)
    names = [f"{number:06d}.jpg" for number in range(FILES)]
    for name in names:
        coarse = rng.integers(0, 255, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
        image = PillowImage.fromarray(coarse).resize((WIDTH, HEIGHT))
        grain = rng.integers(0, 24, (HEIGHT, WIDTH, 3), dtype=np.uint8)
        pixels = np.asarray(image) // 2 + 60 + grain
        PillowImage.fromarray(pixels).save(folder / name, quality=90)
    return names


def ours(folder: Path, names: list[str]) -> None:
    images = [Image(n, name, WIDTH, HEIGHT) for n, name in enumerate(names, start=1)]
    check_images(Dataset(images, [], []), open_images(str(folder)), "bench")


def usual(folder: Path, names: list[str]) -> None:
    for name in names:
        with PillowImage.open(folder / name) as image:
            assert image.size == (WIDTH, HEIGHT)
        hashlib.sha256((folder / name).read_bytes()).digest()


def main() -> None:
    ways: dict[str, Callable[[Path, list[str]], None]] = {
        "relaydet": ours,
        "Pillow + hashlib": usual,
    }
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        names = write_images(folder)
        size = sum((folder / name).stat().st_size for name in names) / len(names)
        best = dict.fromkeys(ways, float("inf"))
        for _ in range(BEST_OF):
            for way, check in ways.items():
                started = time.perf_counter()
                check(folder, names * ROUNDS)
                best[way] = min(best[way], time.perf_counter() - started)
    print(f"{FILES * ROUNDS:,} reads of {size / 1e3:.0f} kB; best of {BEST_OF}\n")
    print("| header and SHA-256 | images/s | times faster |\n|---|---|---|")
    for way, seconds in best.items():
        rate, ratio = FILES * ROUNDS / seconds, best["Pillow + hashlib"] / seconds
        print(f"| {way} | {rate:,.0f} | {ratio:.1f} |")


if __name__ == "__main__":
    main()
