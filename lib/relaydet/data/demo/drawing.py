"""Coloured polygons, and the chances and colours that all drawings share.

Polygons are float [points, 2], in units of the height of the thing that they belong to, with its
feet at (0, 0) and y pointing down (a head is at y = -1).
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from PIL import ImageDraw

Colour = tuple[int, int, int]
Brush = ImageDraw.ImageDraw
T = TypeVar("T")

STEPS = np.linspace(0, 1, 20)
GREENS = ((52, 92, 44), (74, 112, 52), (40, 76, 52), (104, 124, 58))


@dataclass(frozen=True)
class Shape:
    """A filled polygon; `points` in units of the thing's height."""

    points: np.ndarray
    colour: Colour
    counted: bool = True
    """False for an umbrella: it hides what is behind it but is no part of the person."""


def shade(colour: Colour, factor: float) -> Colour:
    """Multiply a colour by a factor, within 0 to 255."""
    red, green, blue = (min(255, max(0, round(c * factor))) for c in colour)
    return red, green, blue


def pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    """Choose one of the options, all with the same chance."""
    return options[int(rng.integers(len(options)))]


def cloth(rng: np.random.Generator, saturation: tuple[float, float]) -> Colour:
    """Draw a colour of clothes, cars and the like: a grey in a third of all cases.

    `saturation` is the range of the others' saturation, 0 to 1.
    """
    if rng.random() < 0.35:
        return shade((210, 212, 216), rng.uniform(0.12, 1.15))
    hsv = (rng.random(), rng.uniform(*saturation), rng.uniform(0.25, 0.95))
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(*hsv))
    return red, green, blue


def oval(
    x: float, y: float, rx: float, ry: float, turn: tuple[float, float] = (0, 2)
) -> np.ndarray:
    """Outline an ellipse or, with `turn` in half turns clockwise from the right, a part of one."""
    angle = np.pi * (turn[0] + (turn[1] - turn[0]) * STEPS)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def rect(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    """Outline a rectangle."""
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def limb(start: tuple[float, float], end: tuple[float, float], w0: float, w1: float) -> np.ndarray:
    """A tapering bar with blunt ends, `w0` and `w1` thick."""
    a, b = np.array(start), np.array(end)
    along = (b - a) / max(float(np.hypot(*(b - a))), 1e-6)
    side = np.array([-along[1], along[0]])
    near = (a + side * w0 / 2, a - along * w0 * 0.4, a - side * w0 / 2)
    far = (b - side * w1 / 2, b + along * w1 * 0.4, b + side * w1 / 2)
    return np.array([*near, *far])
