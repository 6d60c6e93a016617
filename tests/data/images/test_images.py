"""Reading images by name, their headers, and decoding every kind to RGB."""

from __future__ import annotations

import io
import pickle

import numpy as np
import pytest
from PIL import Image

from relaydet.data.images import decode_rgb, open_images, read_header
from relaydet.errors import RelayError


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "broken.jpg").write_bytes(b"not an image")
    (tmp_path / "out.png").write_bytes(b"")
    Image.new("RGB", (20, 10)).save(tmp_path / "in" / "a.png")
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.new("RGB", (20, 10)).save(tmp_path / "in" / "turned.jpg", exif=turned)
    return tmp_path


def test_images_are_read_by_name_also_in_another_process(folder):
    images = pickle.loads(pickle.dumps(open_images(str(folder / "in"))))
    assert read_header(images, "a.png").width == 20
    assert images.exists("a.png")
    assert not images.exists("b.png")
    assert not images.exists("n" * 5000)
    assert images.read("a.png") == (folder / "in" / "a.png").read_bytes()
    assert str(folder) in images.describe()


def test_exif_orientation_is_told_but_not_applied(folder):
    images = open_images(str(folder / "in"))
    header = read_header(images, "turned.jpg")
    assert (header.width, header.height, header.orientation) == (20, 10, 6)
    assert decode_rgb(images.read("turned.jpg"), "turned.jpg").shape == (10, 20, 3)


@pytest.mark.parametrize(
    "name", ["../out.png", "x/../../out.png", "..\\out.png", "/etc/hosts", "", ".", "a\0b"]
)
def test_names_stay_inside_the_folder(folder, name):
    images = open_images(str(folder / "in"))
    for method in (images.read, images.exists):
        with pytest.raises(RelayError, match="does not stay inside"):
            method(name)


@pytest.mark.parametrize("name", ["broken.jpg", "missing.jpg"])
def test_unreadable_images_are_named(folder, name):
    with pytest.raises(RelayError, match=f"{name}: the image cannot be read"):
        read_header(open_images(str(folder / "in")), name)


@pytest.mark.parametrize(
    ("location", "message"),
    [
        ("nowhere", "not exist"),
        ("out.png", "a file"),
        ("n" * 5000, "not exist"),
        ("n" * 5000 + ".tar", "unpack it"),
        ("a\0b", "not exist"),
        ("\ud800", "not exist"),
    ],
)
def test_the_folder_must_be_one(folder, location, message):
    with pytest.raises(RelayError, match=message):
        open_images(str(folder / location))


@pytest.mark.parametrize(
    ("mode", "colour", "expected"),
    [
        ("RGB", (10, 20, 30), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (10, 20, 30)),
        ("L", 70, (70, 70, 70)),
        ("1", 1, (255, 255, 255)),
        ("P", 0, (0, 0, 0)),
        ("CMYK", (0, 255, 255, 0), (255, 0, 0)),
        ("I;16", 40_000, (156, 156, 156)),  # 40000 / 256
    ],
)
def test_every_mode_becomes_rgb(mode, colour, expected):
    file = io.BytesIO()
    Image.new(mode, (4, 3), colour).save(file, "TIFF")
    pixels_HWC = decode_rgb(file.getvalue(), "x.tif")
    assert (pixels_HWC.dtype, pixels_HWC.shape) == (np.uint8, (3, 4, 3))
    assert tuple(pixels_HWC[0, 0].tolist()) == expected


def test_a_png_of_16_bits_is_scaled_not_clipped():
    file = io.BytesIO()
    Image.new("I;16", (4, 3), 40_000).save(file, "PNG")
    assert decode_rgb(file.getvalue(), "x.png").tolist() == [[[156] * 3] * 4] * 3


def test_half_an_image_is_refused():
    file = io.BytesIO()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), dtype=np.uint8)
    Image.fromarray(noise).save(file, "JPEG")
    with pytest.raises(RelayError, match=r"x\.jpg: the image cannot be read"):
        decode_rgb(file.getvalue()[:1500], "x.jpg")


@pytest.mark.parametrize("keep", [0.3, 0.9])
def test_a_jpeg_that_was_cut_off_has_no_header(tmp_path, keep):
    path = tmp_path / "cut.jpg"
    Image.effect_noise((64, 48), 60).convert("RGB").save(path)
    data = path.read_bytes()
    assert read_header(open_images(str(tmp_path)), "cut.jpg").width == 64
    path.write_bytes(data + b"maker's notes")
    assert read_header(open_images(str(tmp_path)), "cut.jpg").width == 64
    path.write_bytes(data[: int(keep * len(data))])
    with pytest.raises(RelayError, match=r"cut\.jpg"):
        read_header(open_images(str(tmp_path)), "cut.jpg")
