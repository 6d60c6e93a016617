"""Single files out of a zip, which is never unpacked.

Python's `zipfile` keeps one open file with one position, which forked loader workers would share,
and ten times the file's size in memory for a crafted one. So the list of files is read here, kept
as its raw bytes with the place of each name, and every read opens the zip for itself.

Format: APPNOTE.TXT 6.3.10, https://pkware.cachefly.net/webdocs/casestudies/APPNOTE.TXT
(the section numbers below are its). Of several entries with one name the last counts, as for
Python and Info-ZIP: that is how a zip is updated. Names are UTF-8 where they can be, else code page
437, and compared in Unicode's form NFC, since macOS writes NFD.
"""

from __future__ import annotations

import os
import posixpath
import struct
import unicodedata
import zipfile
import zlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from relaydet.errors import RelayError
from relaydet.storage.limits import IMAGE, Limits

END = struct.Struct("<4s4H2LH")  # 4.3.16 end of central directory
LOCATOR_64 = struct.Struct("<4sLQL")  # 4.3.15
END_64 = struct.Struct("<4sQ2H2L4Q")  # 4.3.14
ENTRY = struct.Struct("<4s6H3L5H2L")  # 4.3.12 a file in the central directory
NAME_LENGTHS = struct.Struct("<3H")  # ... of which: lengths of the name, the extra field, a comment
NAME_LENGTHS_AT = 28
LOCAL = struct.Struct("<4s22x2H")  # 4.3.7 what stands before the file's bytes
LONGEST_COMMENT = 65_535
ENCRYPTED, MASKED = 1 << 0, 1 << 13
STORED, DEFLATED = 0, 8
IN_EXTRA_FIELD = 0xFFFFFFFF


@dataclass(frozen=True)
class ZipIndex:
    """The files of a zip and where their entries are."""

    path: Path
    directory: bytes
    """The central directory."""
    places: dict[str, int]
    """Position in `directory` of the entry of each file."""
    shift: int
    """Bytes in front of the zip proper (self-extracting ones have a program there)."""


@dataclass(frozen=True)
class Entry:
    """What the central directory says of a file."""

    flags: int
    method: int
    crc: int
    packed: int
    """Bytes in the zip."""
    size: int
    """Bytes once inflated."""
    offset: int
    """Position of its local header."""


class NotAZipError(RelayError):
    """A file is not a zip, or not all of one."""


def is_zip(path: Path) -> bool:
    """Whether a file is a zip, or at least called one."""
    return path.suffix.lower() == ".zip" or zipfile.is_zipfile(path)


def open_zip(path: Path) -> ZipIndex:
    """Read the list of files of a zip, once for each state of it.

    Raises:
        RelayError: the file cannot be read or is not a whole zip.
    """
    try:
        state = path.stat()
        return _read_index(path, state.st_size, state.st_mtime_ns)
    except OSError as error:
        raise RelayError(f"{path}: cannot be read ({error.strerror}); check the path.") from error


@lru_cache(maxsize=32)
def _read_index(path: Path, size: int, modified: int) -> ZipIndex:
    with path.open("rb") as file:
        file.seek(max(0, size - END.size - LONGEST_COMMENT - LOCATOR_64.size - END_64.size))
        tail = file.read()
        start, length, shift = _find_directory(path, tail, size)
        file.seek(start)
        directory = file.read(length)
    return ZipIndex(path, directory, _list_files(path, directory), shift)


def _find_directory(path: Path, tail: bytes, size: int) -> tuple[int, int, int]:
    """Position and length of the central directory, and how many bytes precede the zip."""
    at = tail.rfind(b"PK\5\6")
    if at < 0 or at + END.size > len(tail):
        raise _broken(path, "it has no list of files at its end")
    disk, first_disk, _, _, length, offset = END.unpack_from(tail, at)[1:7]
    end = size - len(tail) + at
    before = at - LOCATOR_64.size - END_64.size
    if before >= 0 and tail[before : before + 4] == b"PK\6\6":
        disk, first_disk, _, _, length, offset = END_64.unpack_from(tail, before)[4:]
        end -= LOCATOR_64.size + END_64.size
    if disk or first_disk:
        raise _broken(path, "it is one part of several")
    start = end - length
    if start < 0 or start < offset:
        raise _broken(path, "its list of files lies outside of it")
    return start, length, start - offset


def _list_files(path: Path, directory: bytes) -> dict[str, int]:
    places: dict[str, int] = {}
    at = 0
    while at + ENTRY.size <= len(directory) and directory.startswith(b"PK\1\2", at):
        lengths = NAME_LENGTHS.unpack_from(directory, at + NAME_LENGTHS_AT)
        end_of_name = at + ENTRY.size + lengths[0]
        name = _usable_name(directory[at + ENTRY.size : end_of_name])
        if name:
            places[name] = at
        at += ENTRY.size + sum(lengths)
    if at < len(directory) and not directory.startswith(b"PK\5\5", at):  # 4.3.13 a signature
        raise _broken(path, "its list of files is damaged")
    if at > len(directory):
        raise _broken(path, "its list of files is cut off")
    return places


def _usable_name(raw: bytes) -> str:
    """The name of a file as it is looked up; empty for a folder and for names that lead outside."""
    if b"\\" in raw:  # the packer of .NET before 4.6.1 wrote these for slashes
        raw = raw.replace(b"\\", b"/")
    if raw.endswith(b"/") or b"\0" in raw or raw.startswith(b"/"):
        return ""
    if b".." in raw and b".." in raw.split(b"/"):
        return ""
    try:
        name = raw.decode()
    except UnicodeDecodeError:
        name = raw.decode("cp437")
    return normalise(name)


def normalise(name: str) -> str:
    """The form that names in a zip are compared in."""
    if "./" in name or "//" in name:
        name = str(PurePosixPath(name))
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def folders_to_try(index: ZipIndex, folder: str = "") -> tuple[str, ...]:
    """Where names that start from a folder may be: there, or below it while all files are.

    A zip of a folder often holds that folder, with everything in it: for one with `a/b/1.jpg` and
    `a/b/2.jpg` these are "", "a/" and "a/b/". What macOS adds (`__MACOSX/`) does not count.

    A folder that is not there is looked for in the same places.

    Raises:
        RelayError: the zip has no file below the folder.
    """
    wanted = f"{normalise(folder.strip('/'))}/" if folder.strip("/") else ""
    around = _folders_from(index, "")
    for start in around if wanted else ():
        if found := _folders_from(index, start + wanted):
            return found
    if wanted or not around:
        what = f"no file in a folder {wanted[:-1]!r}" if wanted else "no file"
        tops = sorted({name.split("/")[0] for name in index.places})[:5]
        hint = f"; at its top are {', '.join(tops)}" if tops else "; give another"
        raise RelayError(f"{index.path}: the zip has {what}{hint}.")
    return around


def _folders_from(index: ZipIndex, start: str) -> tuple[str, ...]:
    """A folder, and those below it that all of its files are in; none where it has no files."""
    names = [
        name for name in index.places if name.startswith(start) and not name.startswith("__MACOSX/")
    ]
    if not names:
        return ()
    common = posixpath.commonpath([posixpath.dirname(n) for n in (min(names), max(names))])
    deeper = f"{common}/"[len(start) :].split("/")[:-1] if common else []
    return tuple(start + "".join(f"{part}/" for part in deeper[:n]) for n in range(len(deeper) + 1))


def find_name(index: ZipIndex, name: str, folders: tuple[str, ...]) -> str | None:
    """The full name of the file in the first of the folders that has it."""
    key = normalise(name)
    return next((folder + key for folder in folders if folder + key in index.places), None)


def read_zipped(index: ZipIndex, name: str, limits: Limits = IMAGE) -> bytes:
    """The bytes of a file in a zip, checked against its CRC-32.

    Never makes more bytes than the limits allow, whatever the zip says.

    Args:
        index: the zip.
        name: one of `index.places`.
        limits: what the file may come to.

    Raises:
        RelayError: the file is damaged, encrypted, too large, or packed by an unknown method.
    """
    try:
        entry = _entry(index, index.places[name])
        _refuse(entry, limits)
        with index.path.open("rb") as file:
            packed = _packed_bytes(file, entry, index.shift)
        return _unpack(packed, entry)
    except (ValueError, zlib.error, struct.error, OSError, MemoryError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise RelayError(
            f"{index.path}/{name}: cannot be read ({reason or 'out of memory'}); copy or pack the"
            " zip again."
        ) from error


def _entry(index: ZipIndex, at: int) -> Entry:
    fields = ENTRY.unpack_from(index.directory, at)
    flags, method, crc, packed, size = (fields[n] for n in (3, 4, 7, 8, 9))
    name_length, extra_length, offset = (fields[n] for n in (10, 11, 16))
    extra_at = at + ENTRY.size + name_length
    extra = index.directory[extra_at : extra_at + extra_length]
    size, packed, offset = _large_values(extra, [size, packed, offset])
    return Entry(flags, method, crc, packed, size, offset)


def _large_values(extra: bytes, values: list[int]) -> list[int]:
    """Values above 4 GB stand in the extra field, in this order (4.5.3)."""
    at = 0
    while IN_EXTRA_FIELD in values and at + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, at)
        if kind == 1:
            large = iter(struct.unpack_from(f"<{length // 8}Q", extra, at + 4))
            return [next(large, v) if v == IN_EXTRA_FIELD else v for v in values]
        at += 4 + length
    return values


def _refuse(entry: Entry, limits: Limits) -> None:
    if entry.flags & (ENCRYPTED | MASKED):
        raise ValueError("it is encrypted")
    if entry.method not in (STORED, DEFLATED):
        raise ValueError(f"it is packed by method {entry.method}; only deflate and none are read")
    if entry.size > limits.most:
        raise ValueError(f"it says to have {entry.size} bytes, the limit is {limits.most}")
    if entry.packed > entry.size * 1.01 + 1024:
        raise ValueError(f"{entry.packed} bytes cannot hold no more than {entry.size}")
    if entry.size > limits.inflated(entry.packed):
        raise ValueError(f"{entry.size} bytes out of {entry.packed} are more than can be true")


def _packed_bytes(file: BinaryIO, entry: Entry, shift: int) -> bytes:
    start = shift + entry.offset
    if start + LOCAL.size + entry.packed > os.fstat(file.fileno()).st_size:
        raise ValueError("the zip is cut off")
    file.seek(start)
    signature, name_length, extra_length = LOCAL.unpack(file.read(LOCAL.size))
    if signature != b"PK\3\4":
        raise ValueError("the zip is damaged, or changed since it was opened")
    file.seek(name_length + extra_length, os.SEEK_CUR)
    return file.read(entry.packed)


def _unpack(packed: bytes, entry: Entry) -> bytes:
    data = packed
    if entry.method == DEFLATED:
        # One byte more than it says shows that it says too little.
        data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(packed, entry.size + 1)
    if len(data) != entry.size:
        raise ValueError(f"it does not have the {entry.size} bytes that the zip says")
    if zlib.crc32(data) != entry.crc:
        raise ValueError("its checksum is wrong")
    return data


def _broken(path: Path, why: str) -> NotAZipError:
    return NotAZipError(
        f"{path}: not a whole zip ({why}); copy or download it again, or pack it again as one zip."
    )
