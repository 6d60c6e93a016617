"""Names in pictures, in whatever script they are: what no font can show is written as its code.

Names of sources, categories and files come from users. A missing glyph would be an empty square,
the same for every character, and a warning of matplotlib's for each.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from pathlib import Path

import matplotlib
from matplotlib.ft2font import FT2Font
from PIL import ImageFont

FAMILY = "DejaVu Sans"  # comes with matplotlib: Latin, Greek, Cyrillic, Arabic and more
# Tried where it lacks a character, if they are installed: Chinese, Japanese, Korean.
_FURTHER_FAMILIES = (
    *("Noto Sans CJK JP", "Noto Sans CJK SC", "Noto Sans JP", "Noto Sans SC", "Noto Sans KR"),
    *("Hiragino Sans", "PingFang SC", "Yu Gothic", "Microsoft YaHei", "Malgun Gothic"),
    *("WenQuanYi Zen Hei", "WenQuanYi Micro Hei", "IPAGothic", "Droid Sans Fallback"),
    *("Arial Unicode MS", "Noto Sans"),
)
_SIZE = 11


def legible(text: str) -> str:
    r"""A text in which characters that cannot be shown are codes such as \u6771."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if _shows(c) else _code(c) for c in text)


def shortened(text: str, length: int) -> str:
    """A legible text of at most so many characters, with the middle left out."""
    text = legible(text)
    if len(text) <= length:
        return text
    end = (length - 1) // 2
    return f"{text[: length - 1 - end]}…{text[-end:]}"


def fitting(text: str, width: int) -> str:
    """The end of a text, legible, that fits a width in pixels: of a file name it tells the most."""
    text = legible(text)
    font = font_of(text)
    if font.getlength(text) <= width:
        return text
    # No character is narrower than a pixel; a name of a million of them is not measured in full.
    text = text[-max(width, 1) :]
    while text and font.getlength("…" + text) > width:
        text = text[1:]
    return "…" + text


def font_of(text: str) -> ImageFont.FreeTypeFont:
    """A font for pictures that has every character of a text, if there is one."""
    wanted = {ord(character) for character in text}
    fitting_paths = (path for path in _paths() if wanted <= _glyphs(path))
    return _font(next(fitting_paths, _own_path()))


def families(text: str) -> list[str]:
    """Fonts for matplotlib to try for a text, in this order."""
    return [FAMILY] if text.isascii() else [FAMILY, *_installed()]


def _shows(character: str) -> bool:
    return character.isprintable() and any(ord(character) in _glyphs(p) for p in _paths())


def _code(character: str) -> str:
    return character.encode("unicode_escape", "backslashreplace").decode("ascii")


def _paths() -> Iterator[str]:
    """Font files; those of the system are only looked for once matplotlib's own does not do."""
    yield _own_path()
    yield from _installed().values()


def _own_path() -> str:
    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", "DejaVuSans.ttf"))


@cache
def _installed() -> dict[str, str]:
    """Path of each further font that is installed, by its family."""
    from matplotlib.font_manager import fontManager  # reads a list of all fonts of the system

    paths = {entry.name: entry.fname for entry in fontManager.ttflist}
    return {name: paths[name] for name in _FURTHER_FAMILIES if name in paths}


@cache
def _glyphs(path: str) -> frozenset[int]:
    return frozenset(FT2Font(path).get_charmap())


@cache
def _font(path: str) -> ImageFont.FreeTypeFont:
    return ImageFont.truetype(path, _SIZE)
