"""Drawing the demo set: people-like figures among clutter, as polygons, from the back to the front.

A `Thing` is a list of coloured polygons in units of its own height, with the feet at (0, 0) and
y pointing down (the head is at y = -1). A scene sorts its things by depth and paints them twice at
three times the final size: their numbers into a buffer, from which masks and boxes come, and their
colours into a picture, which is then scaled down, lit, blurred and given noise.

Everything is drawn from the generator passed in and from nothing else.

Shapes are written [height, width, channels]; polygons are float [points, 2].
"""

from __future__ import annotations

import colorsys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

Colour = tuple[int, int, int]
Brush = ImageDraw.ImageDraw
T = TypeVar("T")

SUPERSAMPLING = 3
MIN_VISIBLE = 0.45
STEPS = np.linspace(0, 1, 20)
SKINS = ((245, 214, 188), (228, 184, 148), (196, 146, 106), (150, 102, 70), (98, 64, 46))
HAIRS = ((28, 22, 20), (62, 42, 28), (112, 76, 42), (184, 150, 92), (150, 148, 146))
METALS = ((58, 62, 66), (92, 96, 98), (40, 66, 52), (120, 122, 124))
GREENS = ((52, 92, 44), (74, 112, 52), (40, 76, 52), (104, 124, 58))


@dataclass(frozen=True)
class Shape:
    """A filled polygon; `points` in units of the thing's height."""

    points: np.ndarray
    colour: Colour
    counted: bool = True
    """False for an umbrella: it hides what is behind it but is no part of the person."""


@dataclass(frozen=True)
class Look:
    """What a person wears; an identity keeps its look from scene to scene."""

    skin: Colour
    hair: Colour
    top: Colour
    second: Colour
    bottom: Colour
    shoes: Colour
    cut: str
    pattern: str
    extra: str
    short_sleeves: bool
    long_hair: bool
    build: float


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


@dataclass(frozen=True)
class _Place:
    """The camera: people whose feet are at row y are (y - horizon) * scale pixels high."""

    width: int
    height: int
    horizon: float
    scale: float
    kind: str
    light_side: int


def _shade(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255, max(0, round(c * factor))) for c in colour)
    return red, green, blue


def _pick(rng: np.random.Generator, options: Sequence[T]) -> T:
    return options[int(rng.integers(len(options)))]


def _cloth(rng: np.random.Generator, saturation: tuple[float, float]) -> Colour:
    if rng.random() < 0.35:
        return _shade((210, 212, 216), rng.uniform(0.12, 1.15))
    hsv = (rng.random(), rng.uniform(*saturation), rng.uniform(0.25, 0.95))
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb(*hsv))
    return red, green, blue


def _oval(
    x: float, y: float, rx: float, ry: float, turn: tuple[float, float] = (0, 2)
) -> np.ndarray:
    angle = np.pi * (turn[0] + (turn[1] - turn[0]) * STEPS)
    return np.stack([x + rx * np.cos(angle), y + ry * np.sin(angle)], axis=1)


def _rect(x0: float, y0: float, x1: float, y1: float) -> np.ndarray:
    return np.array([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])


def _limb(start: tuple[float, float], end: tuple[float, float], w0: float, w1: float) -> np.ndarray:
    """A tapering bar with blunt ends, `w0` and `w1` thick."""
    a, b = np.array(start), np.array(end)
    along = (b - a) / max(float(np.hypot(*(b - a))), 1e-6)
    side = np.array([-along[1], along[0]])
    near = (a + side * w0 / 2, a - along * w0 * 0.4, a - side * w0 / 2)
    far = (b - side * w1 / 2, b + along * w1 * 0.4, b + side * w1 / 2)
    return np.array([*near, *far])


def random_look(rng: np.random.Generator, saturation: tuple[float, float]) -> Look:
    """Draw the clothes, hair and build of one person."""
    return Look(
        skin=_pick(rng, SKINS),
        hair=_pick(rng, HAIRS),
        top=_cloth(rng, saturation),
        second=_cloth(rng, saturation),
        bottom=_cloth(rng, saturation),
        shoes=_shade((190, 180, 170), rng.uniform(0.1, 1.2)),
        cut=_pick(rng, ("trousers", "trousers", "trousers", "shorts", "coat", "dress")),
        pattern=_pick(rng, ("plain", "plain", "stripes", "two-tone", "open")),
        extra=_pick(rng, ("", "", "", "bag", "backpack", "hat", "umbrella")),
        short_sleeves=bool(rng.random() < 0.4),
        long_hair=bool(rng.random() < 0.4),
        build=rng.uniform(0.88, 1.2),
    )


def _leg(look: Look, hip: float, knee: float, foot: float, lift: float, toe: float) -> list[Shape]:
    bare = look.cut in ("dress", "shorts")
    lower = look.skin if bare else _shade(look.bottom, 0.93)
    upper = look.skin if look.cut == "dress" else look.bottom
    return [
        Shape(
            _limb((foot - toe * 0.2, -0.016 - lift), (foot + toe, -0.014), 0.04, 0.03), look.shoes
        ),
        Shape(_limb((knee, -0.27), (foot, -0.04 - lift), 0.06, 0.042), lower),
        Shape(_limb((hip, -0.49), (knee, -0.26), 0.085 * look.build, 0.062), upper),
    ]


def _arm(look: Look, shoulder: float, elbow: float, hand: tuple[float, float]) -> list[Shape]:
    lower = look.skin if look.short_sleeves else _shade(look.top, 0.9)
    return [
        Shape(_oval(hand[0], hand[1], 0.021, 0.026), look.skin),
        Shape(_limb((elbow, -0.63), hand, 0.042, 0.032), lower),
        Shape(_limb((shoulder, -0.8), (elbow, -0.63), 0.055, 0.044), _shade(look.top, 0.96)),
    ]


def _torso(look: Look, width: float, light_side: int, rng: np.random.Generator) -> list[Shape]:
    hem, flare = {"coat": (-0.3, 1.1), "dress": (-0.24, 1.35)}.get(look.cut, (-0.46, 0.92))
    half = np.array([(0.4, -0.855), (0.9, -0.825), (1.0, -0.78), (0.84, -0.62), (flare, hem)])
    half = half * (width, 1.0)
    outline = np.concatenate([half, half[::-1] * (-1, 1)])
    shapes = [Shape(outline, look.top)]
    if look.pattern == "stripes":
        for y in np.arange(-0.78, hem - 0.03, rng.uniform(0.06, 0.1)):
            shapes.append(Shape(_rect(-0.83 * width, y, 0.83 * width, y + 0.025), look.second))
    elif look.pattern == "two-tone":
        points = outline[(outline[:, 1] > -0.63)]
        shapes.append(Shape(points, look.second))
    elif look.pattern == "open":
        shapes.append(Shape(_rect(-0.25 * width, -0.84, 0.25 * width, hem), look.second))
    dark = half * (-light_side, 1)
    inner = half[::-1] * (-0.45 * light_side, 1)
    tone = look.second if look.pattern == "two-tone" and look.cut != "dress" else look.top
    return [*shapes, Shape(np.concatenate([dark, inner]), _shade(tone, 0.8))]


def _head(look: Look, turn: int, back: bool) -> list[Shape]:
    x = 0.012 * turn
    shapes = [Shape(_limb((0, -0.82), (x, -0.88), 0.05, 0.045), _shade(look.skin, 0.85))]
    if look.long_hair:
        shapes.insert(0, Shape(_oval(x - 0.018 * turn, -0.88, 0.062, 0.1), look.hair))
    shapes.append(Shape(_oval(x, -0.924, 0.052, 0.07), look.skin))
    if back:
        shapes.append(Shape(_oval(x, -0.93, 0.056, 0.07), look.hair))
    else:
        shapes.append(Shape(_oval(x - 0.01 * turn, -0.942, 0.057, 0.058, (0.95, 2.05)), look.hair))
        if turn:
            shapes.append(Shape(_oval(x - 0.03 * turn, -0.925, 0.028, 0.055), look.hair))
        for eye in (0.034 * turn,) if turn else (-0.02, 0.02):
            shapes.append(Shape(_oval(x + eye, -0.918, 0.007, 0.007), (40, 30, 28)))
    if look.extra == "hat":
        shapes.append(Shape(_oval(x, -0.955, 0.06, 0.045, (1, 2)), look.second))
        shapes.append(
            Shape(
                _limb((x - 0.06, -0.955), (x + 0.06 + 0.03 * turn, -0.955), 0.018, 0.018),
                _shade(look.second, 0.8),
            )
        )
    return shapes


def _carried(
    look: Look, width: float, turn: int, back: bool, hand: tuple[float, float]
) -> list[Shape]:
    if look.extra == "bag":
        x, y = hand
        return [
            Shape(_limb((x, y), (x, y + 0.06), 0.015, 0.015), _shade(look.second, 0.5)),
            Shape(_rect(x - 0.06, y + 0.05, x + 0.06, y + 0.16), look.second),
        ]
    if look.extra == "backpack" and (turn or back):
        x = -turn * (width + 0.03)
        return [Shape(_oval(x, -0.68, 0.07 if turn else width * 0.75, 0.12), look.second)]
    if look.extra == "umbrella":
        x, top = hand[0], -1.2
        dome = _oval(x, top + 0.16, 0.3, 0.2, (1, 2))
        return [
            Shape(_limb((x, hand[1]), (x, top), 0.014, 0.014), (60, 60, 60), counted=False),
            Shape(dome, look.second, counted=False),
            Shape(
                _oval(x, top + 0.16, 0.11, 0.2, (1, 2)), _shade(look.second, 0.82), counted=False
            ),
        ]
    return []


def figure(rng: np.random.Generator, look: Look, light_side: int) -> tuple[Shape, ...]:
    """Draw one person in a random pose: from the front, the back or a side; standing or walking.

    Args:
        rng: source of the pose.
        look: clothes, hair and build.
        light_side: -1 or 1, the side that the light comes from.
    """
    turn = int(_pick(rng, (-1, -1, 0, 0, 1, 1)))
    back = turn == 0 and rng.random() < 0.4
    width = (0.078 if turn else 0.122) * look.build
    stride, lift = rng.uniform(0.02, 0.17), rng.uniform(0.0, 0.05)
    if turn:
        far = _leg(look, 0, -0.3 * stride * turn, -stride * turn, lift, 0.06 * turn)
        near = _leg(look, 0, (0.5 * stride + 0.02) * turn, stride * turn, 0, 0.06 * turn)
    else:
        stance = rng.uniform(0.045, 0.075)
        far = _leg(look, -0.05, -stance, -stance, lift, -0.012)
        near = _leg(look, 0.05, stance, stance, 0, 0.012)
    swing = rng.uniform(-0.9, 0.9) * stride
    bent = rng.random() < 0.25 or look.extra == "umbrella"
    reach = (1 if turn >= 0 else -1) * (0.15 if turn else 0.13)
    if turn:
        hand = (reach, -0.68) if bent else (swing * 1.4, -0.47)
        near_arm = _arm(look, 0, swing * 0.7 + 0.01 * turn, hand)
        far_arm = _arm(look, 0, -swing * 0.7, (-swing * 1.3, -0.48))
    else:
        out = rng.uniform(1.0, 1.35)
        hand = (width * 0.8, -0.72) if bent else (width * out, -0.47)
        near_arm = _arm(look, width * 0.95, width * (1.1 + 0.2 * bent), hand)
        far_arm = _arm(look, -width * 0.95, -width * 1.12, (-width * out, -0.48 - 0.1 * lift))
    far = [replace(shape, colour=_shade(shape.colour, 0.78)) for shape in [*far_arm, *far]]
    carried = _carried(look, width, turn, back, hand)
    behind = carried if look.extra == "backpack" and turn else []
    body = [*far, *near, *behind, *_torso(look, width, light_side, rng)]
    return (*body, *_head(look, turn, back), *near_arm, *(carried if not behind else []))


def _lamp(rng: np.random.Generator) -> list[Shape]:
    metal, tall = _pick(rng, METALS), rng.uniform(1.5, 2.3)
    return [
        Shape(_limb((0, 0), (0, -tall), 0.06, 0.04), metal),
        Shape(_rect(-0.07, -0.16, 0.07, 0), _shade(metal, 0.8)),
        Shape(_oval(0, -tall - 0.08, 0.12, 0.12), (250, 244, 214)),
        Shape(_oval(0, -tall - 0.17, 0.1, 0.04), metal),
    ]


def _sign(rng: np.random.Generator) -> list[Shape]:
    tall, ink = rng.uniform(0.9, 1.5), _pick(rng, ((196, 36, 40), (30, 80, 170), (236, 190, 40)))
    sides = int(_pick(rng, (3, 4, 20)))
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False) - np.pi / 2
    plate = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    return [
        Shape(_limb((0, 0), (0, -tall), 0.035, 0.035), (128, 130, 132)),
        Shape(plate * 0.16 + (0, -tall), ink),
        Shape(plate * 0.105 + (0, -tall), (240, 240, 236)),
    ]


def _tree(rng: np.random.Generator) -> list[Shape]:
    tall, green = rng.uniform(1.3, 2.3), _pick(rng, GREENS)
    shapes = [Shape(_limb((0, 0), (rng.uniform(-0.1, 0.1), -tall), 0.17, 0.08), (88, 66, 48))]
    for _ in range(9):
        x, y = rng.normal(0, 0.24), -tall + rng.normal(0, 0.2)
        blob = _oval(x, y, rng.uniform(0.14, 0.32), rng.uniform(0.12, 0.28))
        shapes.append(Shape(blob, _shade(green, rng.uniform(0.75, 1.25))))
    return shapes


def _bench(rng: np.random.Generator) -> list[Shape]:
    wood = _shade((150, 104, 62), rng.uniform(0.6, 1.2))
    legs = [Shape(_rect(x - 0.02, -0.27, x + 0.02, 0), (52, 54, 56)) for x in (-0.38, 0.38)]
    planks = [_rect(-0.48, y, 0.48, y + 0.055) for y in (-0.5, -0.42, -0.29)]
    return [*legs, *(Shape(plank, wood) for plank in planks)]


def _bin(rng: np.random.Generator) -> list[Shape]:
    paint = _cloth(rng, (0.2, 0.7))
    return [
        Shape(np.array([(-0.15, -0.5), (0.15, -0.5), (0.12, 0), (-0.12, 0)]), paint),
        Shape(_rect(0.05, -0.5, 0.13, 0), _shade(paint, 0.75)),
        Shape(_oval(0, -0.5, 0.17, 0.07), _shade(paint, 0.6)),
    ]


def _car(rng: np.random.Generator) -> list[Shape]:
    paint, flip = _cloth(rng, (0.4, 0.9)), int(_pick(rng, (-1, 1)))
    body = [(-1.2, -0.2), (-1.2, -0.45), (-0.75, -0.52), (0.95, -0.52), (1.2, -0.42), (1.2, -0.2)]
    cabin = np.array([(-0.72, -0.5), (-0.42, -0.82), (0.45, -0.82), (0.9, -0.5)])
    panes = [[(-0.6, -0.52), (-0.38, -0.77), (0, -0.77), (0, -0.52)]]
    panes.append([(0.05, -0.52), (0.05, -0.77), (0.4, -0.77), (0.74, -0.52)])
    shapes = [Shape(np.array(body), paint), Shape(cabin, _shade(paint, 0.9))]
    shapes += [Shape(np.array(pane), (70, 88, 100)) for pane in panes]
    shapes.append(Shape(_rect(-1.2, -0.28, 1.2, -0.18), _shade(paint, 0.65)))
    for x in (-0.72, 0.72):
        shapes += [Shape(_oval(x, -0.17, 0.18, 0.18), (26, 26, 28))]
        shapes += [Shape(_oval(x, -0.17, 0.09, 0.09), (150, 152, 156))]
    return [replace(shape, points=shape.points * (flip, 1)) for shape in shapes]


def _hedge(rng: np.random.Generator) -> list[Shape]:
    green, long = _pick(rng, GREENS), rng.uniform(0.4, 0.9)
    shapes = [Shape(_rect(-long, -0.36, long, 0), _shade(green, 0.8))]
    for _ in range(12):
        blob = _oval(rng.uniform(-long, long), rng.uniform(-0.4, -0.1), 0.15, 0.12)
        shapes.append(Shape(blob, _shade(green, rng.uniform(0.7, 1.2))))
    return shapes


def _coat_stand(rng: np.random.Generator) -> list[Shape]:
    coat = _cloth(rng, (0.2, 0.8))
    outline = np.array([(-0.06, -0.86), (0.06, -0.86), (0.14, -0.8), (0.15, -0.36), (-0.15, -0.36)])
    return [
        Shape(_limb((0, 0), (0, -1.02), 0.03, 0.03), (96, 70, 46)),
        Shape(_limb((-0.14, 0), (0.14, 0), 0.03, 0.03), (96, 70, 46)),
        Shape(np.concatenate([outline, [(-0.14, -0.8)]]), coat),
        Shape(_rect(-0.01, -0.84, 0.01, -0.36), _shade(coat, 0.6)),
    ]


def _statue(rng: np.random.Generator) -> list[Shape]:
    stone = _shade((150, 152, 146), rng.uniform(0.55, 1.2))
    body = figure(rng, replace(random_look(rng, (0, 0)), extra=""), 1)
    light = [np.mean(shape.colour) / 255 for shape in body]
    figure_on_top = [
        Shape(shape.points * 0.8 + (0, -0.6), _shade(stone, 0.75 + 0.4 * value))
        for shape, value in zip(body, light, strict=True)
    ]
    plinth = [_rect(-0.24, -0.6, 0.24, 0), _rect(-0.29, -0.66, 0.29, -0.58)]
    return [*figure_on_top, *(Shape(block, _shade(stone, 0.85)) for block in plinth)]


def _pot_plant(rng: np.random.Generator) -> list[Shape]:
    green = _pick(rng, GREENS)
    tips = rng.normal((0, -0.65), (0.2, 0.16), (9, 2))
    leaves = [
        Shape(_limb((0, -0.28), tuple(tip), 0.09, 0.03), _shade(green, rng.uniform(0.7, 1.3)))
        for tip in tips
    ]
    return [
        *leaves,
        Shape(np.array([(-0.15, -0.32), (0.15, -0.32), (0.1, 0), (-0.1, 0)]), (160, 92, 62)),
    ]


def _column(rng: np.random.Generator) -> list[Shape]:
    stone, tall = _shade((196, 192, 184), rng.uniform(0.5, 1.1)), rng.uniform(1.4, 3.0)
    return [
        Shape(_rect(-0.09, -tall, 0.09, 0), stone),
        Shape(_rect(0.02, -tall, 0.09, 0), _shade(stone, 0.8)),
        Shape(_rect(-0.13, -0.1, 0.13, 0), _shade(stone, 0.9)),
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
    "facade": ("lamp", "sign", "bin", "car", "bench", "coat stand", "plant", "tree"),
    "indoor": ("coat stand", "plant", "column", "column", "bin", "bench"),
    "park": ("tree", "tree", "bench", "hedge", "lamp", "statue", "bin", "sign"),
}


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
    place = _Place(width, height, horizon, scale, kind, int(_pick(rng, (-1, 1))))
    things = [*_people(rng, domain, place, cast), *_clutter(rng, domain, place)]
    if rng.random() < domain.crowd:
        things.append(_crowd(rng, domain, place))
    things, visible = _without_hidden(sorted(things, key=lambda thing: thing.y), place)
    canvas = _background(rng, place)
    _cast_shadows(rng, canvas, things, place)
    brush = ImageDraw.Draw(canvas)
    for thing in things:
        _paint(brush, thing, [shape.colour for shape in thing.shapes])
    small = canvas.reduce(SUPERSAMPLING)
    return Scene(_light(rng, small, domain, place), visible, int(rng.integers(70, 96)))


def _people(
    rng: np.random.Generator, domain: Domain, place: _Place, cast: Sequence[tuple[int, Look]]
) -> list[Thing]:
    count = max(len(cast), int(rng.integers(domain.persons[0], domain.persons[1] + 1)))
    strangers = [(-1, random_look(rng, domain.saturation)) for _ in range(count - len(cast))]
    things: list[Thing] = []
    for identity, look in [*cast, *strangers]:
        for _ in range(12):
            # Uniform in the logarithm: as many small people as the perspective would show.
            tall = place.height * np.exp(rng.uniform(*np.log(domain.person_height)))
            x = rng.uniform(0.0, 1.0) * place.width
            if things and rng.random() < 0.15:
                friend = _pick(rng, things)
                tall = friend.height * rng.uniform(0.94, 1.06)
                x = friend.x + tall * rng.uniform(0.2, 0.45) * _pick(rng, (-1, 1))
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


def _clutter(rng: np.random.Generator, domain: Domain, place: _Place) -> list[Thing]:
    things = []
    for _ in range(int(rng.integers(domain.clutter[0], domain.clutter[1] + 1))):
        name = str(_pick(rng, CLUTTER_OF[place.kind]))
        shortest, tallest = domain.person_height
        tallest *= 0.5 if name in ("car", "statue") else 0.8
        tall = place.height * np.exp(rng.uniform(*np.log((shortest, max(shortest, tallest)))))
        shapes = tuple(CLUTTER[name](rng))
        x, y = rng.uniform(0, 1) * place.width, place.horizon + tall / place.scale
        label = name if name in ("car", "lamp") else ""
        things.append(Thing(shapes, x, y, tall * rng.uniform(0.9, 1.1), label))
    return things


def _crowd(rng: np.random.Generator, domain: Domain, place: _Place) -> Thing:
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


def _number_buffer(things: Sequence[Thing], place: _Place) -> Image.Image:
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


def _without_hidden(things: list[Thing], place: _Place) -> tuple[list[Thing], tuple[Visible, ...]]:
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


def _noise(rng: np.random.Generator, place: _Place, cell: int) -> np.ndarray:
    """Smooth noise around 1 with grains of `cell` pixels, float [height, width, 1]."""
    shape = (place.height // cell + 2, place.width // cell + 2)
    grains = np.clip(rng.normal(128, 40, shape), 0, 255).astype(np.uint8)
    smooth = Image.fromarray(grains).resize((place.width, place.height), Image.Resampling.BICUBIC)
    return 1 + (np.asarray(smooth, dtype=np.float32)[:, :, None] - 128) / 700


def _background(rng: np.random.Generator, place: _Place) -> Image.Image:
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


def _skyline(rng: np.random.Generator, brush: Brush, size: tuple[int, int], line: int) -> None:
    x = 0.0
    while x < size[0]:
        wide, tall = rng.uniform(0.1, 0.3) * size[0], rng.uniform(0.2, 0.9) * line
        paint = _shade((150, 140, 134), rng.uniform(0.6, 1.2))
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
    glass = _shade((84, 100, 116), rng.uniform(0.6, 1.5))
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
    brush.rectangle((door, line - step * 1.7, door + step, line), fill=_cloth(rng, (0.2, 0.7)))
    brush.rectangle((0, line, size[0], line + (size[1] - line) * 0.12), fill=(196, 192, 186, 120))
    for x in np.linspace(-size[0], 2 * size[0], 20):
        middle = size[0] / 2
        brush.line((middle + (x - middle) * 0.6, line, x, size[1]), fill=(60, 60, 60, 60), width=2)


def _room(rng: np.random.Generator, brush: Brush, size: tuple[int, int], line: int) -> None:
    for _ in range(int(rng.integers(1, 5))):
        x, y = rng.uniform(0, 0.9) * size[0], rng.uniform(0.05, 0.5) * line
        wide, tall = rng.uniform(0.06, 0.2) * size[0], rng.uniform(0.2, 0.45) * line
        brush.rectangle((x, y, x + wide, y + tall), fill=(70, 54, 40))
        brush.rectangle((x + 4, y + 4, x + wide - 4, y + tall - 4), fill=_cloth(rng, (0.1, 0.6)))
    if rng.random() < 0.5:
        x = rng.uniform(0, 0.8) * size[0]
        tall = line * 0.8
        brush.rectangle((x, line - tall, x + tall * 0.5, line), fill=_cloth(rng, (0.1, 0.5)))
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
        green = _shade(_pick(rng, GREENS), rng.uniform(0.6, 1.3))
        brush.ellipse((x - r, y - r, x + r, min(y + r, line + 6)), fill=green)
    middle, spread = rng.uniform(0.2, 0.8) * size[0], rng.uniform(0.15, 0.5) * size[0]
    path = [(middle - 14, line), (middle + 14, line), (middle + spread, size[1])]
    brush.polygon([*path, (middle - spread, size[1])], fill=(190, 170, 134, 200))


def _cast_shadows(
    rng: np.random.Generator, canvas: Image.Image, things: Sequence[Thing], place: _Place
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
            points = _limb((0, 0), tip, min(2 * half, 1.0) * 0.5, 0.2) * tall + feet
            brush.polygon(points.ravel().tolist(), fill=(0, 0, 10, 70))
        points = _oval(0, 0, half, 0.035) * tall + feet
        brush.polygon(points.ravel().tolist(), fill=(0, 0, 0, 90))


def _light(
    rng: np.random.Generator, picture: Image.Image, domain: Domain, place: _Place
) -> np.ndarray:
    """Light, weather and camera: tint, gradient, night, haze, blur and noise."""
    if rng.random() < 0.6:
        picture = picture.filter(ImageFilter.GaussianBlur(float(rng.uniform(0.2, 0.75))))
    image = np.asarray(picture, dtype=np.float32) / 255
    warm = rng.normal(domain.warmth, 0.06)
    image = image * np.array([1 + warm, 1, 1 - warm], dtype=np.float32)
    slope_x, slope_y = rng.uniform(-0.25, 0.25), rng.uniform(-0.25, 0.25)
    across = np.linspace(-1, 1, place.width, dtype=np.float32)[None, :, None]
    down = np.linspace(-1, 1, place.height, dtype=np.float32)[:, None, None]
    image = image * (1 + slope_x * across + slope_y * down)
    image = np.clip(image * rng.uniform(0.75, 1.2), 0, 1) ** rng.uniform(0.8, 1.3)
    sigma = rng.uniform(0.004, 0.022)
    weather = rng.random()
    if weather < domain.night:
        glow = 1 - 0.5 * np.hypot(across - rng.uniform(-0.8, 0.8), down * 0.7)
        image = image * np.array([0.6, 0.64, 0.8], dtype=np.float32) * np.clip(glow, 0.55, 1)
        sigma = rng.uniform(0.012, 0.03)
    elif weather < domain.night + 0.15:
        veil = rng.uniform(0.1, 0.35)
        image = image * (1 - veil) + veil * rng.uniform(0.5, 0.8)
    # However dark the night, a person could still make out the people.
    image = image * max(1.0, 0.15 / float(image.mean()))
    image = image + sigma * rng.standard_normal(image.shape, dtype=np.float32)
    return (np.clip(image, 0, 1) * 255 + 0.5).astype(np.uint8)
