"""What has arrived of a file, and what the rest must match to belong to it.

HTTP: https://www.rfc-editor.org/rfc/rfc9110 (13.1.5 If-Range, 14.4 Content-Range).
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from relaydet.errors import RelayError
from relaydet.json_file import UNDECODABLE
from relaydet.storage.cache import refuse_full_disk

if TYPE_CHECKING:
    import requests

BLOCK_BYTES = 1 << 16
"""Read at once to check a file."""
PARTIAL_CONTENT = 206
CRC32C = "crc32c"


class Checksum(msgspec.Struct, frozen=True):
    """What a whole file must come to."""

    algorithm: str
    """A name that hashlib knows, or crc32c."""
    digest: str
    """Hexadecimal."""
    size: int | None = None
    """Bytes."""


class Facts(msgspec.Struct, frozen=True):
    """What a server said of the file that it sends."""

    etag: str = ""
    modified: str = ""
    length: int | None = None
    """Bytes of the whole file; None where the server does not tell."""
    checksum: Checksum | None = None

    def validator(self) -> str:
        """What If-Range takes; a weak ETag may stand for other bytes."""
        return self.modified if self.etag.startswith("W/") else self.etag or self.modified


def encoding_of(response: requests.Response) -> str:
    """How the body of an answer is packed, in small letters; identity where it is not."""
    return response.headers.get("Content-Encoding", "").strip().lower() or "identity"


def facts_of(response: requests.Response, checksum: Checksum | None) -> Facts:
    """What an answer says of the whole file."""
    headers = response.headers
    length = headers.get("Content-Length", "")
    if response.status_code == PARTIAL_CONTENT:
        length = headers.get("Content-Range", "").rpartition("/")[2]
    if encoding_of(response) != "identity":
        return Facts()  # squeezed on the way: neither its length nor a range of it is the file's
    return Facts(
        headers.get("ETag", ""),
        headers.get("Last-Modified", ""),
        int(length) if re.fullmatch("[0-9]+", length) else None,
        checksum,
    )


class Part:
    """A file on its way: the bytes so far, and the facts, kept beside it for the next process.

    Args:
        path: where its bytes go.
        note: where the facts go; None where no later process is to go on with it.
    """

    def __init__(self, path: Path, note: Path | None = None) -> None:
        self.path = path
        self.note = note
        self.facts = read_note(note)
        if not self._can_go_on():
            self.forget()

    def size(self) -> int:
        """Bytes that are here."""
        return self.path.stat().st_size if self.path.exists() else 0

    def is_whole(self) -> bool:
        """Whether all bytes are known to be here."""
        return bool(self.facts and self.path.exists() and self.size() == self.facts.length)

    def range_headers(self) -> dict[str, str]:
        """What to ask for the rest with, and for nothing else should the file have changed."""
        if self.facts is None or not self._can_go_on() or self.size() == 0:
            return {}
        return {"Range": f"bytes={self.size()}-", "If-Range": self.facts.validator()}

    def _can_go_on(self) -> bool:
        """Whether the rest can be told from the rest of another file."""
        return bool(self.facts and self.facts.validator() and self.facts.length is not None)

    def forget(self) -> None:
        """Throw away what is here: it is no beginning of the file."""
        self.path.unlink(missing_ok=True)
        if self.note is not None:
            self.note.unlink(missing_ok=True)
        self.facts = None

    def goes_on(self, response: requests.Response) -> bool:
        """Whether the answer holds just the bytes that are missing here, of the same file."""
        found = re.fullmatch(
            r"bytes (\d+)-(\d+)/(\d+)", response.headers.get("Content-Range", "").strip()
        )
        told = facts_of(response, None)
        if self.facts is None or not found or int(found[1]) != self.size():
            return False
        same = not told.etag or told.etag == self.facts.etag
        return same and told.length == self.facts.length

    def begin(self, facts: Facts) -> None:
        """Start again with a file of which the server said this."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self.path.unlink(missing_ok=True)
        if facts.length is not None:
            refuse_full_disk(self.path.parent, facts.length)
        # First, so that a killed process never leaves facts beside another file's bytes.
        self.path.touch()
        self.facts = facts
        if self.note is not None:
            self.note.write_bytes(msgspec.json.encode(facts))

    def append(self, blocks: Iterable[bytes], arrived: Callable[[int], object]) -> None:
        """Write bytes behind those that are here, and tell how many these are then."""
        with self.path.open("ab") as file:
            for block in blocks:
                file.write(block)
                arrived(file.tell())

    def publish(self, target: Path, note: Path | None) -> None:
        """Give a whole file its name, and its facts that of a note on the target."""
        if note is None or self.note is None:
            self.path.replace(target)
            return
        # In between there is no note: a killed process never leaves facts beside another file.
        note.unlink(missing_ok=True)
        self.path.replace(target)
        self.note.replace(note)


def read_note(note: Path | None) -> Facts | None:
    """What a server said of a file; None where that is not known."""
    if note is None or not note.exists():
        return None
    try:
        return msgspec.json.decode(note.read_bytes(), type=Facts)
    except UNDECODABLE:  # cut off when a process was killed: as good as none
        return None


def check(path: Path, expected: Checksum, arrived: Callable[[int], object]) -> str:
    """What is wrong with a file; empty where it is as expected.

    Args:
        path: the file.
        expected: what it must come to.
        arrived: told the bytes of every block that was read.
    """
    size = path.stat().st_size
    if expected.size is not None and size != expected.size:
        return f"it has {size} bytes instead of {expected.size}"
    digest = _new_digest(expected.algorithm)
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            digest.update(block)
            arrived(len(block))
    if digest.digest().hex() != expected.digest.lower():
        return f"its {expected.algorithm} is not {expected.digest}"
    return ""


def _new_digest(algorithm: str) -> Any:
    if algorithm != CRC32C:
        return hashlib.new(algorithm, usedforsecurity=False)
    try:
        import google_crc32c
    except ImportError as error:
        raise RelayError(
            "google-crc32c is not installed, which checks downloads from Google Cloud Storage;"
            " pip install google-cloud-storage."
        ) from error
    return google_crc32c.Checksum()
