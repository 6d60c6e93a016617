"""Places that a user may name: paths, zips, http(s):// and gs:// addresses, and single files there.

A path or an address may go on inside a zip: "a.zip/x/y.json", "https://host/a.zip/x".
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from relaydet.bars import OpenBar, no_bar
from relaydet.data.known import CHECKSUMS
from relaydet.errors import RelayError
from relaydet.storage.cache import cache_folder
from relaydet.storage.gcs_files import SCHEME as GS
from relaydet.storage.gcs_files import gcs_server, media_address, split_address
from relaydet.storage.http import download
from relaydet.storage.parts import Checksum
from relaydet.storage.servers import Server, join, shown, web_server
from relaydet.storage.zips import find_name, folders_to_try, open_zip, read_zipped

REMOTE = ("http://", "https://", GS)
OTHER_ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")
# Annotations of millions of objects; `storage.zips` also limits how far a file may blow up.
MAX_ANNOTATION_BYTES = 8 << 30
LONGEST_NAME = 100


def is_remote(location: str) -> bool:
    """Whether a location is an http(s):// or gs:// address rather than a path."""
    return location.lower().startswith(REMOTE)


def _is_gs(location: str) -> bool:
    return location.lower().startswith(GS)


def is_other_archive(location: str) -> bool:
    """Whether a location names an archive that is not read in place.

    Raises:
        RelayError: it begins like an address and is none.
    """
    path = _path_of(location) if is_remote(location) else location
    return path.rstrip("/").lower().endswith(OTHER_ARCHIVES)


def split_zip_path(location: str) -> tuple[Path, str] | None:
    """The zip that a path leads to or into, and the path in it; None where no file is on the way.

    A folder whose name ends in .zip is a folder.
    """
    path = Path(location)
    try:
        for file in (path, *path.parents):
            if file.is_file():
                inside = path.relative_to(file).as_posix()
                return file, "" if inside == "." else inside
    except (OSError, ValueError):  # a path that the file system cannot even hold
        return None
    return None


def split_zip_address(location: str) -> tuple[str, str] | None:
    """The address of the zip that an address leads to or into, and the path in it; else None.

    Raises:
        RelayError: it is not an address.
    """
    path = _path_of(location)
    parts = path.split("/")
    for number, part in enumerate(parts, start=1):
        if part.lower().endswith(".zip"):
            inside = "/".join(parts[number:]).strip("/")
            inside = inside if _is_gs(location) else unquote(inside)
            return _with_path(location, "/".join(parts[:number])), inside
    return None


def _path_of(location: str) -> str:
    """The path of an address; "?" and "#" are parts of names in a bucket."""
    try:
        location.encode()  # no half characters, which no request can carry
        return split_address(location)[1] if _is_gs(location) else urlsplit(location).path
    except ValueError as error:
        raise RelayError(f"{location!r}: not an address ({error}); check it.") from error


def _with_path(location: str, path: str) -> str:
    if _is_gs(location):
        return f"{GS}{split_address(location)[0]}/{path}"
    return urlsplit(location)._replace(path=path, fragment="").geturl()


def server_of(location: str) -> Server:
    """How to ask for the files of an address.

    Raises:
        RelayError: what it takes is not installed or of no use.
    """
    return gcs_server() if _is_gs(location) else web_server()


def address_of(location: str, name: str = "") -> str:
    """The http address of a file at, or below, an http(s):// or gs:// address."""
    if _is_gs(location):
        return media_address(f"{location.rstrip('/')}/{name}" if name else location)
    return join(location, name) if name else location


def describe_address(location: str) -> str:
    """An address for a message, without what may be secret in it."""
    return location if _is_gs(location) else shown(location)


def local_copy(location: str, bar: OpenBar = no_bar, newest: bool = False) -> Path:
    """Path of a copy of one remote file, which is downloaded unless it is here.

    Args:
        location: an http(s):// or gs:// address.
        bar: shows how far the download is.
        newest: ask whether the file has changed since it was downloaded.

    Raises:
        RelayError: it cannot be had.
    """
    name = re.sub("[^A-Za-z0-9._-]", "-", _path_of(location).rpartition("/")[2])
    target = cache_folder(location) / (name.lstrip(".")[-LONGEST_NAME:] or "file")
    if target.is_file() and not newest:
        return target
    known = CHECKSUMS.get(location.replace("https://", "http://", 1))
    expected = Checksum(known[1], known[2], known[0]) if known else None
    return download(server_of(location), address_of(location), target, bar, expected, newest)


def read_bytes(location: str, bar: OpenBar = no_bar) -> bytes:
    """The bytes of the file at a location.

    A single remote file is asked for every time, and sent again only where it changed; a remote
    zip is downloaded once.

    Args:
        location: path or http(s):// or gs:// address of a file, or of one inside a zip.
        bar: shows how far a download is.

    Raises:
        RelayError: the file cannot be read.
    """
    if is_remote(location):
        inside = split_zip_address(location)
        if inside is None or not inside[1]:
            return _read_file(local_copy(location, bar, newest=True), location)
        return _read_zipped(local_copy(inside[0], bar), inside[1])
    zipped = split_zip_path(location)
    if zipped is None or not zipped[1]:
        return _read_file(Path(location), location)
    return _read_zipped(*zipped)


def _read_file(path: Path, location: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RelayError(f"{location}: cannot be read ({reason}); check the path.") from error


def _read_zipped(path: Path, name: str) -> bytes:
    index = open_zip(path)
    found = find_name(index, name, folders_to_try(index))
    if found is None:
        raise RelayError(
            f"{path}: the zip has no file {name!r}; it has {', '.join(list(index.places)[:5])}"
            f"{', ...' if len(index.places) > 5 else ''}."
        )
    return read_zipped(index, found, MAX_ANNOTATION_BYTES)
