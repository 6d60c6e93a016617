"""One file from a server, over as many tries as bring something new."""

from __future__ import annotations

import http.client
import random
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime

import requests
import urllib3

from relaydet.addresses import shown, without_secrets
from relaydet.errors import RelayError
from relaydet.storage.bodies import StoppedError, TryError, blocks, is_page
from relaydet.storage.limits import ANY, Limits
from relaydet.storage.parts import Part, facts_of
from relaydet.storage.servers import Server

TRIES = 5
"""Tries in a row that bring nothing new before giving up."""
MANY_TRIES = 20
LEAST_BYTES = 1_000_000
"""What so many tries must bring together; less would take days."""
FIRST_WAIT_SECONDS = 1.0
LONGEST_WAIT_SECONDS = 60.0

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


@dataclass(frozen=True)
class Errand:
    """A file to bring."""

    server: Server
    url: str
    limits: Limits = ANY
    pages: bool = True
    """Whether a web page may be what is wanted."""
    stop: threading.Event = field(default_factory=threading.Event)
    """Set by another thread, it ends the errand with StoppedError."""
    arrived: Callable[[int, int | None], object] = lambda size, total: None
    """Told the bytes that are here, and of how many."""


class _Patience:
    """Counts tries, and what they brought."""

    def __init__(self) -> None:
        self.tries = self.failures = self.most = self.before = 0

    def spent(self, size: int) -> str:
        """After a failed try that left so many bytes here: the tries in vain, if enough are."""
        self.tries += 1
        self.failures = 1 if size > self.most else self.failures + 1
        self.most = max(self.most, size)
        if self.failures >= TRIES:
            return f"{TRIES} tries"
        if self.tries % MANY_TRIES:
            return ""
        brought, self.before = self.most - self.before, self.most
        return f"{MANY_TRIES} tries for {brought} bytes" if brought < LEAST_BYTES else ""


def receive(errand: Errand, part: Part, unless: Mapping[str, str]) -> bool:
    """Bring what is missing of a part, over as many tries as bring something new.

    Args:
        errand: the file.
        part: what is here of it.
        unless: headers that ask for it only where it has changed.

    Returns:
        Whether it is whole now; False where the server says that it has not changed.

    Raises:
        NotThereError: there is no such file.
        StoppedError: the errand was stopped.
        RelayError: the server keeps failing, or sends something else.
    """
    patience = _Patience()
    while True:
        try:
            headers = part.range_headers()
            with errand.server.get(errand.url, headers or unless) as response:
                return _take(errand, response, part, bool(unless and not headers))
        except (TryError, *FAILURES) as error:
            if isinstance(error, ValueError | requests.TooManyRedirects):
                raise RelayError(
                    f"{shown(errand.url)}: cannot be asked for ({without_secrets(str(error))})."
                ) from error
            if spent := patience.spent(part.size()):
                raise RelayError(
                    f"{shown(errand.url)}: gave up after {spent} ({_reason(error)}); run again to"
                    " go on from here."
                ) from error
            wait = FIRST_WAIT_SECONDS * 2 ** (patience.failures - 1) * random.uniform(0.5, 1)
            if errand.stop.wait(max(wait, getattr(error, "wait", 0.0))):
                raise StoppedError from error


def _take(errand: Errand, response: requests.Response, part: Part, conditional: bool) -> bool:
    """Write what an answer brings; False where it says that nothing has changed."""
    status = response.status_code
    if status == requests.codes.not_modified:
        if conditional:
            return False
        raise TryError("it says 304, not modified, without having been asked that")
    _refuse_status(errand.server, response)
    if not errand.pages:
        refuse_page(errand.url, response.headers.get("Content-Type", ""), b"")
    if status == requests.codes.ok:
        part.begin(facts_of(response, errand.server.checksum(response)))
    elif status != requests.codes.partial_content or not part.goes_on(response):
        part.forget()
        raise TryError("the file changed while it was read")
    length = part.facts.length if part.facts else None
    errand.arrived(part.size(), length)
    try:
        body = blocks(response, errand.limits, errand.stop)
        part.append(body, lambda size: errand.arrived(size, length))
    except RelayError:
        part.forget()
        raise
    if length is not None and part.size() != length:
        raise TryError(f"the connection broke after {part.size()} of {length} bytes")
    return True


def refuse_page(url: str, content_type: str, start: bytes) -> None:
    """Refuse a web page in the place of a file, which would else be kept for ever.

    Raises:
        RelayError: it is one.
    """
    if is_page(content_type, start):
        raise RelayError(
            f"{shown(url)}: the address answers with a web page instead of a file; check it in a"
            " browser, and whether one must log in there first."
        )


def _refuse_status(server: Server, response: requests.Response) -> None:
    status, url = response.status_code, response.url
    said = f"it says {status} {response.reason}".strip()
    if status in GONE:
        raise NotThereError(f"{shown(url)}: there is no such file ({said}); check the address.")
    if status in PASSING:
        raise TryError(said, _wait_asked_for(response.headers.get("Retry-After", "")))
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
    while not isinstance(error, TryError) and isinstance(
        error.__cause__ or error.__context__, Exception
    ):
        error = error.__cause__ or error.__context__  # type: ignore[assignment]
    return without_secrets(str(error)) or type(error).__name__
