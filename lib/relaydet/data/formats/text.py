"""Numbers and file names in formats that are plain text."""

from __future__ import annotations

import math
import re

from relaydet.data.images.folder import check_inside
from relaydet.errors import RelayError

# Narrower than float(), which also takes 1_000, nan and digits of other scripts.
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,4})?")
# What XML 1.0 cannot hold at all, and what would break a line of a list.
_UNWRITABLE = re.compile("[\x00-\x1f\ud800-\udfff\ufffe\uffff]")
MAX_DIGITS = 400


def number(text: str) -> float | None:
    """The finite number that a text is, or None; white space around it is allowed."""
    text = text.strip()
    if len(text) > MAX_DIGITS or not _NUMBER.fullmatch(text):
        return None
    value = float(text)
    return value if math.isfinite(value) else None


def is_unicode(name: str) -> bool:
    """Whether a file name is text; on Linux it may be any bytes."""
    return not re.search("[\ud800-\udfff]", name)


def check_listable(name: str, target: str) -> None:
    """Refuse an image name that cannot be a path inside a folder, or a line of a list.

    Args:
        name: file name of an image.
        target: name of the format that is written, for the message.

    Raises:
        RelayError: the name leads out of its folder, or has a control character in it.
    """
    check_inside(target, name)
    if _UNWRITABLE.search(name) or name.endswith("/"):
        raise RelayError(
            f"{target}: the image name {name!r} has a character that files of this format cannot"
            " hold; rename the image."
        )


def without_suffix(name: str) -> str:
    """A path without its file's extension, and without the parts that mean nothing."""
    parts = [part for part in name.split("/") if part not in ("", ".")] or [""]
    stem, dot, _ = parts[-1].rpartition(".")
    parts[-1] = stem if dot and stem else parts[-1]
    return "/".join(parts)
