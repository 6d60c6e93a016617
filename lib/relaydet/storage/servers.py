"""Web servers: how to ask them, what to call them in a message, and whether there is a way to them.

What differs between servers (credentials, checksums) is a `Server`; `http` brings files from any.
"""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from relaydet.addresses import shown, without_secrets
from relaydet.errors import RelayError
from relaydet.storage.parts import Checksum

if TYPE_CHECKING:
    import requests

CONNECT_SECONDS = 10.0
STALL_SECONDS = 30.0
THREADS = 16
"""Requests at once."""

Get = Callable[[str, Mapping[str, str]], "requests.Response"]


@dataclass(frozen=True)
class Server:
    """How to ask a server for files."""

    get: Get
    """Ask for an address with headers; the answer's body is still to be read."""
    checksum: Callable[[requests.Response], Checksum | None] = lambda response: None
    """The checksum of the whole file that an answer states."""
    if_denied: str = "check the address, or whether it needs a key"
    """What to do where access is denied."""


def web_server() -> Server:
    """Any web server, asked without credentials of its own."""
    # Here, since it takes a while, which those who read from the disk need not wait for.
    import requests
    from requests.adapters import HTTPAdapter

    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(pool_maxsize=THREADS))
    return Server(lambda url, headers: ask(session, url, headers))


def ask(session: requests.Session, url: str, headers: Mapping[str, str]) -> requests.Response:
    """Ask for the bytes of a file as they are, with timeouts."""
    headers = {"Accept-Encoding": "identity", **headers}
    return session.get(url, headers=headers, stream=True, timeout=(CONNECT_SECONDS, STALL_SECONDS))


def join(folder: str, name: str) -> str:
    """Address of a file below the address of a folder; a query (such as a key) stays behind it."""
    address = urlsplit(folder)
    path = f"{address.path.rstrip('/')}/{quote(name)}"
    return address._replace(path=path, fragment="").geturl()


def refuse_unreachable(url: str) -> None:
    """Notice soon that there is no way to a host, or to the proxy in front of it.

    In a thread of its own, because a name look-up has no timeout and may block for minutes.

    Raises:
        RelayError: no connection could be made.
    """
    import requests

    try:
        proxy = requests.utils.select_proxy(url, requests.utils.get_environ_proxies(url))
        address = urlsplit(requests.utils.prepend_scheme_if_needed(proxy, "http") if proxy else url)
        port = address.port or (443 if address.scheme == "https" else 80)
        host = urlsplit(url).hostname
        if not host or not address.hostname:
            raise ValueError("it names no host")
    except (ValueError, requests.RequestException) as error:
        raise RelayError(
            f"{shown(url)}: not an address ({without_secrets(str(error))}); check it."
        ) from error
    reason = [f"no answer within {CONNECT_SECONDS:g} s"]
    connected = threading.Event()

    def connect() -> None:
        try:
            socket.create_connection((address.hostname, port), CONNECT_SECONDS).close()
            connected.set()
        except (OSError, UnicodeError) as error:
            reason[0] = getattr(error, "strerror", None) or str(error)

    attempt = threading.Thread(target=connect, daemon=True)
    attempt.start()
    attempt.join(CONNECT_SECONDS)
    if not connected.is_set():
        raise RelayError(
            f"{shown(url)}: no connection to {host} ({reason[0]}); check the address, and whether"
            " internet is switched on."
        )
