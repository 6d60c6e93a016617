"""The three sets: what the scenes of each have in common."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Domain:
    """What the scenes of one set have in common; heights as shares of the image height."""

    number: int
    size: tuple[int, int]
    """Width and height in pixels of a landscape scene."""
    portrait: float
    person_height: tuple[float, float]
    persons: tuple[int, int]
    clutter: tuple[int, int]
    backgrounds: tuple[float, float, float, float]
    """Weights of open street, facade, indoor and park."""
    saturation: tuple[float, float]
    warmth: float
    night: float
    crowd: float = 0.0


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
    clutter=(2, 4),
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
    persons=(1, 4),
    clutter=(1, 3),
    backgrounds=(0.2, 0.2, 0.35, 0.25),
    saturation=(0.2, 0.7),
    warmth=0.04,
    night=0.03,
)


def generator(*key: int) -> np.random.Generator:
    """Make the generator of a key, such as (seed, number of the set, index of the scene)."""
    return np.random.default_rng(key)
