"""Files over HTTP: gone on with after a break, tried a few times, and whole or absent.

Two ways in: `download` for one large file, which a later process goes on with, and `fetch_files`
for many small ones.
"""

from __future__ import annotations

import http.client
import random
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from pathlib import Path

import requests
import urllib3

from relaydet.bars import Advance, OpenBar, no_bar
from relaydet.errors import RelayError
from relaydet.storage.cache import DISK_ERRORS, disk_trouble, locked, remove_stale
from relaydet.storage.parts import Checksum, Part, check, facts_of
from relaydet.storage.servers import THREADS, Server, refuse_unreachable, shown

TRIES = 5
"""Tries in a row that bring nothing new before giving up."""
MOST_TRIES = 1000
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0
BATCH = 1024

GONE = {404, 410}
PASSING = {408, 425, 429, 500, 502, 503, 504}
FAILURES = (
    requests.RequestException,
    ValueError,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    ConnectionError,
    TimeoutError,
)


class NotThereError(RelayError):
    """The server has no such file."""


class _TryError(Exception):
    """This try failed, the next may not."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait


class _StoppedError(Exception):
    """Another file failed for good, so this one is not tried again."""


def download(
    server: Server,
    url: str,
    target: Path,
    bar: OpenBar = no_bar,
    expected: Checksum | None = None,
    newest: bool = False,
) -> Path:
    """Bring one file here, or the rest of it; does nothing where it is here.

    Beside it lie, while it is under way, its bytes so far (.part) and what they belong to (.json).

    Args:
        server: whom to ask.
        url: its address.
        target: where it goes; its folder is made.
        bar: shows the bytes.
        expected: checksum that the file must have.
        newest: ask whether a file that is here has changed since.

    Raises:
        NotThereError: there is no such file.
        RelayError: the server cannot be reached, keeps failing, or sends something else; the disk
            is full.
    """
    with disk_trouble(target.parent), locked(target):
        if target.is_file() and not newest:
            return target
        part = Part(_beside(target, "part"), _beside(target, "json"))
        if not part.is_whole():
            refuse_unreachable(url)
            with _byte_bar(bar, f"downloading {target.name}") as arrived:
                unless = _known(target, part)
                if not _receive(server, url, part, arrived, threading.Event(), unless):
                    return target
        _publish(part, target, url, expected, bar)
    return target


def _beside(target: Path, ending: str) -> Path:
    return target.with_name(f"{target.name}.{ending}")


def _known(target: Path, part: Part) -> dict[str, str]:
    """Headers that ask for the file only where it is not the one that is here."""
    if part.facts is None or not target.is_file() or part.path.exists():
        return {}
    known = {"If-None-Match": part.facts.etag, "If-Modified-Since": part.facts.modified}
    return {header: value for header, value in known.items() if value}


def _publish(part: Part, target: Path, url: str, expected: Checksum | None, bar: OpenBar) -> None:
    """Check a whole file and give it its name."""
    stated = part.facts.checksum if part.facts else None
    for checksum in filter(None, (expected, stated)):
        with bar(f"checking {target.name}", part.size(), "B") as advance:
            wrong = check(part.path, checksum, advance)
        if wrong:
            part.forget()
            raise RelayError(
                f"{shown(url)}: what came is not the right file ({wrong}); it was thrown away. Run"
                " again, or check the address."
            )
    part.path.replace(target)


@contextmanager
def _byte_bar(bar: OpenBar, label: str) -> Iterator[Callable[[int, int | None], None]]:
    """A bar that opens with the first bytes, when the total is known, and never goes back."""
    with ExitStack() as stack:
        advance: Advance | None = None
        most = 0

        def arrived(size: int, total: int | None) -> None:
            nonlocal advance, most
            if advance is None:
                advance = stack.enter_context(bar(label, total or 0, "B"))
            advance(max(0, size - most))
            most = max(size, most)

        yield arrived


def _receive(
    server: Server,
    url: str,
    part: Part,
    arrived: Callable[[int, int | None], object],
    stop: threading.Event,
    unless: Mapping[str, str],
) -> bool:
    """Bring what is missing of a part, over as many tries as bring something new.

    Returns:
        Whether it is whole now; False where the server says that it has not changed.
    """
    failures = most = 0
    for _ in range(MOST_TRIES):
        try:
            headers = part.range_headers() or unless
            with server.get(url, headers) as response:
                return _take(server, response, part, arrived)
        except (_TryError, *FAILURES) as error:
            if isinstance(error, ValueError | requests.TooManyRedirects):
                raise RelayError(f"{shown(url)}: cannot be asked for ({error}).") from error
            failures = 1 if part.size() > most else failures + 1
            most = max(most, part.size())
            if failures >= TRIES:
                raise RelayError(
                    f"{shown(url)}: gave up after {TRIES} tries ({_reason(error)}); run again to go"
                    " on from here."
                ) from error
            wait = FIRST_WAIT_SECONDS * 2 ** (failures - 1) * random.uniform(0.5, 1)
            if stop.wait(max(wait, getattr(error, "wait", 0.0))):
                raise _StoppedError from error
    raise RelayError(f"{shown(url)}: gave up after {MOST_TRIES} broken connections; run again.")


def _take(
    server: Server,
    response: requests.Response,
    part: Part,
    arrived: Callable[[int, int | None], object],
) -> bool:
    """Write what an answer brings; False where it says that nothing has changed."""
    status = response.status_code
    if status == requests.codes.not_modified:
        return False
    _refuse_status(server, response)
    if status == requests.codes.ok:
        part.begin(facts_of(response, server.checksum(response)))
    elif status != requests.codes.partial_content or not part.goes_on(response):
        part.forget()
        raise _TryError("the file changed while it was read")
    length = part.facts.length if part.facts else None
    arrived(part.size(), length)
    part.append(response, lambda size: arrived(size, length))
    if length is not None and part.size() != length:
        raise _TryError(f"the connection broke after {part.size()} of {length} bytes")
    return True


def _refuse_status(server: Server, response: requests.Response) -> None:
    status, url = response.status_code, response.url
    said = f"it says {status} {response.reason}".strip()
    if status in GONE:
        raise NotThereError(f"{shown(url)}: there is no such file ({said}); check the address.")
    if status in PASSING:
        raise _TryError(said, _wait_asked_for(response.headers.get("Retry-After", "")))
    if status in (401, 403):
        raise RelayError(f"{shown(url)}: access is denied ({said}); {server.if_denied}.")
    if status not in (200, 206, 416):
        raise RelayError(f"{shown(url)}: cannot be had ({said}); check the address.")


def _wait_asked_for(value: str) -> float:
    """Seconds that Retry-After asks for, up to a limit; a number or a date (RFC 9110, 10.2.3)."""
    try:
        seconds = float(value)
    except ValueError:
        try:
            until = parsedate_to_datetime(value)
        except (ValueError, TypeError):
            return 0.0
        until = until if until.tzinfo else until.replace(tzinfo=timezone.utc)
        seconds = (until - datetime.now(timezone.utc)).total_seconds()
    return min(max(seconds, 0.0), LONGEST_WAIT_SECONDS) if seconds == seconds else 0.0


def _reason(error: Exception) -> str:
    """The innermost cause; what requests and urllib3 wrap around it only repeats it."""
    while isinstance(error.__cause__ or error.__context__, Exception):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return str(error) or type(error).__name__


def fetch_files(
    server: Server,
    wanted: Sequence[tuple[str, Path]],
    parts: Path,
    label: str,
    bar: OpenBar = no_bar,
) -> None:
    """Bring many small files here at once; each is whole or absent.

    Left out are files that the server does not have, and files whose name the disk cannot hold.

    Args:
        server: whom to ask.
        wanted: address and path of each file.
        parts: folder, on the same disk, of what is under way.
        label: what to call them all on the bar.
        bar: shows the files.

    Raises:
        RelayError: the server cannot be reached or keeps failing; the disk is full.
    """
    if not wanted:
        return
    stop = threading.Event()

    def fetch(file: tuple[str, Path]) -> None:
        try:
            _fetch_one(server, *file, parts, stop)
        except BaseException:
            stop.set()  # at once: the others may be waiting to try again
            raise

    with disk_trouble(parts):
        parts.mkdir(parents=True, exist_ok=True)
        remove_stale(parts)
        refuse_unreachable(wanted[0][0])
        with ThreadPoolExecutor(THREADS) as pool, bar(label, len(wanted), "file") as advance:
            try:
                # In batches: a hundred thousand waiting calls would take much memory.
                for start in range(0, len(wanted), BATCH):
                    for _ in pool.map(fetch, wanted[start : start + BATCH]):
                        advance(1)
            finally:
                stop.set()


def _fetch_one(server: Server, url: str, path: Path, parts: Path, stop: threading.Event) -> None:
    with tempfile.NamedTemporaryFile(dir=parts, delete=False) as file:
        part = Part(Path(file.name))
    try:
        if not stop.is_set() and _can_hold(path):
            _receive(server, url, part, lambda size, total: None, stop, {})
            _publish(part, path, url, None, no_bar)
    except (NotThereError, _StoppedError):
        return
    finally:
        part.path.unlink(missing_ok=True)


def _can_hold(path: Path) -> bool:
    """Whether the file system takes a file of that name: not too long, no folder in its place."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        return not path.exists()
    except OSError as error:
        if error.errno in DISK_ERRORS:
            raise
        return False
