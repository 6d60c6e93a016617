"""People: what they wear, how they stand and walk."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from relaydet.data.demo.drawing import Colour, Shape, cloth, limb, oval, pick, rect, shade

SKINS = ((245, 214, 188), (228, 184, 148), (196, 146, 106), (150, 102, 70), (98, 64, 46))
HAIRS = ((28, 22, 20), (62, 42, 28), (112, 76, 42), (184, 150, 92), (150, 148, 146))


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


def random_look(rng: np.random.Generator, saturation: tuple[float, float]) -> Look:
    """Draw the clothes, hair and build of one person."""
    return Look(
        skin=pick(rng, SKINS),
        hair=pick(rng, HAIRS),
        top=cloth(rng, saturation),
        second=cloth(rng, saturation),
        bottom=cloth(rng, saturation),
        shoes=shade((190, 180, 170), rng.uniform(0.1, 1.2)),
        cut=pick(rng, ("trousers", "trousers", "trousers", "shorts", "coat", "dress")),
        pattern=pick(rng, ("plain", "plain", "stripes", "two-tone", "open")),
        extra=pick(rng, ("", "", "", "bag", "backpack", "hat", "umbrella")),
        short_sleeves=bool(rng.random() < 0.4),
        long_hair=bool(rng.random() < 0.4),
        build=rng.uniform(0.88, 1.2),
    )


def _leg(look: Look, hip: float, knee: float, foot: float, lift: float, toe: float) -> list[Shape]:
    bare = look.cut in ("dress", "shorts")
    lower = look.skin if bare else shade(look.bottom, 0.93)
    upper = look.skin if look.cut == "dress" else look.bottom
    return [
        Shape(
            limb((foot - toe * 0.2, -0.016 - lift), (foot + toe, -0.014), 0.04, 0.03), look.shoes
        ),
        Shape(limb((knee, -0.27), (foot, -0.04 - lift), 0.06, 0.042), lower),
        Shape(limb((hip, -0.49), (knee, -0.26), 0.085 * look.build, 0.062), upper),
    ]


def _arm(look: Look, shoulder: float, elbow: float, hand: tuple[float, float]) -> list[Shape]:
    lower = look.skin if look.short_sleeves else shade(look.top, 0.9)
    return [
        Shape(oval(hand[0], hand[1], 0.021, 0.026), look.skin),
        Shape(limb((elbow, -0.63), hand, 0.042, 0.032), lower),
        Shape(limb((shoulder, -0.8), (elbow, -0.63), 0.055, 0.044), shade(look.top, 0.96)),
    ]


def _torso(look: Look, width: float, light_side: int, rng: np.random.Generator) -> list[Shape]:
    hem, flare = {"coat": (-0.3, 1.1), "dress": (-0.24, 1.35)}.get(look.cut, (-0.46, 0.92))
    half = np.array([(0.4, -0.855), (0.9, -0.825), (1.0, -0.78), (0.84, -0.62), (flare, hem)])
    half = half * (width, 1.0)
    outline = np.concatenate([half, half[::-1] * (-1, 1)])
    shapes = [Shape(outline, look.top)]
    if look.pattern == "stripes":
        for y in np.arange(-0.78, hem - 0.03, rng.uniform(0.06, 0.1)):
            shapes.append(Shape(rect(-0.83 * width, y, 0.83 * width, y + 0.025), look.second))
    elif look.pattern == "two-tone":
        points = outline[(outline[:, 1] > -0.63)]
        shapes.append(Shape(points, look.second))
    elif look.pattern == "open":
        shapes.append(Shape(rect(-0.25 * width, -0.84, 0.25 * width, hem), look.second))
    dark = half * (-light_side, 1)
    inner = half[::-1] * (-0.45 * light_side, 1)
    tone = look.second if look.pattern == "two-tone" and look.cut != "dress" else look.top
    return [*shapes, Shape(np.concatenate([dark, inner]), shade(tone, 0.8))]


def _head(look: Look, turn: int, back: bool) -> list[Shape]:
    x = 0.012 * turn
    shapes = [Shape(limb((0, -0.82), (x, -0.88), 0.05, 0.045), shade(look.skin, 0.85))]
    if look.long_hair:
        shapes.insert(0, Shape(oval(x - 0.018 * turn, -0.88, 0.062, 0.1), look.hair))
    shapes.append(Shape(oval(x, -0.924, 0.052, 0.07), look.skin))
    if back:
        shapes.append(Shape(oval(x, -0.93, 0.056, 0.07), look.hair))
    else:
        shapes.append(Shape(oval(x - 0.01 * turn, -0.942, 0.057, 0.058, (0.95, 2.05)), look.hair))
        if turn:
            shapes.append(Shape(oval(x - 0.03 * turn, -0.925, 0.028, 0.055), look.hair))
        for eye in (0.034 * turn,) if turn else (-0.02, 0.02):
            shapes.append(Shape(oval(x + eye, -0.918, 0.007, 0.007), (40, 30, 28)))
    if look.extra == "hat":
        shapes.append(Shape(oval(x, -0.955, 0.06, 0.045, (1, 2)), look.second))
        shapes.append(
            Shape(
                limb((x - 0.06, -0.955), (x + 0.06 + 0.03 * turn, -0.955), 0.018, 0.018),
                shade(look.second, 0.8),
            )
        )
    return shapes


def _carried(
    look: Look, width: float, turn: int, back: bool, hand: tuple[float, float]
) -> list[Shape]:
    if look.extra == "bag":
        x, y = hand
        return [
            Shape(limb((x, y), (x, y + 0.06), 0.015, 0.015), shade(look.second, 0.5)),
            Shape(rect(x - 0.06, y + 0.05, x + 0.06, y + 0.16), look.second),
        ]
    if look.extra == "backpack" and (turn or back):
        x = -turn * (width + 0.03)
        return [Shape(oval(x, -0.68, 0.07 if turn else width * 0.75, 0.12), look.second)]
    if look.extra == "umbrella":
        x, top = hand[0], -1.2
        dome = oval(x, top + 0.16, 0.3, 0.2, (1, 2))
        return [
            Shape(limb((x, hand[1]), (x, top), 0.014, 0.014), (60, 60, 60), counted=False),
            Shape(dome, look.second, counted=False),
            Shape(oval(x, top + 0.16, 0.11, 0.2, (1, 2)), shade(look.second, 0.82), counted=False),
        ]
    return []


def figure(rng: np.random.Generator, look: Look, light_side: int) -> tuple[Shape, ...]:
    """Draw one person in a random pose: from the front, the back or a side; standing or walking.

    Args:
        rng: source of the pose.
        look: clothes, hair and build.
        light_side: -1 or 1, the side that the light comes from.
    """
    turn = int(pick(rng, (-1, -1, 0, 0, 1, 1)))
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
    far = [replace(shape, colour=shade(shape.colour, 0.78)) for shape in [*far_arm, *far]]
    carried = _carried(look, width, turn, back, hand)
    behind = carried if look.extra == "backpack" and turn else []
    body = [*far, *near, *behind, *_torso(look, width, light_side, rng)]
    return (*body, *_head(look, turn, back), *near_arm, *(carried if not behind else []))
