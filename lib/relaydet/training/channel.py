"""What the ranks on one machine and the program that launched them tell each other: a folder.

Files, not pipes: they can be read by somebody who comes later, a rank that dies leaves them whole,
and nobody is held up by a reader that is away.

    config.json     what to train
    events.jsonl    what ranks say, in order: a line each, written at once
    stop            why to save and pause, once somebody wants it
    over            is there once all shall end at once
    meeting-N       where the ranks of the Nth start leave each other notes
    output-R.log    whatever else rank R prints
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

BAR_SECONDS = 0.2
"""How often a bar's place is told at most."""


@dataclass
class Channel:
    """Either end."""

    folder: Path
    _read: int = field(default=0, init=False)

    @property
    def config(self) -> Path:
        """What to train, as JSON."""
        return self.folder / "config.json"

    def log(self, rank: int) -> Path:
        """Return the file of what a rank prints."""
        return self.folder / f"output-{rank}.log"

    def meeting(self, start: int) -> Path:
        """Return the file over which the ranks meet; each start has its own."""
        return self.folder / f"meeting-{start}"

    def tell(self, **event: Any) -> None:
        """Add an event; of several processes at once, each line stays whole."""
        line = msgspec.json.encode(event) + b"\n"
        descriptor = os.open(
            self.folder / "events.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644
        )
        try:
            os.write(descriptor, line)
        finally:
            os.close(descriptor)

    def news(self) -> Iterator[dict[str, Any]]:
        """The events since the last call."""
        try:
            with (self.folder / "events.jsonl").open("rb") as file:
                file.seek(self._read)
                text = file.read()
        except FileNotFoundError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._read += len(whole)
        yield from map(msgspec.json.decode, whole.splitlines())

    def ask_to_stop(self, reason: str) -> None:
        """Ask all ranks to save and pause."""
        half = self.folder / "stop.half"
        half.write_text(reason)
        half.replace(self.folder / "stop")

    def end_now(self) -> None:
        """Tell all ranks to end at once, whatever they are doing."""
        (self.folder / "over").touch()

    def take_back_end(self) -> None:
        """Let ranks that are started from now on go on."""
        (self.folder / "over").unlink(missing_ok=True)

    def is_over(self) -> bool:
        """Whether they were told so."""
        return (self.folder / "over").exists()

    def stop_reason(self) -> str | None:
        """Why to stop; None while nobody asked."""
        try:
            return (self.folder / "stop").read_text()
        except FileNotFoundError:
            return None


@dataclass
class ToldBar:
    """A bar that is shown at the other end; used as tqdm's is."""

    channel: Channel
    label: str
    total: int
    done: int
    _told_at: float = field(default=0.0, init=False)
    _postfix: dict[str, str] = field(default_factory=dict, init=False)

    def __enter__(self) -> ToldBar:
        """Open it."""
        self.channel.tell(bar=[self.label, self.total, self.done])
        return self

    def __exit__(self, *_error: object) -> None:
        """Close it."""
        self._tell()
        self.channel.tell(close=True)

    def update(self) -> None:
        """One more is done."""
        self.done += 1
        if time.monotonic() - self._told_at >= BAR_SECONDS:
            self._tell()

    def set_postfix(self, refresh: bool = True, **values: str) -> None:
        """What stands behind the bar."""
        self._postfix = values

    def _tell(self) -> None:
        self._told_at = time.monotonic()
        self.channel.tell(at=self.done, postfix=self._postfix)
