"""How large a file may become once inflated, out of a zip or on the way here."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Limits:
    """What a packed file may come to; a crafted one holds a thousand times its size."""

    most: int
    """Bytes that it may have at all."""
    free: int
    """Bytes that it may have however few they came from."""
    ratio: int
    """Beyond those, bytes for each packed one."""

    def inflated(self, packed: int) -> int:
        """Bytes that so many packed bytes may become."""
        return min(self.most, max(self.free, self.ratio * packed))


# Deflate reaches 1000 on zeros alone; images stay below 2, JSON below 50.
IMAGE = Limits(512 << 20, 4 << 20, 20)
TEXT = Limits(8 << 30, 16 << 20, 200)
"""Annotations of millions of objects."""
ANY = Limits(1 << 62, 16 << 20, 200)
"""A download, which may be a zip of any size; its disk is looked at before."""
