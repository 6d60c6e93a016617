"""Where a run's files are kept: a small protocol, and the one place that opens a store.

Whatever is no address must not become a folder in silence: on a machine that goes away, a folder in
the wrong place is lost work. So every parameter, variable and secret that names a store passes
`clean_location` first.
"""

from __future__ import annotations

import os
import re
import unicodedata
import uuid
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from relaydet.errors import RelayError
from relaydet.places import expand_home
from relaydet.storage.local import LocalStore, missing_folders, remove_empty
from relaydet.storage.troubles import refuse_unmounted

AUTO = "auto"
GCS = "gs://"
STORE = "STORE"

_AROUND = "\ufeff\u200b\u200e\u200f"
"""Invisible characters that come along when text is pasted; white space is stripped beside them."""
_QUOTES = {
    '"': '"',
    "'": "'",
    "`": "`",
    "\u201c": "\u201d",
    "\u2018": "\u2019",
    "\u201e": "\u201c",
    "\u00ab": "\u00bb",
}
"""Which quote closes what another has opened: a text processor makes its own of what is typed."""
_VARIABLE = re.compile(
    r"\$(?P<plain>[A-Za-z_]\w*)|\$\{(?P<braced>[^}]*)\}|%(?P<windows>[A-Za-z_]\w*)%"
)
_COMMAND = re.compile(r"\$\(|`")
_PLACEHOLDER = re.compile(r"\{[A-Za-z_][\w.]*\}|<[A-Za-z_][\w -]*>")
_BUCKET_SLIP = re.compile(r"(?i)(?:gs|gcs)(?::[/\\]*|//+)(?P<rest>[^/\\].*)")
_BUCKET_PAGE = re.compile(
    r"(?i)https?://(?:storage\.googleapis\.com|storage\.cloud\.google\.com"
    r"|console\.cloud\.google\.com/storage/browser)/+(?P<rest>[^?#]+)(?:[?#].*)?"
)
_DRIVE_PAGE = re.compile(r"(?i)(?:https?://)?(?:drive|docs)\.google\.com")
_SCHEME = re.compile(r"[^/\\]*:")
_BREAKS = ("Cc", "Zl", "Zp")
"""Unicode's categories of control characters and of what separates lines."""
_NOTHING = ("none", "null", "nan")


class Store(Protocol):
    """Named byte strings. Names are relative paths with forward slashes.

    All methods raise StoreError where the store cannot do what it is asked at the moment: a disk
    that is full, a mount that went away, a server that does not answer.
    """

    location: str
    """What the user gave: a folder or gs://bucket/prefix."""

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises RelayError where there is none."""

    def write(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> None:
        """Put a whole file: a reader sees the old one or the new one, never a part.

        A large one may come in pieces, so that it is never in memory as a whole.
        """

    def create(self, name: str, data: bytes | Path) -> bool:
        """Put a whole file where none is; of those who try at once, one succeeds.

        Args:
            name: of the file.
            data: its bytes, or the file on this machine that holds them.

        Returns:
            Whether it was put; False where a file of that name is there.
        """

    def differs(self, name: str, original: Path) -> str:
        """What is wrong with a stored file, beside the one it was made from; empty where nothing.

        A folder's file is read back; a bucket's is compared by size and checksum.
        """

    def names(self, prefix: str) -> list[str]:
        """Names of the files in a folder (not below it), sorted."""

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders in a folder (not below it), sorted."""

    def exists(self, name: str) -> bool:
        """Whether the file is there."""

    def size(self, name: str) -> int | None:
        """Bytes of a file, without reading it; None where there is none."""

    def append(self, name: str, before: bytes, data: bytes) -> bool:
        """Put bytes behind those that a file holds, without writing it anew.

        A reader may see a part of what is appended, as may whoever comes after a kill.

        Args:
            name: of the file.
            before: what it holds, as the caller left it there.
            data: what to add.

        Returns:
            Whether it was done; False where the file is not as it was left, or this store cannot.
        """

    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; none there is fine."""

    def folder(self, name: str) -> AbstractContextManager[Callable[[str, bytes], None]]:
        """Put a whole folder of files, in place of what was there; see `LocalStore.folder`."""

    def describe(self, name: str) -> str:
        """The name as a person would open it."""

    def place(self, name: str) -> str:
        """The name as a location that can be opened from anywhere on this machine."""


def clean_location(location: str | Path, parameter: str = STORE) -> str:
    """Return what a user means by a store's location: auto, a folder, or gs://bucket/prefix.

    White space and quotes around it are left out, as a pasted text has them. Nothing is opened.

    Args:
        location: as it was typed or pasted.
        parameter: what it was given by, which a message begins with.

    Raises:
        RelayError: it is empty, or neither a folder's path nor the address of a bucket.
    """
    asked = str(location)
    text = _without_wrapping(asked)
    _refuse_illegible(parameter, asked, text)
    if text.lower() == AUTO:
        return AUTO
    if text.lower() in _NOTHING:
        raise RelayError(
            f"{parameter} {text}: names no place; give {_choices(parameter)} (or ./{text} for a"
            " folder of that name)."
        )
    _refuse_unfilled(parameter, text)
    if text.startswith(GCS):
        _refuse_bad_bucket(parameter, text)
        return text
    _refuse_address(parameter, text)
    expand_home(text, parameter)  # so that a mistake in it comes out here
    return text


def _choices(parameter: str) -> str:
    auto = " or auto" if parameter == STORE else ""
    return f"a folder (a mounted Drive or bucket is one) or gs://bucket/prefix{auto}"


def _without_wrapping(text: str) -> str:
    """The text without the white space and the pairs of quotes around it."""
    before = None
    while text != before:
        before = text
        text = text.strip().strip(_AROUND)
        if len(text) > 1 and _QUOTES.get(text[0]) == text[-1]:
            text = text[1:-1]
    return text


def _refuse_illegible(parameter: str, asked: str, text: str) -> None:
    if not text:
        raise RelayError(f"{parameter} {asked!r}: is empty; give {_choices(parameter)}.")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise RelayError(
            f"{parameter} {text!a}: is not valid UTF-8, as every name in a store has to be;"
            f" rename the folder, or give {_choices(parameter)}."
        ) from error
    if any(unicodedata.category(letter) in _BREAKS for letter in text):
        raise RelayError(
            f"{parameter} {text!r}: has a line break or another control character in it; give"
            f" {_choices(parameter)}, on one line."
        )


def _refuse_unfilled(parameter: str, text: str) -> None:
    """Refuse what a shell, a batch file or a template would have replaced, and did not."""
    found = _VARIABLE.search(text)
    if found:
        name = found["plain"] or found["braced"] or found["windows"] or ""
        value = os.environ.get(name)
        meant = _VARIABLE.sub(
            lambda match: os.environ.get(match[match.lastgroup or 0], match[0]), text
        )
        remedy = (
            f"write {meant}"
            if value
            else f"there is no environment variable {name}; write the path in full"
        )
        raise RelayError(f"{parameter} {text}: {found[0]} is not expanded here; {remedy}.")
    if _COMMAND.search(text):
        raise RelayError(
            f"{parameter} {text}: commands are not run here; write the path in full, or put it in"
            " double quotes in the shell."
        )
    found = _PLACEHOLDER.search(text)
    if found:
        raise RelayError(
            f"{parameter} {text}: {found[0]} was not filled in; write what it stands for."
        )


def _refuse_bad_bucket(parameter: str, text: str) -> None:
    bucket, _, path = text[len(GCS) :].partition("/")
    if not bucket:
        raise RelayError(f"{parameter} {text}: names no bucket; write gs://bucket/folder.")
    if not re.fullmatch(r"[a-z0-9._-]+", bucket):
        small = bucket.lower()
        hint = f"did you mean gs://{small}/{path}" if small != bucket else "see the bucket's page"
        raise RelayError(
            f"{parameter} {text}: {bucket!r} is no bucket's name, which has lower-case letters,"
            f" digits, - _ and . only; {hint.rstrip('/')}?"
        )
    if any(part in (".", "..") for part in path.split("/")):
        raise RelayError(
            f"{parameter} {text}: a bucket has no folders . and ..; write the whole address."
        )


def _refuse_address(parameter: str, text: str) -> None:
    """Refuse what looks like an address of any kind, where a folder's path was to be."""
    slip = _BUCKET_SLIP.fullmatch(text) or _BUCKET_PAGE.fullmatch(text)
    if slip:
        rest = slip["rest"].replace("\\", "/").strip("/")
        raise RelayError(f"{parameter} {text}: did you mean {GCS}{rest}?")
    if _DRIVE_PAGE.match(text):
        raise RelayError(
            f"{parameter} {text}: is a page of Google Drive; on Colab give the folder as it is"
            " mounted, /content/drive/MyDrive/folder."
        )
    scheme = _SCHEME.match(text)
    on_windows = os.name == "nt"
    if scheme and on_windows and len(scheme[0]) == 2:
        return  # C:\folder
    if scheme and re.match(r"[A-Za-z]:(?![^/\\])", text) and not on_windows:
        raise RelayError(
            f"{parameter} {text}: is a path of Windows, and this is another system; give"
            f" {_choices(parameter)}."
        )
    if scheme or "://" in text:
        own = f"; for a folder of that name write ./{text}" if "://" not in text else ""
        raise RelayError(f"{parameter} {text}: give {_choices(parameter)}{own}.")
    if "\\" in text and not on_windows:
        meant = text.replace("\\ ", " ").replace("\\", "/")
        raise RelayError(f"{parameter} {text}: has a backslash in it; did you mean {meant}?")


def open_store(
    location: str | Path = AUTO, parameter: str = STORE, must_exist: bool = False
) -> Store:
    """Open the store at a location; auto is the folder ./work.

    Args:
        location: as a user gave it; it is cleaned (`clean_location`).
        parameter: what it was given by, which a message begins with.
        must_exist: refuse a folder that is not there, as whoever only reads has to.

    Raises:
        RelayError: the location is neither a folder that can be used nor in a bucket.
        StoreError: it may be there later: a mount that is away.
    """
    where = clean_location(location, parameter)
    if where == AUTO:
        where = "work"
    if where.startswith(GCS):
        from relaydet.storage.gcs import GcsStore  # takes half a second, and few need it

        return GcsStore(where)
    store = LocalStore(where, parameter)
    refuse_unmounted(store.root)
    if must_exist and not store.is_there():
        there = next(path for path in store.root.parents if path.is_dir())
        raise RelayError(
            f"{parameter} {where}: there is no such folder ({there} has no"
            f" {store.root.relative_to(there).parts[0]!r}); check the path."
        )
    return store


def try_store(store: Store) -> None:
    """Raise where a store does not give back what was put there; nothing is left behind.

    Raises:
        RelayError: it gives back other bytes.
        StoreError: it cannot be written, read or removed from.
    """
    name, data = f"doctor-{uuid.uuid4().hex}", uuid.uuid4().bytes
    missing = missing_folders(store.root) if isinstance(store, LocalStore) else []
    try:
        store.write(name, data)
        if store.read(name) != data:
            raise RelayError(
                f"{store.describe(name)}: gives back other bytes; choose another STORE."
            )
        store.delete(name)
    finally:
        remove_empty(missing)
