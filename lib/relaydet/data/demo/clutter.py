"""Things that stand among the people, some of them easily taken for one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np

from relaydet.data.demo.drawing import GREENS, Shape, cloth, limb, oval, pick, rect, shade
from relaydet.data.demo.figures import figure, random_look

METALS = ((58, 62, 66), (92, 96, 98), (40, 66, 52), (120, 122, 124))


def _lamp(rng: np.random.Generator) -> list[Shape]:
    metal, tall = pick(rng, METALS), rng.uniform(1.5, 2.3)
    return [
        Shape(limb((0, 0), (0, -tall), 0.06, 0.04), metal),
        Shape(rect(-0.07, -0.16, 0.07, 0), shade(metal, 0.8)),
        Shape(oval(0, -tall - 0.08, 0.12, 0.12), (250, 244, 214)),
        Shape(oval(0, -tall - 0.17, 0.1, 0.04), metal),
    ]


def _sign(rng: np.random.Generator) -> list[Shape]:
    tall, ink = rng.uniform(0.9, 1.5), pick(rng, ((196, 36, 40), (30, 80, 170), (236, 190, 40)))
    sides = int(pick(rng, (3, 4, 20)))
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False) - np.pi / 2
    plate = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return [
        Shape(limb((0, 0), (0, -tall), 0.035, 0.035), (128, 130, 132)),
        Shape(plate * 0.16 + (0, -tall), ink),
        Shape(plate * 0.105 + (0, -tall), (240, 240, 236)),
    ]


def _tree(rng: np.random.Generator) -> list[Shape]:
    tall, green = rng.uniform(1.3, 2.3), pick(rng, GREENS)
    shapes = [Shape(limb((0, 0), (rng.uniform(-0.1, 0.1), -tall), 0.17, 0.08), (88, 66, 48))]
    for _ in range(9):
        x, y = rng.normal(0, 0.24), -tall + rng.normal(0, 0.2)
        blob = oval(x, y, rng.uniform(0.14, 0.32), rng.uniform(0.12, 0.28))
        shapes.append(Shape(blob, shade(green, rng.uniform(0.75, 1.25))))
    return shapes


def _bench(rng: np.random.Generator) -> list[Shape]:
    wood = shade((150, 104, 62), rng.uniform(0.6, 1.2))
    legs = [Shape(rect(x - 0.02, -0.27, x + 0.02, 0), (52, 54, 56)) for x in (-0.38, 0.38)]
    planks = [rect(-0.48, y, 0.48, y + 0.055) for y in (-0.5, -0.42, -0.29)]
    return [*legs, *(Shape(plank, wood) for plank in planks)]


def _bin(rng: np.random.Generator) -> list[Shape]:
    paint = cloth(rng, (0.2, 0.7))
    return [
        Shape(np.array([(-0.15, -0.5), (0.15, -0.5), (0.12, 0), (-0.12, 0)]), paint),
        Shape(rect(0.05, -0.5, 0.13, 0), shade(paint, 0.75)),
        Shape(oval(0, -0.5, 0.17, 0.07), shade(paint, 0.6)),
    ]


def _car(rng: np.random.Generator) -> list[Shape]:
    paint, flip = cloth(rng, (0.4, 0.9)), int(pick(rng, (-1, 1)))
    body = [(-1.2, -0.2), (-1.2, -0.45), (-0.75, -0.52), (0.95, -0.52), (1.2, -0.42), (1.2, -0.2)]
    cabin = np.array([(-0.72, -0.5), (-0.42, -0.82), (0.45, -0.82), (0.9, -0.5)])
    panes = [[(-0.6, -0.52), (-0.38, -0.77), (0, -0.77), (0, -0.52)]]
    panes.append([(0.05, -0.52), (0.05, -0.77), (0.4, -0.77), (0.74, -0.52)])
    shapes = [Shape(np.array(body), paint), Shape(cabin, shade(paint, 0.9))]
    shapes += [Shape(np.array(pane), (70, 88, 100)) for pane in panes]
    shapes.append(Shape(rect(-1.2, -0.28, 1.2, -0.18), shade(paint, 0.65)))
    for x in (-0.72, 0.72):
        shapes += [Shape(oval(x, -0.17, 0.18, 0.18), (26, 26, 28))]
        shapes += [Shape(oval(x, -0.17, 0.09, 0.09), (150, 152, 156))]
    return [replace(shape, points=shape.points * (flip, 1)) for shape in shapes]


def _hedge(rng: np.random.Generator) -> list[Shape]:
    green, long = pick(rng, GREENS), rng.uniform(0.4, 0.9)
    shapes = [Shape(rect(-long, -0.36, long, 0), shade(green, 0.8))]
    for _ in range(12):
        blob = oval(rng.uniform(-long, long), rng.uniform(-0.4, -0.1), 0.15, 0.12)
        shapes.append(Shape(blob, shade(green, rng.uniform(0.7, 1.2))))
    return shapes


def _coat_stand(rng: np.random.Generator) -> list[Shape]:
    coat = cloth(rng, (0.2, 0.8))
    outline = np.array([(-0.06, -0.86), (0.06, -0.86), (0.14, -0.8), (0.15, -0.36), (-0.15, -0.36)])
    return [
        Shape(limb((0, 0), (0, -1.02), 0.03, 0.03), (96, 70, 46)),
        Shape(limb((-0.14, 0), (0.14, 0), 0.03, 0.03), (96, 70, 46)),
        Shape(np.concatenate([outline, [(-0.14, -0.8)]]), coat),
        Shape(rect(-0.01, -0.84, 0.01, -0.36), shade(coat, 0.6)),
    ]


def _statue(rng: np.random.Generator) -> list[Shape]:
    stone = shade((150, 152, 146), rng.uniform(0.55, 1.2))
    body = figure(rng, replace(random_look(rng, (0, 0)), extra=""), 1)
    light = [np.mean(shape.colour) / 255 for shape in body]
    figure_on_top = [
        Shape(shape.points * 0.8 + (0, -0.6), shade(stone, 0.75 + 0.4 * value))
        for shape, value in zip(body, light, strict=True)
    ]
    plinth = [rect(-0.24, -0.6, 0.24, 0), rect(-0.29, -0.66, 0.29, -0.58)]
    return [*figure_on_top, *(Shape(block, shade(stone, 0.85)) for block in plinth)]


def _pot_plant(rng: np.random.Generator) -> list[Shape]:
    green = pick(rng, GREENS)
    tips = rng.normal((0, -0.65), (0.2, 0.16), (9, 2))
    leaves = [
        Shape(limb((0, -0.28), tuple(tip), 0.09, 0.03), shade(green, rng.uniform(0.7, 1.3)))
        for tip in tips
    ]
    return [
        *leaves,
        Shape(np.array([(-0.15, -0.32), (0.15, -0.32), (0.1, 0), (-0.1, 0)]), (160, 92, 62)),
    ]


def _column(rng: np.random.Generator) -> list[Shape]:
    stone, tall = shade((196, 192, 184), rng.uniform(0.5, 1.1)), rng.uniform(1.4, 3.0)
    return [
        Shape(rect(-0.09, -tall, 0.09, 0), stone),
        Shape(rect(0.02, -tall, 0.09, 0), shade(stone, 0.8)),
        Shape(rect(-0.13, -0.1, 0.13, 0), shade(stone, 0.9)),
    ]


CLUTTER: dict[str, Callable[[np.random.Generator], list[Shape]]] = {
    "lamp": _lamp,
    "sign": _sign,
    "tree": _tree,
    "bench": _bench,
    "bin": _bin,
    "car": _car,
    "hedge": _hedge,
    "coat stand": _coat_stand,
    "statue": _statue,
    "plant": _pot_plant,
    "column": _column,
}
CLUTTER_OF = {
    "street": ("lamp", "sign", "tree", "bin", "car", "car", "statue", "bench"),
    "facade": ("lamp", "sign", "bin", "car", "bench", "plant", "tree"),
    "indoor": ("coat stand", "plant", "column", "column", "bin", "bench"),
    "park": ("tree", "tree", "bench", "hedge", "lamp", "statue", "bin", "sign"),
}
