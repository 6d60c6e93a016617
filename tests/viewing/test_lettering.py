"""Names in pictures: any text at all gives something legible, and no warning."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from relaydet.viewing.lettering import fitting, font_of, legible, shortened

ANY_TEXT = st.text(st.characters(), max_size=60)  # lone surrogates too


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("", ""),
        ("person", "person"),
        ("Ünïcode Москва αβ", "Ünïcode Москва αβ"),
        ("a\nb\t\0", "a\\nb\\t\\x00"),
        ("\ud800", "\\ud800"),
        ("\u202eabc", "\\u202eabc"),
        ("\U0010fffd", "\\U0010fffd"),
    ],
    ids=ascii,
)
def test_what_no_font_shows_is_spelt_out(text, shown):
    assert legible(text) == shown


@given(ANY_TEXT, st.integers(0, 200))
@settings(max_examples=200, deadline=None)
def test_any_text_fits_and_can_be_drawn(text, width):
    shown = fitting(text, width)
    assert font_of(shown).getlength(shown) <= max(width, font_of("…").getlength("…"))
    pen = ImageDraw.Draw(Image.new("RGB", (200, 20)))
    pen.text((0, 0), shown, font=font_of(shown))
    assert legible(text).endswith(shown.removeprefix("…"))


@given(ANY_TEXT, st.integers(3, 40))
@settings(max_examples=100, deadline=None)
def test_a_shortened_text_keeps_both_ends(text, length):
    shown, whole = shortened(text, length), legible(text)
    assert len(shown) <= length
    if len(whole) <= length:
        assert shown == whole
    else:
        start, _, end = shown.rpartition("…")
        assert whole.startswith(start)
        assert whole.endswith(end)
        assert len(shown) == length


def test_a_name_of_a_million_letters_takes_no_time():
    assert fitting("x" * 1_000_000, 100).startswith("…x")
