"""Where the runs are, seen from outside the library: to look at files, and to tear them."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from gcs_server import serve_gcs
from google.api_core.exceptions import NotFound
from google.auth.credentials import AnonymousCredentials
from google.cloud import storage

from chaos.proxy import Proxy, proxy_to


class FolderPlace:
    """A folder."""

    name = "folder"
    look_seconds = 0.0
    """Between two looks at what is there, so that looking takes no time from training."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = str(folder)
        self.proxy: Proxy | None = None
        self.environment: dict[str, str] = {}

    def names(self, prefix: str) -> list[str]:
        """Names of the files in a folder."""
        try:
            paths = list((self.folder / prefix).iterdir())
        except FileNotFoundError:  # not there yet, or away at the moment
            return []
        return sorted(f"{prefix}/{path.name}" for path in paths if not path.name.startswith("."))

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None where there is none."""
        try:
            return (self.folder / name).read_bytes()
        except FileNotFoundError:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Put a file."""
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(data)

    def delete(self, name: str) -> None:
        """Remove a file, or a folder."""
        path = self.folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


class BucketPlace:
    """A bucket in the emulator, which is reached here without the bad network."""

    name = "gcs"
    look_seconds = 0.5

    def __init__(self, address: str, bucket: str, proxy: Proxy) -> None:
        self.folder = Path()
        self.store = f"gs://{bucket}/work"
        self.proxy: Proxy | None = proxy
        self.environment = {"STORAGE_EMULATOR_HOST": proxy.address}
        client = storage.Client(
            project="chaos",
            credentials=AnonymousCredentials(),
            client_options={"api_endpoint": address},
        )
        self._bucket = client.bucket(bucket)

    def names(self, prefix: str) -> list[str]:
        """Names of the files in a folder."""
        found = self._bucket.list_blobs(prefix=f"work/{prefix}/", delimiter="/")
        return sorted(blob.name.removeprefix("work/") for blob in found)

    def read(self, name: str) -> bytes | None:
        """The bytes of a file; None where there is none."""
        try:
            return self._bucket.blob(f"work/{name}").download_as_bytes()
        except NotFound:
            return None

    def write(self, name: str, data: bytes) -> None:
        """Put a file."""
        self._bucket.blob(f"work/{name}").upload_from_string(data)

    def delete(self, name: str) -> None:
        """Remove a file, or a folder."""
        for blob in [*self._bucket.list_blobs(prefix=f"work/{name}/")]:
            blob.delete()
        with suppress(NotFound):
            self._bucket.blob(f"work/{name}").delete()


Place = FolderPlace | BucketPlace


@contextmanager
def open_place(name: str, folder: Path) -> Iterator[Place]:
    """A folder, or a bucket in an emulator of its own."""
    if name == "folder":
        yield FolderPlace(folder / "store")
        return
    with serve_gcs() as (address, make_bucket), proxy_to(address) as proxy:
        yield BucketPlace(address, make_bucket(), proxy)


def copy_dataset(source: Path, place: Place) -> None:
    """Put the dataset that all runs train on into a place."""
    for path in sorted(source.rglob("*")):
        if path.is_file():
            place.write(f"datasets/{source.name}/{path.relative_to(source)}", path.read_bytes())


def checkpoints_of(run: str) -> str:
    """The folder of a run's checkpoints."""
    return f"runs/{run}/checkpoints"


@contextmanager
def workshop(keep: bool = False) -> Iterator[Path]:
    """A temporary folder for everything."""
    folder = Path(tempfile.mkdtemp(prefix="relaydet-chaos-"))
    try:
        yield folder
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
