"""Detections that are written down while others are still made: a kill loses one part at most."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from relaydet.errors import DamagedError
from relaydet.evaluation.results import Detection
from relaydet.json_file import decode_json
from relaydet.storage.store import Store

BATCHES = 25
"""In one part: a write every 200 images of a batch of 8."""


class _Part(msgspec.Struct):
    key: str
    """What the detections were made from, and how they were cut into parts."""
    batches: list[list[int]]
    """Indices of the images of each batch."""
    detections: list[list[Detection]]
    """Of each image, in that order."""


@dataclass(frozen=True)
class Shards:
    """Where the parts of an unfinished prediction are kept."""

    store: Store
    folder: str
    key: str
    """Names everything that the detections depend on; parts of another key count as absent."""

    def read(self, number: int, batches: list[list[int]]) -> dict[int, list[Detection]] | None:
        """Detections of each image of a part, by index; None where they are still to be made."""
        name = self._name(number)
        if not self.store.exists(name):
            return None
        try:
            part = decode_json(self.store.read(name), name, _Part)
        except DamagedError:
            return None  # damaged: predicting again mends it
        if (part.key, part.batches) != (self.key, batches):
            return None
        indices = [index for batch in batches for index in batch]
        if len(indices) != len(part.detections):
            return None
        return dict(zip(indices, part.detections, strict=True))

    def write(
        self, number: int, batches: list[list[int]], found: dict[int, list[Detection]]
    ) -> None:
        """Keep a finished part."""
        detections = [found[index] for batch in batches for index in batch]
        part = _Part(self.key, batches, detections)
        self.store.write(self._name(number), msgspec.json.encode(part))

    def clear(self) -> None:
        """Remove all parts, once everything is written elsewhere."""
        for name in self.store.names(self.folder):
            self.store.delete(name)

    def _name(self, number: int) -> str:
        return f"{self.folder}/{number:06d}.json"
