"""Backgrounds: open street, facade, indoor and park."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from relaydet.data.demo.drawing import GREENS, Brush, cloth, pick, shade
from relaydet.data.demo.stage import SUPERSAMPLING, Place


def background(rng: np.random.Generator, place: Place) -> Image.Image:
    """Sky or wall above, ground below, and what stands on the line between them."""
    far = {"indoor": (206, 190, 166), "facade": (172, 160, 148)}.get(place.kind, (150, 186, 222))
    near = {"indoor": (150, 128, 104), "park": (106, 138, 74)}.get(place.kind, (132, 130, 126))
    hue = rng.uniform(0.92, 1.08, 3)
    line = int(place.horizon + (0.3 if place.kind == "indoor" else 0.08) * place.horizon)
    row = np.linspace(0, 1, place.height, dtype=np.float32)[:, None, None]
    upper = (np.array(far) * hue * rng.uniform(0.65, 1.15)).astype(np.float32) * (0.92 + 0.2 * row)
    lower = (np.array(near) * hue * rng.uniform(0.6, 1.15)).astype(np.float32) * (0.82 + 0.3 * row)
    base = np.where(np.arange(place.height)[:, None, None] < line, upper, lower)
    base = base * _noise(rng, place, 24)
    base[line:] *= _noise(rng, place, 3)[line:]
    canvas = Image.fromarray(np.clip(base, 0, 255).astype(np.uint8))
    size = (place.width * SUPERSAMPLING, place.height * SUPERSAMPLING)
    canvas = canvas.resize(size, Image.Resampling.NEAREST)
    brush = ImageDraw.Draw(canvas, "RGBA")
    {"street": _skyline, "facade": _windows, "indoor": _room, "park": _woods}[place.kind](
        rng, brush, size, line * SUPERSAMPLING
    )
    return canvas


def _noise(rng: np.random.Generator, place: Place, cell: int) -> np.ndarray:
    """Smooth noise around 1 with grains of `cell` pixels, float [height, width, 1]."""
    shape = (place.height // cell + 2, place.width // cell + 2)
    grains = np.clip(rng.normal(128, 40, shape), 0, 255).astype(np.uint8)
    smooth = Image.fromarray(grains).resize((place.width, place.height), Image.Resampling.BICUBIC)
    return 1 + (np.asarray(smooth, dtype=np.float32)[:, :, None] - 128) / 700


def _skyline(rng: np.random.Generator, brush: Brush, size: tuple[int, int], line: int) -> None:
    x = 0.0
    while x < size[0]:
        wide, tall = rng.uniform(0.1, 0.3) * size[0], rng.uniform(0.2, 0.9) * line
        paint = shade((150, 140, 134), rng.uniform(0.6, 1.2))
        brush.rectangle((x, line - tall, x + wide, line), fill=paint)
        _panes(rng, brush, (x, line - tall, x + wide, line), size[0] * 0.035)
        x += wide * rng.uniform(1.0, 1.5)
    middle, spread = rng.uniform(0.2, 0.8) * size[0], rng.uniform(0.4, 0.9) * size[0]
    road = [(middle - 20, line), (middle + 20, line), (middle + spread, size[1])]
    brush.polygon([*road, (middle - spread, size[1])], fill=(60, 60, 64, 150))
    for start in np.linspace(0.05, 0.9, 6) ** 2:
        y, end = line + start * (size[1] - line), line + (start + 0.06) * (size[1] - line)
        w = 2 + 14 * start
        brush.polygon(
            [(middle - w, y), (middle + w, y), (middle + w, end), (middle - w, end)],
            fill=(230, 230, 220, 170),
        )


def _panes(
    rng: np.random.Generator, brush: Brush, wall: tuple[float, float, float, float], step: float
) -> None:
    glass = shade((84, 100, 116), rng.uniform(0.6, 1.5))
    for y in np.arange(wall[1] + step * 0.5, wall[3] - step, step * 1.6):
        for x in np.arange(wall[0] + step * 0.5, wall[2] - step, step * 1.3):
            pane = glass if rng.random() < 0.85 else (236, 214, 150)
            brush.rectangle((x, y, x + step * 0.7, y + step), fill=pane)


def _windows(rng: np.random.Generator, brush: Brush, size: tuple[int, int], line: int) -> None:
    for y in range(0, line, 9 * SUPERSAMPLING):
        brush.line((0, y, size[0], y), fill=(90, 70, 60, 70), width=2)
    step = size[0] * rng.uniform(0.08, 0.14)
    _panes(rng, brush, (0, -step * rng.random(), size[0], line), step)
    door = rng.uniform(0.1, 0.8) * size[0]
    brush.rectangle((door, line - step * 1.7, door + step, line), fill=cloth(rng, (0.2, 0.7)))
    brush.rectangle((0, line, size[0], line + (size[1] - line) * 0.12), fill=(196, 192, 186, 120))
    for x in np.linspace(-size[0], 2 * size[0], 20):
        middle = size[0] / 2
        brush.line((middle + (x - middle) * 0.6, line, x, size[1]), fill=(60, 60, 60, 60), width=2)


def _room(rng: np.random.Generator, brush: Brush, size: tuple[int, int], line: int) -> None:
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(0, 0.9) * size[0], rng.uniform(0.05, 0.5) * line
        wide, tall = rng.uniform(0.06, 0.2) * size[0], rng.uniform(0.2, 0.45) * line
        brush.rectangle((x, y, x + wide, y + tall), fill=(70, 54, 40))
        brush.rectangle((x + 4, y + 4, x + wide - 4, y + tall - 4), fill=cloth(rng, (0.1, 0.6)))
    if rng.random() < 0.5:
        x = rng.uniform(0, 0.8) * size[0]
        tall = line * 0.8
        brush.rectangle((x, line - tall, x + tall * 0.5, line), fill=cloth(rng, (0.1, 0.5)))
    brush.rectangle((0, line - 6, size[0], line), fill=(80, 66, 54, 160))
    for x in np.linspace(-size[0], 2 * size[0], 26):
        middle = size[0] / 2
        brush.line((middle + (x - middle) * 0.5, line, x, size[1]), fill=(40, 30, 20, 60), width=2)


def _woods(rng: np.random.Generator, brush: Brush, size: tuple[int, int], line: int) -> None:
    for _ in range(26):
        x, y, r = (
            rng.uniform(0, size[0]),
            rng.uniform(0.55, 1.0) * line,
            rng.uniform(0.2, 0.5) * line,
        )
        green = shade(pick(rng, GREENS), rng.uniform(0.6, 1.3))
        brush.ellipse((x - r, y - r, x + r, min(y + r, line + 6)), fill=green)
    middle, spread = rng.uniform(0.2, 0.8) * size[0], rng.uniform(0.15, 0.5) * size[0]
    path = [(middle - 14, line), (middle + 14, line), (middle + spread, size[1])]
    brush.polygon([*path, (middle - spread, size[1])], fill=(190, 170, 134, 200))
