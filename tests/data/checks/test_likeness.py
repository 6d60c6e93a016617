"""Which pictures seem the same: copies of photos do, other photos and frames do not."""

from __future__ import annotations

import io
import itertools

import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from relaydet.data.checks import likeness
from relaydet.data.checks.likeness import SIDE, near_pairs, thumbnail_of
from relaydet.errors import RelayError


def jpeg(picture: Image.Image, quality: int = 90) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality)
    return file.getvalue()


def thumbnail(picture: Image.Image, quality: int = 90) -> bytes:
    return thumbnail_of(jpeg(picture, quality), "x.jpg")


def scaled(picture: Image.Image, factor: float) -> Image.Image:
    return picture.resize((round(picture.width * factor), round(picture.height * factor)))


def found(thumbnails: list[bytes]) -> list[tuple[int, int]]:
    return [tuple(pair) for pair in near_pairs(thumbnails)[0].tolist()]


@pytest.fixture(scope="module")
def photos(shared) -> list[Image.Image]:
    names = sorted(shared("coco128", "train2017").glob("*.jpg"))[:15]
    return [Image.open(name).convert("RGB") for name in names]


@pytest.mark.parametrize(
    "copy",
    [
        pytest.param(lambda p: thumbnail(p, 30), id="quality 30"),
        pytest.param(lambda p: thumbnail(p, 95), id="quality 95"),
        pytest.param(lambda p: thumbnail(scaled(p, 0.5)), id="half the size"),
        pytest.param(lambda p: thumbnail(scaled(p, 0.75)), id="three quarters"),
        pytest.param(lambda p: thumbnail(scaled(p, 2)), id="twice the size"),
        pytest.param(lambda p: thumbnail(p.resize((640, 640))), id="squeezed"),
        pytest.param(lambda p: thumbnail(ImageEnhance.Brightness(p).enhance(0.8)), id="darker"),
        pytest.param(lambda p: thumbnail(ImageEnhance.Brightness(p).enhance(1.05)), id="brighter"),
        pytest.param(lambda p: thumbnail(ImageEnhance.Contrast(p).enhance(0.9)), id="softer"),
        pytest.param(lambda p: thumbnail(p.convert("L")), id="grey"),
    ],
)
def test_copies_of_photos_are_found_and_nothing_else(photos, copy):
    count = len(photos)
    pairs = found([thumbnail(p) for p in photos] + [copy(p) for p in photos])
    assert pairs == [(number, number + count) for number in range(count)]


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(ImageOps.mirror, id="mirrored"),
        pytest.param(lambda p: p.crop((p.width // 20, 0, p.width, p.height)), id="cut"),
    ],
)
def test_other_pictures_are_not_alike(photos, change):
    assert found([thumbnail(p) for p in photos] + [thumbnail(change(p)) for p in photos]) == []


def test_frames_of_one_camera_differ_where_somebody_moved(photos):
    frames = []
    for step in range(12):
        frame = photos[0].copy()
        frame.paste((30, 30, 60), (40 * step, 200, 40 * step + 24, 260))
        frames.append(thumbnail(frame))
    assert found(frames) == []
    assert found([*frames, thumbnail(photos[0])]) == []


def flat(seed: int, slope: float) -> Image.Image:
    """A wall in a light that falls off, with the noise of a camera."""
    noise = np.random.default_rng(seed).normal(0, 4, (240, 320))
    levels = 120 + seed + slope * np.arange(320) / 320 + noise
    return Image.fromarray(levels.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("slope", [0, 20, 100])
def test_blank_walls_do_not_flood(slope):
    assert found([thumbnail(flat(seed, slope)) for seed in range(30)]) == []
    assert found([bytes([level]) * SIDE * SIDE for level in range(200)]) == []


def test_of_many_copies_each_is_in_a_pair(photos):
    copies = [thumbnail(photos[0], quality) for quality in range(30, 95)]
    pairs, values = near_pairs(copies)
    assert set(pairs.ravel().tolist()) == set(range(len(copies)))
    assert (pairs[:, 0] < pairs[:, 1]).all()
    assert ((values >= likeness.MIN_LIKENESS) & (values <= 1)).all()


def test_the_answer_depends_on_the_pictures_alone(photos):
    thumbnails = [thumbnail(p, quality) for p in photos for quality in (40, 90)]
    order = np.random.default_rng(0).permutation(len(thumbnails))
    shuffled = found([thumbnails[position] for position in order])
    assert sorted(tuple(sorted(order[list(pair)].tolist())) for pair in shuffled) == found(
        thumbnails
    )


@pytest.mark.parametrize("count", [0, 1])
def test_few_thumbnails_make_no_pair(count):
    pairs, values = near_pairs([bytes(range(256)) * 4] * count)
    assert (pairs.shape, values.shape) == ((0, 2), (0,))


@pytest.mark.parametrize(
    ("mode", "format"),
    [*itertools.product(("1", "L", "P", "RGB", "RGBA", "LA", "I;16"), ("PNG",)), ("CMYK", "JPEG")],
)
def test_every_mode_has_a_thumbnail(mode, format):
    file = io.BytesIO()
    Image.new(mode, (40, 30)).save(file, format)
    assert len(thumbnail_of(file.getvalue(), "x")) == SIDE * SIDE


def test_sixteen_bits_are_scaled_to_eight():
    file = io.BytesIO()
    Image.new("I;16", (40, 30), 40_000).save(file, "PNG")
    assert set(thumbnail_of(file.getvalue(), "x.png")) == {156}


@pytest.mark.parametrize("data", [b"", b"not an image", jpeg(Image.new("RGB", (64, 48)))[:-300]])
def test_what_is_no_image_is_named(data):
    with pytest.raises(RelayError, match=r"x\.jpg: the image cannot be read"):
        thumbnail_of(data, "x.jpg")


def test_a_picture_that_would_fill_the_memory_has_no_thumbnail(monkeypatch):
    monkeypatch.setattr(likeness, "MAX_PIXELS", 1000)
    file = io.BytesIO()
    Image.new("L", (40, 30)).save(file, "PNG")
    assert thumbnail_of(file.getvalue(), "x.png") is None
