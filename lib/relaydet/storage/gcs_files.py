"""Files in Google Cloud Storage, as a web server that wants credentials.

The client library finds the credentials (also the ones that Kaggle hands it) and the emulator; the
bytes come over the JSON API like any other download, which lets a later process go on with them.

API: https://cloud.google.com/storage/docs/json_api/v1/objects/get (alt=media), and for the
checksums https://cloud.google.com/storage/docs/xml-api/reference-headers#xgooghash.
"""

from __future__ import annotations

import base64
import binascii
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from relaydet.addresses import shown
from relaydet.errors import RelayError
from relaydet.storage.parts import CRC32C, Checksum
from relaydet.storage.servers import THREADS, Server, ask

if TYPE_CHECKING:
    import requests

SCHEME = "gs://"
EMULATOR_VARIABLE = "STORAGE_EMULATOR_HOST"
API = "https://storage.googleapis.com"
LOG_IN = (
    "log in to an account that may read the bucket: on Colab `from google.colab import auth;"
    " auth.authenticate_user()`, on Kaggle attach it under Add-ons > Google Cloud Services,"
    " elsewhere `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS"
)


def split_address(location: str) -> tuple[str, str]:
    """Bucket and path of a gs:// address.

    Raises:
        RelayError: it names no bucket.
    """
    bucket, _, path = location[len(SCHEME) :].partition("/")
    if not bucket:
        raise RelayError(f"{shown(location)}: names no bucket; write gs://bucket/folder.")
    return bucket, path.strip("/")


def media_address(location: str) -> str:
    """The http address that the bytes of gs://bucket/path come from."""
    bucket, path = split_address(location)
    host = os.environ.get(EMULATOR_VARIABLE) or API
    host = host if "://" in host else f"http://{host}"
    where = f"/download/storage/v1/b/{quote(bucket, safe='')}/o/{quote(path, safe='')}?alt=media"
    return host.rstrip("/") + where


def gcs_server() -> Server:
    """Google Cloud Storage with the credentials of this machine, or without where it has none.

    Raises:
        RelayError: google-cloud-storage is not installed, or the credentials are of no use.
    """
    import requests
    from requests.adapters import HTTPAdapter

    session, exceptions, why_none = _open_session()
    session.mount("https://", HTTPAdapter(pool_maxsize=THREADS))

    def get(url: str, headers: Mapping[str, str]) -> requests.Response:
        try:
            return ask(session, url, headers)
        except exceptions.TransportError as error:  # fetching a token: as passing as any request
            raise requests.ConnectionError(str(error)) from error
        except exceptions.GoogleAuthError as error:
            raise RelayError(
                f"Google Cloud refused the credentials ({error}); {LOG_IN}."
            ) from error

    return Server(get, stated_checksum, LOG_IN + why_none)


def google_libraries() -> tuple[Any, Any]:
    """The modules google.cloud.storage and google.auth.exceptions.

    Raises:
        RelayError: they are not installed.
    """
    try:
        from google.auth import exceptions
        from google.cloud import storage
    except ImportError as error:
        raise RelayError(
            "gs:// needs the package google-cloud-storage; pip install google-cloud-storage."
        ) from error
    return storage, exceptions


def _open_session() -> tuple[requests.Session, Any, str]:
    """A session that adds credentials, the module of what it may raise, and why it adds none."""
    import requests

    storage, exceptions = google_libraries()
    from google.auth.credentials import AnonymousCredentials
    from google.auth.transport.requests import AuthorizedSession

    try:
        # Not google.auth.default(): Kaggle gives its credentials to this class alone.
        credentials = storage.Client(project=None)._credentials
        if isinstance(credentials, AnonymousCredentials):
            return requests.Session(), exceptions, " (the emulator takes none)"
        return AuthorizedSession(credentials), exceptions, ""
    except exceptions.DefaultCredentialsError as error:  # public buckets need none
        return requests.Session(), exceptions, f" (found no credentials: {str(error).rstrip('.')})"
    except (exceptions.GoogleAuthError, OSError, ValueError) as error:
        raise RelayError(f"Google Cloud credentials cannot be used ({error}); {LOG_IN}.") from error


def stated_checksum(response: requests.Response) -> Checksum | None:
    """The checksum in an answer's x-goog-hash: MD5, or CRC32C, which composite objects have alone.

    It is of the bytes as stored, so of no use where they are inflated on the way.
    """
    if response.headers.get("x-goog-stored-content-encoding", "identity") not in ("identity", ""):
        return None
    stated = response.headers.get("x-goog-hash", "").split(",")
    values = dict(part.strip().split("=", 1) for part in stated if "=" in part)
    for algorithm in ("md5", CRC32C):
        try:
            digest = base64.b64decode(values.get(algorithm, ""), validate=True)
        except binascii.Error:
            continue
        if digest:
            return Checksum(algorithm, digest.hex())
    return None
