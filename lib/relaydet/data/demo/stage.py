"""What a scene is made of: the camera, the things in front of it, and what it sees of them.

Masks are bool [height, width] at SUPERSAMPLING times the size of the picture.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relaydet.data.demo.drawing import Shape

SUPERSAMPLING = 3


@dataclass(frozen=True)
class Place:
    """The camera: people whose feet are at row y are (y - horizon) * scale pixels high."""

    width: int
    height: int
    horizon: float
    scale: float
    kind: str
    light_side: int


@dataclass(frozen=True)
class Thing:
    """Something placed in a scene; position of its feet and height in final pixels."""

    shapes: tuple[Shape, ...]
    x: float
    y: float
    height: float
    label: str = ""
    identity: int = -1


@dataclass(frozen=True)
class Visible:
    """A thing that can be seen; `mask` is bool at SUPERSAMPLING times the image's size."""

    label: str
    identity: int
    share: float
    mask: np.ndarray


@dataclass(frozen=True)
class Scene:
    """A finished picture, uint8 [height, width, 3], and the labelled things in it."""

    image: np.ndarray
    visible: tuple[Visible, ...]
    jpeg_quality: int


def edges(mask: np.ndarray) -> tuple[int, int, int, int]:
    """First and last + 1 column and row of a mask, as x0, y0, x1, y1."""
    columns, rows = np.flatnonzero(mask.any(axis=0)), np.flatnonzero(mask.any(axis=1))
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
