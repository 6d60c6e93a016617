"""Reading images by name, their headers, and decoding every kind to RGB."""

from __future__ import annotations

import io
import os
import pickle
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from PIL import Image

from relaydet.data.checks.likeness import thumbnail_of
from relaydet.data.images import decode_rgb, header_of, open_images, read_header
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


def picture_in(form: str, mode: str = "RGB", **options) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (24, 16), 90).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    ("form", "mode"),
    [
        ("JPEG", "RGB"),
        ("MPO", "RGB"),
        ("PNG", "P"),
        ("BMP", "RGB"),
        ("GIF", "P"),
        ("TIFF", "L"),
        ("WEBP", "RGB"),
        ("PPM", "RGB"),
        ("PPM", "L"),
    ],
)
def test_the_formats_that_datasets_hold_are_read(form, mode):
    data = picture_in(form, mode)
    assert (header_of(data, "x").width, header_of(data, "x").height) == (24, 16)
    assert decode_rgb(data, "x").shape == (16, 24, 3)


def test_of_several_pictures_in_a_file_the_first_is_taken():
    more = [Image.new("RGB", (24, 16), (0, 0, 255)), Image.new("RGB", (24, 16))]
    for form in ("GIF", "TIFF", "MPO"):
        file = io.BytesIO()
        first = Image.new("RGB", (24, 16), (255, 0, 0))
        first.save(file, form, save_all=True, append_images=more)
        assert decode_rgb(file.getvalue(), "x")[0, 0, 0] > 250


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 100 100\n%%EndComments\nshowpage\n"
SVG = b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"></svg>'


@pytest.mark.parametrize(
    "data",
    [
        EPS,
        # The preview that DOS programs put in front of an EPS.
        b"\xc5\xd0\xd3\xc6" + struct.pack("<2I", 30, len(EPS)) + bytes(18) + EPS,
        SVG,
        b"%PDF-1.4\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        picture_in("ICO"),
        picture_in("TGA"),
        picture_in("DDS"),
        picture_in("JPEG2000"),
        picture_in("PCX"),
        picture_in("SGI"),
    ],
)
def test_other_formats_are_refused_and_start_no_program(data, tmp_path, monkeypatch):
    stand_in = tmp_path / "gs"
    stand_in.write_text(f'#!/bin/sh\necho called >> "{tmp_path}/called"\necho 10.0\n')
    stand_in.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    for read in (header_of, decode_rgb, thumbnail_of):
        with pytest.raises(RelayError, match=r"a\.jpg: .*none of JPEG, PNG, BMP, GIF, TIFF, WebP"):
            read(data, "a.jpg")
    assert not (tmp_path / "called").exists()


def bomb(width: int, height: int) -> bytes:
    """A PNG of a few hundred bytes that claims a size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + body))
        return struct.pack(">I", len(body)) + kind + body + check

    head = struct.pack(">2I5B", width, height, 8, 2, 0, 0, 0)
    rows = chunk(b"IDAT", zlib.compress(bytes(1000)))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + rows + chunk(b"IEND", b"")


@pytest.mark.parametrize("size", [(100_000, 100_000), (20_000, 17_000), (13_350, 13_340)])
def test_an_image_that_would_fill_the_memory_is_refused_in_a_sentence(size):
    for read in (header_of, decode_rgb, thumbnail_of):
        with pytest.raises(RelayError, match=r"a\.png: .*178 million"):
            read(bomb(*size), "a.png")


def test_a_large_image_is_used_without_a_warning(tmp_path):
    (tmp_path / "x.png").write_bytes(picture_in("PNG"))
    code = (
        "import sys; from relaydet.data.images import pixels\n"
        "pixels.PillowImage.MAX_IMAGE_PIXELS = 300\n"
        "print(pixels.decode_rgb(open(sys.argv[1], 'rb').read(), 'x').shape)"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "x.png")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert (done.stdout, done.stderr) == ("(16, 24, 3)\n", "")


def test_a_pipe_or_a_device_is_no_image(tmp_path):
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "zero.jpg").symlink_to("/dev/zero")
    for name in ("pipe.jpg", "zero.jpg"):
        with pytest.raises(RelayError, match="not a regular file"):
            open_images(str(tmp_path)).read(name)
