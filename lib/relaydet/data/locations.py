"""Places that a user may name: paths, zips, http(s):// and gs:// addresses, and single files there.

A path or an address may go on inside a zip: "a.zip/x/y.json", "https://host/a.zip/x".
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from relaydet.addresses import scheme_of, shown, without_secrets
from relaydet.bars import OpenBar, no_bar
from relaydet.data.known import CHECKSUMS
from relaydet.errors import RelayError
from relaydet.storage.cache import cache_folder, disk_trouble, locked
from relaydet.storage.gcs_files import SCHEME as GS
from relaydet.storage.gcs_files import gcs_server, media_address, split_address
from relaydet.storage.limits import TEXT
from relaydet.storage.parts import Checksum
from relaydet.storage.servers import Server, join, web_server
from relaydet.storage.zips import (
    NotAZipError,
    ZipIndex,
    find_name,
    folders_to_try,
    open_zip,
    read_zipped,
)

REMOTE = ("http://", "https://", GS)
OTHER_ARCHIVES = (".tar", ".tgz", ".tbz2", ".txz", ".7z", ".rar", ".gz", ".bz2", ".xz", ".zst")
LONGEST_NAME = 100


def is_remote(location: str) -> bool:
    """Whether a location is an http(s):// or gs:// address rather than a path."""
    return location.lower().startswith(REMOTE)


def refuse_unknown_scheme(location: str) -> None:
    """Raise RelayError for an address of a kind that is not read, which is no path either."""
    scheme = scheme_of(location)
    if scheme and not is_remote(location) and not Path(location).exists():
        raise RelayError(
            f"{shown(location)}: addresses of {scheme}: are not read; write http://, https:// or"
            " gs://, or download it and give its path."
        )


def _is_gs(location: str) -> bool:
    return location.lower().startswith(GS)


def is_other_archive(location: str) -> bool:
    """Whether a location names an archive that is not read in place.

    Raises:
        RelayError: it begins like an address and is none.
    """
    path = _path_of(location) if is_remote(location) else location
    return path.rstrip("/").lower().endswith(OTHER_ARCHIVES)


def is_folder(location: str) -> bool:
    """Whether a path leads to a folder; also asked of what no path can be."""
    try:
        return Path(location).is_dir()
    except (OSError, ValueError):
        return False


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
        raise RelayError(
            f"{shown(location)!r}: not an address ({without_secrets(str(error))}); check it."
        ) from error


def _with_path(location: str, path: str) -> str:
    if _is_gs(location):
        return f"{GS}{split_address(location)[0]}/{path}"
    return urlsplit(location)._replace(path=path, fragment="").geturl()


def same_place(location: str, store: str) -> bool:
    """Whether an address lies in the same bucket as a store."""
    if not (_is_gs(location) and _is_gs(store)):
        return False
    return split_address(location)[0] == split_address(store)[0]


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


def local_copy(location: str, bar: OpenBar = no_bar, newest: bool = False) -> Path:
    """Path of a copy of one remote file, which is downloaded unless it is here.

    Args:
        location: an http(s):// or gs:// address.
        bar: shows how far the download is.
        newest: ask whether the file has changed since it was downloaded.

    Raises:
        RelayError: it cannot be had.
    """
    # Here, since it takes a while, which those who read from the disk need not wait for.
    from relaydet.storage.http import download

    name = re.sub("[^A-Za-z0-9._-]", "-", _path_of(location).rpartition("/")[2])
    target = cache_folder(location) / (name.lstrip(".")[-LONGEST_NAME:] or "file")
    if target.is_file() and not newest:
        return target
    known = CHECKSUMS.get(location.replace("https://", "http://", 1))
    expected = Checksum(known[1], known[2], known[0]) if known else None
    return download(server_of(location), address_of(location), target, bar, expected, newest)


def zip_copy(address: str, bar: OpenBar = no_bar) -> ZipIndex:
    """The list of files of a remote zip, which is downloaded unless it is here.

    Raises:
        RelayError: it cannot be had, or is not a whole zip; that is not kept.
    """
    path = local_copy(address, bar)
    try:
        return open_zip(path)
    except RelayError as error:
        if path.exists() and not isinstance(error, NotAZipError):
            raise
        _throw_away(path)
        raise RelayError(
            f"{shown(address)}: what came is not a whole zip; it was thrown away. Check"
            " the address in a browser, and run again."
        ) from error


def _throw_away(path: Path) -> None:
    """Remove what is no zip: kept, it would stand in the way of the right file for ever."""
    with disk_trouble(path.parent), locked(path):
        try:
            if path.exists():  # else another thread was faster
                open_zip(path)  # by now another thread may have brought the right one
        except NotAZipError:
            path.unlink(missing_ok=True)


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
            address = inside[0] if inside else location
            return _read_file(local_copy(address, bar, newest=True), location)
        return _read_zipped(zip_copy(inside[0], bar), inside[1])
    refuse_unknown_scheme(location)
    zipped = split_zip_path(location)
    if zipped is None or not zipped[1]:
        return _read_file(Path(location), location)
    return _read_zipped(open_zip(zipped[0]), zipped[1])


def _read_file(path: Path, location: str) -> bytes:
    try:
        return path.read_bytes()
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise RelayError(
            f"{shown(location)}: cannot be read ({reason}); check the path."
        ) from error


def _read_zipped(index: ZipIndex, name: str) -> bytes:
    found = find_name(index, name, folders_to_try(index))
    if found is None:
        some = ", ".join(list(index.places)[:5]) + (", ..." if len(index.places) > 5 else "")
        raise RelayError(f"{index.path}: the zip has no file {name!r}; it has {some}.")
    return read_zipped(index, found, TEXT)
