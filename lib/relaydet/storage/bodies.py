"""The body of an answer, as it arrives: at a bearable pace, as it is in the file, and limited.

Encodings: https://www.rfc-editor.org/rfc/rfc9110#section-8.4.1 (gzip and deflate). Nothing but the
bytes as they are is asked for, but some servers pack all the same. The client library is not left
to unpack: it takes half a gzip stream for all of it, and what it does not know for plain bytes.
"""

from __future__ import annotations

import threading
import time
import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from relaydet.addresses import shown
from relaydet.errors import RelayError
from relaydet.storage.limits import Limits
from relaydet.storage.parts import encoding_of

if TYPE_CHECKING:
    import requests

READ_BYTES = 1 << 16
"""Read at most at once; a read gives what is there."""
FULL_READ_BYTES = 1 << 8
"""Read at once where a read waits for all of it (urllib3 1.26)."""
SLOW_SECONDS = 60.0
SLOWEST = 100
"""Bytes per second. So low because a slow line may be shared by many downloads."""
GZIP, ZLIB, RAW = 16 + zlib.MAX_WBITS, zlib.MAX_WBITS, -zlib.MAX_WBITS
PAGE_STARTS = (b"<!doctype html", b"<html")


class TryError(Exception):
    """This try failed, the next may not."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class StoppedError(Exception):
    """Another file failed for good, or the user has stopped it all."""


def blocks(response: requests.Response, limits: Limits, stop: threading.Event) -> Iterator[bytes]:
    """The bytes of the file that an answer holds, unpacked where the server packed them.

    Raises:
        TryError: they come too slowly, or what was packed is damaged or cut off.
        StoppedError: `stop` was set.
        RelayError: they are more than the limits allow, or packed in another way.
    """
    encoding, address = encoding_of(response), shown(response.url)
    arriving = _arriving(response.raw, stop)
    if encoding == "identity":
        return _limited(arriving, limits, address)
    if encoding in ("gzip", "x-gzip", "deflate"):
        return _inflated(arriving, encoding, limits, address)
    raise RelayError(
        f"{address}: the server packs it as {encoding!r}, which was not asked for; download it in"
        " another way, and give its path."
    )


def _arriving(raw: Any, stop: threading.Event) -> Iterator[bytes]:
    """What is there, as soon as it is there: at a break nothing of it is lost."""
    at_once = hasattr(raw, "read1")
    since, brought = time.monotonic(), 0
    while piece := raw.read1(READ_BYTES) if at_once else raw.read(FULL_READ_BYTES):
        yield piece
        if stop.is_set():
            raise StoppedError
        brought += len(piece)
        seconds = time.monotonic() - since
        if seconds >= SLOW_SECONDS:
            if brought < SLOWEST * seconds:
                raise TryError(f"only {brought} bytes came in {seconds:.0f} s")
            since, brought = time.monotonic(), 0
    raw.read(1)  # older `read1` do not notice the end, and the connection is not used again


def _limited(arriving: Iterator[bytes], limits: Limits, address: str) -> Iterator[bytes]:
    size = 0
    for piece in arriving:
        size += len(piece)
        _refuse_size(size, size, limits.most, address)
        yield piece


def _inflated(
    arriving: Iterator[bytes], encoding: str, limits: Limits, address: str
) -> Iterator[bytes]:
    inflater, packed, size = None, 0, 0
    for piece in arriving:
        packed += len(piece)
        while piece:
            if inflater is None or inflater.eof:  # a gzip may consist of several
                inflater = _inflater(encoding, piece[0])
            for data in _unpack(inflater, piece):
                size += len(data)
                _refuse_size(size, packed, limits.inflated(packed), address)
                yield data
            piece = inflater.unused_data
    if inflater is None or not inflater.eof:
        raise TryError(f"the {encoding} that it came in is cut off")


def _inflater(encoding: str, first: int) -> Any:
    """For deflate, some servers leave the zlib header out, which begins with 8 (RFC 1950)."""
    if encoding != "deflate":
        return zlib.decompressobj(GZIP)
    return zlib.decompressobj(ZLIB if first & 15 == 8 else RAW)


def _unpack(inflater: Any, piece: bytes) -> Iterator[bytes]:
    """What a piece becomes, never much of it at once."""
    data = b""
    while piece or len(data) == READ_BYTES:
        try:
            data = inflater.decompress(piece, READ_BYTES)
        except zlib.error as error:
            raise TryError(f"what it came packed in is damaged ({error})") from error
        yield data
        piece = inflater.unconsumed_tail


def _refuse_size(size: int, packed: int, most: int, address: str) -> None:
    if size > most:
        raise RelayError(
            f"{address}: {packed} bytes came, and the {size} that they make so far are more than"
            " such a file can have; check the address."
        )


def is_page(content_type: str, start: bytes) -> bool:
    """Whether an answer is a page for a browser, such as one to log in at, rather than a file.

    Args:
        content_type: header of that name.
        start: the first bytes of the body.
    """
    kind = content_type.partition(";")[0].strip().lower()
    text = start.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    return kind == "text/html" or text.startswith(PAGE_STARTS)
