"""Composing a scene: people-like figures among clutter, from the back to the front.

A scene sorts its things by depth and paints them twice at three times the final size: their numbers
into a buffer, from which masks and boxes come, and their colours into a picture, which is then
scaled down, lit, blurred and given noise.

Everything is drawn from the generator passed in and from nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from PIL import Image, ImageDraw

from relaydet.data.demo.backgrounds import background
from relaydet.data.demo.clutter import CLUTTER, CLUTTER_OF
from relaydet.data.demo.domains import Domain
from relaydet.data.demo.drawing import Brush, Colour, Shape, pick
from relaydet.data.demo.figures import Look, figure, random_look
from relaydet.data.demo.light import cast_shadows, light
from relaydet.data.demo.stage import SUPERSAMPLING, Place, Scene, Thing, Visible

MIN_VISIBLE = 0.6


def draw_scene(
    rng: np.random.Generator, domain: Domain, cast: Sequence[tuple[int, Look]] = ()
) -> Scene:
    """Draw one scene.

    Args:
        rng: source of everything that the scene leaves to chance.
        domain: the set that the scene belongs to.
        cast: (identity, look) of people who must be in it; strangers (identity -1) are added.

    Returns:
        The picture and what can be seen in it. Nobody is less than MIN_VISIBLE visible: who would
        be is left out of the picture, so every person in it is labelled.
    """
    width, height = domain.size if rng.random() >= domain.portrait else domain.size[::-1]
    kind = ("street", "facade", "indoor", "park")[int(rng.choice(4, p=domain.backgrounds))]
    horizon = height * rng.uniform(0.2, 0.4)
    tallest = domain.person_height[1] * height
    scale = tallest / (height * rng.uniform(0.93, 1.06) - horizon)
    place = Place(width, height, horizon, scale, kind, int(pick(rng, (-1, 1))))
    things = [*_people(rng, domain, place, cast), *_clutter(rng, domain, place)]
    if rng.random() < domain.crowd:
        things.append(_crowd(rng, domain, place))
    things, visible = _without_hidden(sorted(things, key=lambda thing: thing.y), place)
    canvas = background(rng, place)
    cast_shadows(rng, canvas, things, place)
    brush = ImageDraw.Draw(canvas)
    for thing in things:
        _paint(brush, thing, [shape.colour for shape in thing.shapes])
    small = canvas.reduce(SUPERSAMPLING)
    return Scene(light(rng, small, domain, place), visible, int(rng.integers(70, 96)))


def _people(
    rng: np.random.Generator, domain: Domain, place: Place, cast: Sequence[tuple[int, Look]]
) -> list[Thing]:
    count = max(len(cast), int(rng.integers(domain.persons[0], domain.persons[1] + 1)))
    strangers = [(-1, random_look(rng, domain.saturation)) for _ in range(count - len(cast))]
    things: list[Thing] = []
    for identity, look in [*cast, *strangers]:
        for _ in range(12):
            # Uniform in the logarithm: as many small people as the perspective would show.
            tall = place.height * np.exp(rng.uniform(*np.log(domain.person_height)))
            x = rng.uniform(0.0, 1.0) * place.width
            if things and rng.random() < 0.1:
                friend = pick(rng, things)
                tall = friend.height * rng.uniform(0.94, 1.06)
                x = friend.x + tall * rng.uniform(0.2, 0.45) * pick(rng, (-1, 1))
            if all(_apart(x, tall, other) for other in things):
                break
        shapes = figure(rng, look, place.light_side)
        own = tall * rng.uniform(0.92, 1.06)
        y = place.horizon + tall / place.scale
        things.append(Thing(shapes, x, y, own, "person", identity))
    return things


def _apart(x: float, tall: float, other: Thing) -> bool:
    """Whether two people would not have all but the same box."""
    near = abs(x - other.x) < 0.16 * max(tall, other.height)
    return not (near and 0.6 < tall / other.height < 1.7)


def _clutter(rng: np.random.Generator, domain: Domain, place: Place) -> list[Thing]:
    things = []
    for _ in range(int(rng.integers(domain.clutter[0], domain.clutter[1] + 1))):
        name = str(pick(rng, CLUTTER_OF[place.kind]))
        shortest, tallest = domain.person_height
        tallest *= 0.5 if name in ("car", "statue") else 0.8
        tall = place.height * np.exp(rng.uniform(*np.log((shortest, max(shortest, tallest)))))
        shapes = tuple(CLUTTER[name](rng))
        x, y = rng.uniform(0, 1) * place.width, place.horizon + tall / place.scale
        label = name if name in ("car", "lamp") else ""
        things.append(Thing(shapes, x, y, tall * rng.uniform(0.9, 1.1), label))
    return things


def _crowd(rng: np.random.Generator, domain: Domain, place: Place) -> Thing:
    """A group far away, whose members overlap too much to be told apart: one thing."""
    shapes: list[Shape] = []
    for _ in range(int(rng.integers(12, 22))):
        move, size = (rng.normal(0, 0.75), rng.uniform(-0.12, 0.06)), rng.uniform(0.9, 1.1)
        person = figure(rng, random_look(rng, domain.saturation), place.light_side)
        shapes += [replace(s, points=s.points * size + move) for s in person if s.counted]
    tall = place.height * rng.uniform(0.09, 0.14)
    x = rng.uniform(0.2, 0.8) * place.width
    return Thing(tuple(shapes), x, place.horizon + tall / place.scale, tall, "crowd")


def _paint(brush: Brush, thing: Thing, fills: Sequence[Colour | int]) -> None:
    origin = np.array([thing.x, thing.y])
    for shape, fill in zip(thing.shapes, fills, strict=True):
        points = (shape.points * thing.height + origin) * SUPERSAMPLING
        brush.polygon(points.ravel().tolist(), fill=fill)


def _number_buffer(things: Sequence[Thing], place: Place) -> Image.Image:
    """Number of the thing (from 1) that each supersampled pixel shows; 0 is background."""
    size = (place.width * SUPERSAMPLING, place.height * SUPERSAMPLING)
    buffer = Image.new("L", size)
    brush = ImageDraw.Draw(buffer)
    for number, thing in enumerate(things, 1):
        _paint(brush, thing, [number if shape.counted else 0 for shape in thing.shapes])
    return buffer


def _full_area(thing: Thing) -> int:
    """Supersampled pixels that the thing would cover with nothing in front and no border."""
    shapes = tuple(shape for shape in thing.shapes if shape.counted)
    points = np.concatenate([shape.points for shape in shapes]) * thing.height
    low, high = points.min(axis=0), points.max(axis=0)
    alone = replace(thing, shapes=shapes, x=1 - low[0], y=1 - low[1])
    width, height = np.ceil((high - low + 2) * SUPERSAMPLING).astype(int)
    buffer = Image.new("L", (int(width), int(height)))
    _paint(ImageDraw.Draw(buffer), alone, [1] * len(shapes))
    return buffer.histogram()[1]


def _without_hidden(things: list[Thing], place: Place) -> tuple[list[Thing], tuple[Visible, ...]]:
    """Leave out who is hardly visible; leaving one out can only uncover others."""
    full = [_full_area(thing) if thing.label else 0 for thing in things]
    area = _number_buffer(things, place).histogram()[1:]
    keep = [n for n in range(len(things)) if area[n] >= MIN_VISIBLE * full[n]]
    kept = [things[n] for n in keep]
    numbers = np.asarray(_number_buffer(kept, place))
    visible = []
    for number, n in enumerate(keep, 1):
        if full[n]:
            mask = numbers == number
            share = np.count_nonzero(mask) / full[n]
            visible.append(Visible(things[n].label, things[n].identity, share, mask))
    return kept, tuple(visible)
