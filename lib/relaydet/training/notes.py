"""Notes that ranks leave each other in torch.distributed's store."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

LOOK_SECONDS = 0.05
"""How often somebody looks for a note."""


def leave(store: Any, name: str, note: str) -> None:
    """Leave a note that can be looked for without waiting, which torch's stores of 2.0 cannot."""
    store.set(name, note)
    store.add(f"{name}#", 1)


def has(store: Any, name: str) -> bool:
    """Whether somebody left the note."""
    return store.add(f"{name}#", 0) > 0


@dataclass(frozen=True)
class Counts:
    """A number for each rank of this machine, in a file: torch's FileStore grows by every note."""

    path: Path
    _SIZE = 8

    def put(self, rank: int, count: int) -> None:
        """Write a rank's own number; the file is there once `create` was called."""
        with self.path.open("r+b", buffering=0) as file:
            file.seek(self._SIZE * rank)
            file.write(count.to_bytes(self._SIZE, "little"))

    def create(self) -> None:
        """Make the file; any rank may, and another one's numbers stay."""
        self.path.open("ab").close()

    def of(self, ranks: int) -> list[int]:
        """Return the numbers of all ranks, 0 for one that has written none."""
        data = self.path.read_bytes().ljust(self._SIZE * ranks, b"\0")
        starts = range(0, self._SIZE * ranks, self._SIZE)
        return [int.from_bytes(data[at : at + self._SIZE], "little") for at in starts]
