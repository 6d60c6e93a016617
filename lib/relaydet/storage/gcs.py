"""A store in a Google Cloud Storage bucket, through the client library.

The library checks CRC32C on the way up and down, cuts large uploads into parts that are tried
again, and waits longer between tries. What it needs from us: preconditions that make a retry safe,
and sentences for what it raises.

Preconditions: https://cloud.google.com/storage/docs/request-preconditions.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from relaydet.errors import RelayError, StoreError
from relaydet.storage.gcs_files import LOG_IN, SCHEME, google_libraries, split_address
from relaydet.storage.local import inside

TRY_SECONDS = 60.0
"""How long one operation is tried again before it counts as failed."""
ANSWER_SECONDS = 60.0
"""How long the server may stay silent."""
PART_BYTES = 8 << 20
"""Parts of a large upload: what a break costs. A multiple of 256 KiB, as the protocol wants it."""
BLOCK = 1 << 20


class GcsStore:
    """Objects below gs://bucket/prefix."""

    def __init__(self, location: str) -> None:
        self._bucket_name, prefix = split_address(location)
        self.location = location.rstrip("/")
        self._prefix = f"{prefix}/" if prefix else ""

    def read(self, name: str) -> bytes:
        """The bytes of a file; raises RelayError where there is none."""
        with self._explained(name, "be read"):
            # In one go: the library checks no checksum of what it downloads part by part.
            whole = self._blob(name, part=None)
            return whole.download_as_bytes(
                timeout=ANSWER_SECONDS, checksum="crc32c", retry=_retry()
            )

    def write(self, name: str, data: bytes | Iterable[bytes | memoryview]) -> None:
        """Put a whole file; what was there stays until the new one is whole."""
        whole = data if isinstance(data, bytes) else b"".join(data)
        with self._explained(name, "be written"):
            self._blob(name).upload_from_string(whole, **_upload())

    def create(self, name: str, data: bytes | Path) -> bool:
        """Put a whole file where none is; of those who try at once, one succeeds."""
        blob = self._blob(name)
        from google.api_core.exceptions import PreconditionFailed

        with self._explained(name, "be written"):
            try:
                if isinstance(data, bytes):
                    blob.upload_from_string(data, **_upload(), if_generation_match=0)
                else:
                    blob.upload_from_filename(str(data), **_upload(), if_generation_match=0)
            except PreconditionFailed:
                # Either somebody was first, or our own try was, and its answer got lost on the way
                # back. What is there tells: lease files and manifests name their owner.
                return self._holds(name, data)
        return True

    def differs(self, name: str, original: Path) -> str:
        """What is wrong with a stored file, beside the one it was made from; empty where nothing.

        The server's own size and CRC32C are asked for, which it worked out from what it stores.
        """
        blob = self._blob(name)
        with self._explained(name, "be read"):
            if not blob.exists(timeout=ANSWER_SECONDS, retry=_retry()):
                return "it is not there"
            blob.reload(timeout=ANSWER_SECONDS, retry=_retry())
            size, checksum = original.stat().st_size, _crc32c(original)
        if blob.size != size:
            return f"it has {blob.size} of {size} bytes"
        return "" if blob.crc32c == checksum else "its bytes are others"

    def names(self, prefix: str) -> list[str]:
        """Names of the files in a folder (not below it), sorted."""
        blobs, _ = self._list(prefix)
        return sorted(name for name in blobs if not name.endswith("/"))

    def folders(self, prefix: str) -> list[str]:
        """Names of the folders in a folder (not below it), sorted."""
        return sorted(self._list(prefix)[1])

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        with self._explained(name, "be reached"):
            return bool(self._blob(name).exists(timeout=ANSWER_SECONDS, retry=_retry()))

    def size(self, name: str) -> int | None:
        """Bytes of a file, without reading it; None where there is none."""
        with self._explained(name, "be reached"):
            name_in_bucket = f"{self._prefix}{name}"
            blob = self._bucket.get_blob(name_in_bucket, timeout=ANSWER_SECONDS, retry=_retry())
        return None if blob is None else int(blob.size)

    def append(self, name: str, before: bytes, data: bytes) -> bool:
        """False: an object cannot be added to."""
        return False

    def delete(self, name: str) -> None:
        """Remove a file, or a folder with all that is in it; none there is fine."""
        with self._explained(name, "be removed"):
            self._delete_blob(self._blob(name))
            below = self._bucket.list_blobs(
                prefix=f"{self._prefix}{inside(name)}/", timeout=ANSWER_SECONDS, retry=_retry()
            )
            for blob in below:
                self._delete_blob(blob)

    @contextmanager
    def folder(self, name: str) -> Iterator[Callable[[str, bytes], None]]:
        """Put a folder of files in place of what was there; see `LocalStore.folder`.

        A bucket cannot exchange a folder at once: the new files are put one by one when the block
        ends without an error, after the old ones have gone.
        """
        files: dict[str, bytes] = {}
        yield files.__setitem__
        self.delete(name)
        for file_name, data in files.items():
            self.write(f"{name}/{file_name}", data)

    def describe(self, name: str) -> str:
        """The name as a person would open it."""
        return f"{self.location}/{name}"

    def place(self, name: str) -> str:
        """The name as a location that can be opened from anywhere."""
        return f"{SCHEME}{self._bucket_name}/{self._prefix}{name}"

    @cached_property
    def _bucket(self) -> Any:
        storage, exceptions = google_libraries()
        try:
            return storage.Client(project=None).bucket(self._bucket_name)
        except (exceptions.GoogleAuthError, OSError, ValueError) as error:
            raise StoreError(
                f"{self.location}: no Google Cloud credentials can be used ({error}); {LOG_IN}."
            ) from error

    def _blob(self, name: str, part: int | None = PART_BYTES) -> Any:
        return self._bucket.blob(f"{self._prefix}{inside(name)}", chunk_size=part)

    def _list(self, prefix: str) -> tuple[list[str], list[str]]:
        """Names of the files and of the folders in a folder."""
        start = f"{self._prefix}{inside(prefix).rstrip('/')}/"
        with self._explained(prefix, "be listed"):
            found = self._bucket.list_blobs(
                prefix=start, delimiter="/", timeout=ANSWER_SECONDS, retry=_retry()
            )
            files = [blob.name.removeprefix(self._prefix) for blob in found]
        folders = [name.removeprefix(self._prefix).rstrip("/") for name in found.prefixes]
        return files, folders

    def _holds(self, name: str, data: bytes | Path) -> bool:
        """Whether the object there is the very one that was to be put."""
        if isinstance(data, Path):
            return not self.differs(name, data)
        return self.read(name) == data

    def _delete_blob(self, blob: Any) -> None:
        from google.api_core.exceptions import NotFound

        try:
            blob.delete(timeout=ANSWER_SECONDS, retry=_retry())
        except NotFound:
            return  # by another session, or by our own first try

    @contextmanager
    def _explained(self, name: str, what: str) -> Iterator[None]:
        """Turn what the library raises into the sentence that a user can act on."""
        _ = self._bucket  # says so where the library is missing
        import requests
        from google import resumable_media
        from google.api_core import exceptions as api
        from google.auth import exceptions as auth

        where = f"{self.describe(name)}: cannot {what}"
        try:
            yield
        except api.NotFound as error:
            if what == "be read":
                raise RelayError(f"{where}: it is not there.") from error
            raise StoreError(
                f"{where}: there is no bucket {self._bucket_name!r}; create it, or mend STORE."
            ) from error
        except (api.Unauthorized, api.Forbidden, auth.RefreshError) as error:
            self.__dict__.pop("_bucket", None)  # the next try takes what was logged in with since
            raise StoreError(f"{where} ({_first_line(error)}); {LOG_IN}.") from error
        except (
            api.GoogleAPIError,
            auth.GoogleAuthError,
            resumable_media.InvalidResponse,
            resumable_media.DataCorruption,
            requests.RequestException,
            OSError,
        ) as error:
            raise StoreError(
                f"{where} ({_first_line(error)}); check that the internet is on, and"
                " status.cloud.google.com."
            ) from error


def _retry() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY

    # 2.x of the library takes the time as `deadline`, which 3.x still understands.
    return DEFAULT_RETRY.with_deadline(TRY_SECONDS)


def _upload() -> dict[str, Any]:
    return {"timeout": ANSWER_SECONDS, "checksum": "crc32c", "retry": _retry()}


def _crc32c(path: Path) -> str:
    """Checksum of a file as Cloud Storage states it: base64 of the big-endian bytes."""
    import google_crc32c

    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        for block in iter(lambda: file.read(BLOCK), b""):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "") or type(error).__name__
