"""The quicker decoder: Pillow's pixels for every kind of file, Pillow's words for broken ones."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torchvision
from PIL import Image

from relaydet.compat import jpeg_decoder
from relaydet.data import decode as module
from relaydet.data.decode import decode
from relaydet.data.images import decode_rgb
from relaydet.errors import RelayError


def picture(mode: str = "RGB", size=(37, 23)) -> Image.Image:
    """Colours that change from pixel to pixel, and some noise."""
    width, height = size
    noise = np.random.default_rng(0).integers(0, 60, (height, width, 3))
    slopes = np.add.outer(np.arange(height) * 3, np.arange(width) * 2)[:, :, None]
    return Image.fromarray(((slopes + noise * [1, 2, 3]) % 256).astype(np.uint8)).convert(mode)


def as_file(image: Image.Image, kind: str = "JPEG", **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "options", [{}, {"quality": 30}, {"progressive": True}, {"subsampling": 0}]
)
@pytest.mark.parametrize("size", [(1, 1), (37, 23), (64, 16)])
def test_a_jpeg_has_pillows_pixels(options, size):
    data = as_file(picture(size=size), **options)
    np.testing.assert_array_equal(decode(data, "x.jpg"), decode_rgb(data, "x.jpg"))


@pytest.mark.parametrize(
    ("mode", "kind"), [("L", "JPEG"), ("CMYK", "JPEG"), ("P", "PNG"), ("RGB", "PNG"), ("L", "BMP")]
)
def test_so_has_any_other_image(mode, kind):
    data = as_file(picture(mode), kind)
    np.testing.assert_array_equal(decode(data, "x"), decode_rgb(data, "x"))


def test_a_turned_photo_is_left_as_it_is_stored():
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode(as_file(picture(), exif=exif), "x.jpg").shape == (23, 37, 3)


def test_real_photos(shared):
    photos = sorted(shared("coco128", "train2017").glob("*.jpg"))[:32]
    assert photos
    for photo in photos:
        data = photo.read_bytes()
        np.testing.assert_array_equal(decode(data, "x"), decode_rgb(data, "x"), photo.name)


@pytest.mark.parametrize("length", [0, 3, 300])
def test_half_a_file_is_an_error_that_names_it(length):
    data = as_file(picture(size=(200, 100)))
    with pytest.raises(RelayError, match=r"^a/b\.jpg: the image cannot be read"):
        decode(data[:length], "a/b.jpg")


def test_a_torchvision_that_has_dropped_its_decoder_is_no_hindrance(monkeypatch):
    monkeypatch.delattr(torchvision.io, "decode_jpeg")
    monkeypatch.setattr(module, "decode_jpeg", jpeg_decoder())
    assert module.decode_jpeg is None
    data = as_file(picture())
    np.testing.assert_array_equal(decode(data, "x.jpg"), decode_rgb(data, "x.jpg"))


@pytest.mark.parametrize("error", [RuntimeError, AttributeError])
def test_a_torchvision_without_a_decoder_is_no_hindrance(monkeypatch, error):
    def absent(*_args, **_named):
        raise error("torchvision was built without libjpeg")

    monkeypatch.setattr(module, "decode_jpeg", absent)
    data = as_file(picture())
    np.testing.assert_array_equal(decode(data, "x.jpg"), decode_rgb(data, "x.jpg"))
