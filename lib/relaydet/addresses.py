"""Addresses without what may be secret in them: the one way in which they are shown or stored.

Paths are addresses of this machine and stay as they are. Secret may be a user and password
(`https://user:password@host`), a query (keys, signatures) and a fragment (tokens).
"""

from __future__ import annotations

import re

_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):[/\\]+")
_WEB = frozenset({"http", "https", "ftp", "ftps", "sftp", "ws", "wss"})
_QUERY = re.compile(r"[?#].*", re.DOTALL)
# In a bucket "?" and "#" are parts of names, but for what looks like the query of a signed address.
_QUERY_OF_BUCKET = re.compile(r"[?#][^?#/=]*=.*", re.DOTALL)
_PORT = re.compile(r"[^:]*(:[0-9]*)?|\[[^\]]*\](:[0-9]*)?")


def scheme_of(location: str) -> str:
    """Return the scheme of an address in small letters, such as https; empty for a path."""
    found = _SCHEME.match(location)
    return found[1].lower() if found else ""


def shown(location: str) -> str:
    """Return a location as it may be shown and stored: an address without what may be secret in it.

    Args:
        location: a path, which is returned as it is, or an address, which need not be a right one.
    """
    found = _SCHEME.match(location)
    if found is None:
        return location
    rest = location[found.end() :]
    host, path = _split(rest)
    if "@" not in host and "@" in path and not _PORT.fullmatch(host):
        host, path = _split(rest.rpartition("@")[2])  # a password with a slash in it
    query = _QUERY if found[1].lower() in _WEB else _QUERY_OF_BUCKET
    return found[0] + host.rpartition("@")[2] + query.sub("", path)


def _split(rest: str) -> tuple[str, str]:
    """What stands before and from the first character that ends a host."""
    end = re.search(r"[/\\?#]", rest)
    return (rest[: end.start()], rest[end.start() :]) if end else (rest, "")


def without_secrets(text: str) -> str:
    """Return a text from elsewhere without the passwords and queries of the addresses in it."""
    text = re.sub(r"[^\s/'\"]*@", "", text)
    return re.sub(r"[?#][^\s'\"]*", "", text)
