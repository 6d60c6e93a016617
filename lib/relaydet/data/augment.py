"""Changes to a training image that keep its labels true: a pure function of (seed, epoch, index).

Shape suffixes: H height, W width, C channels, N boxes, 4 corners (x1, y1, x2, y2) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from relaydet.randomness import keyed_uniform

_STREAM = 3


@dataclass(frozen=True)
class Augmentation:
    """How much a training image may change."""

    flip: float = 0.5
    """Probability of a horizontal flip."""
    brightness: float = 0.0
    """Largest relative change of brightness, 0 to 1."""
    contrast: float = 0.0
    """Largest relative change of contrast, 0 to 1."""


def augment(
    image_HWC: np.ndarray,
    boxes_N4: np.ndarray,
    augmentation: Augmentation,
    key: tuple[int, int, int],
) -> tuple[np.ndarray, np.ndarray]:
    """Augment one image and its boxes.

    Args:
        image_HWC: uint8.
        boxes_N4: corners in pixels.
        augmentation: what to draw from.
        key: (seed, epoch, index of the image in the training set).

    Returns:
        The changed image (uint8, same size) and its boxes.
    """
    flip, brightness, contrast = keyed_uniform(*key, _STREAM, np.arange(3))
    if flip < augmentation.flip:
        image_HWC, boxes_N4 = _flip(image_HWC, boxes_N4)
    gain = 1 + augmentation.contrast * (2 * contrast - 1)
    light = 1 + augmentation.brightness * (2 * brightness - 1)
    if gain != 1 or light != 1:
        image_HWC = _relight(image_HWC, gain, light)
    return image_HWC, boxes_N4


def _flip(image_HWC: np.ndarray, boxes_N4: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    flipped_N4 = boxes_N4.copy()
    flipped_N4[:, [0, 2]] = image_HWC.shape[1] - boxes_N4[:, [2, 0]]
    return image_HWC[:, ::-1], flipped_N4


def _relight(image_HWC: np.ndarray, gain: float, light: float) -> np.ndarray:
    """Stretch the values around their mean, then scale them; a table of 256 values is enough."""
    mean = float(image_HWC.mean())
    values = np.arange(256, dtype=np.float64)
    table = np.clip(((values - mean) * gain + mean) * light, 0, 255).round().astype(np.uint8)
    return table[image_HWC]
