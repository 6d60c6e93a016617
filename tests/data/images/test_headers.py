"""The headers of plain JPEGs, which are read without Pillow, say what Pillow says."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from relaydet.data.images import Header, header_of, pixels
from relaydet.errors import RelayError


def jpeg(mode: str = "RGB", size=(24, 16), turned: int | None = None, **options) -> bytes:
    file = io.BytesIO()
    if turned is not None:
        options["exif"] = Image.Exif()
        options["exif"][0x010F] = "a maker of cameras"
        options["exif"][0x0112] = turned
    Image.new(mode, size, 90).save(file, "JPEG", **options)
    return file.getvalue()


def big_endian(turned: int) -> bytes:
    """A JPEG whose EXIF block has numbers the other way round, as many cameras write them."""
    entry = b"\x01\x12\x00\x03\x00\x00\x00\x01" + bytes([0, turned, 0, 0])
    return jpeg(exif=b"Exif\0\0MM\0*\x00\x00\x00\x08\x00\x01" + entry + bytes(4))


FILES = [
    jpeg(),
    jpeg("L", (1, 999)),
    jpeg("CMYK"),
    jpeg(progressive=True),
    jpeg(quality=5, comment="a comment", icc_profile=b"profile" * 9),
    jpeg(turned=6),
    jpeg(turned=9),
    big_endian(8),
]


def by_pillow(data: bytes) -> Header | str:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pixels, "_plain_jpeg", lambda data: None)
        return said(data)


def said(data: bytes) -> Header | str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about broken EXIF blocks
            return header_of(data, "x.jpg")
    except RelayError as error:
        return str(error)


@pytest.mark.parametrize("data", FILES)
def test_plain_files_say_what_pillow_says(data):
    header = header_of(data, "x.jpg")
    assert isinstance(header, Header)
    assert header == by_pillow(data)


@pytest.mark.parametrize("turned", range(1, 9))
def test_the_orientation_is_read_in_both_byte_orders(turned):
    assert header_of(jpeg(turned=turned), "x.jpg").orientation == turned
    assert header_of(big_endian(turned), "x.jpg").orientation == turned


def test_plain_files_need_no_pillow(monkeypatch):
    monkeypatch.setattr(pixels.PillowImage, "open", None)
    assert header_of(jpeg(size=(24, 16)), "x.jpg") == Header(24, 16)
    assert header_of(jpeg("CMYK", turned=3), "x.jpg") == Header(24, 16, 3, "CMYK")


def test_several_pictures_in_one_file_are_left_to_pillow():
    file = io.BytesIO()
    pictures = [Image.new("RGB", (24, 16)), Image.new("RGB", (9, 9))]
    pictures[0].save(file, "MPO", save_all=True, append_images=pictures[1:])
    assert header_of(file.getvalue(), "x.jpg") == by_pillow(file.getvalue())


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from([data for data in FILES if b"Exif" not in data]),
    st.lists(st.tuples(st.integers(0, 400), st.integers(0, 255)), max_size=3),
    st.none() | st.integers(0, 900),
)
def test_broken_files_say_what_pillow_says(data, changes, cut):
    broken = bytearray(data)
    for position, value in changes:
        broken[position % len(broken)] = value
    broken = bytes(broken[:cut])
    assert said(broken) == by_pillow(broken)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FILES), st.integers(2, 120), st.binary(min_size=1, max_size=4))
def test_whatever_the_bytes_there_is_a_header_or_an_error(data, position, change):
    broken = data[:position] + change + data[position + len(change) :]
    header = said(broken)
    assert isinstance(header, str) or (header.width > 0 and 1 <= header.orientation <= 8)


@pytest.mark.parametrize("keep", [*range(20), *np.linspace(20, 620, 25).astype(int).tolist()])
def test_a_cut_file_is_never_plain(keep):
    assert isinstance(said(jpeg()[:keep]), str)
