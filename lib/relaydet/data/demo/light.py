"""Light, weather and the camera's faults."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from relaydet.data.demo.domains import Domain
from relaydet.data.demo.drawing import limb, oval
from relaydet.data.demo.stage import SUPERSAMPLING, Place, Thing


def cast_shadows(
    rng: np.random.Generator, canvas: Image.Image, things: Sequence[Thing], place: Place
) -> None:
    """Soft dark spots under everything and, in half of the outdoor scenes, long sun shadows."""
    brush = ImageDraw.Draw(canvas, "RGBA")
    sunny, reach = place.kind != "indoor" and rng.random() < 0.5, rng.uniform(0.2, 0.7)
    for thing in things:
        feet = np.array([thing.x, thing.y]) * SUPERSAMPLING
        low = np.concatenate([s.points[s.points[:, 1] > -0.15] for s in thing.shapes])
        half = float(np.abs(low[:, 0]).max()) + 0.05 if len(low) else 0.1
        tall = thing.height * SUPERSAMPLING
        if thing.label != "crowd" and sunny:
            tip = (-place.light_side * reach, -0.22)
            points = limb((0, 0), tip, min(2 * half, 1.0) * 0.5, 0.2) * tall + feet
            brush.polygon(points.ravel().tolist(), fill=(0, 0, 10, 70))
        points = oval(0, 0, half, 0.035) * tall + feet
        brush.polygon(points.ravel().tolist(), fill=(0, 0, 0, 90))


def light(
    rng: np.random.Generator, picture: Image.Image, domain: Domain, place: Place
) -> np.ndarray:
    """Light, weather and camera: tint, gradient, night, haze, blur and noise."""
    if rng.random() < 0.4:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.6))))
    image = np.asarray(picture, dtype=np.float32) / 255
    warm = rng.normal(domain.warmth, 0.06)
    image = image * np.array([1 + warm, 1, 1 - warm], dtype=np.float32)
    slope_x, slope_y = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25)
    across = np.linspace(-1, 1, place.width, dtype=np.float32)[None, :, None]
    down = np.linspace(-1, 1, place.height, dtype=np.float32)[:, None, None]
    image = image * (1 + slope_x * across + slope_y * down)
    image = np.clip(image * rng.uniform(0.8, 1.15), 0, 1) ** rng.uniform(0.85, 1.2)
    sigma = rng.uniform(0.003, 0.014)
    weather = rng.random()
    if weather < domain.night:
        glow = 1 - 0.5 * np.hypot(across - rng.uniform(-0.8, 0.8), down * 0.7)
        image = image * np.array([0.6, 0.64, 0.8], dtype=np.float32) * np.clip(glow, 0.55, 1)
        sigma = rng.uniform(0.012, 0.03)
    elif weather < domain.night + 0.1:
        veil = rng.uniform(0.1, 0.3)
        image = image * (1 - veil) + veil * rng.uniform(0.5, 0.8)
    # However dark the night, a person could still make out the people.
    image = image * max(1.0, 0.15 / float(image.mean()))
    image = image + sigma * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
