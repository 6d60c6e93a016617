"""gs:// addresses: which requests they become, with which credentials, and how they fail."""

from __future__ import annotations

import base64
import builtins
import os
from urllib.parse import quote

import google.auth
import pytest
import requests
from google.auth import exceptions
from webserver import isolate, serve

from relaydet.errors import RelayError
from relaydet.storage import servers
from relaydet.storage.gcs_files import gcs_server, media_address, stated_checksum
from relaydet.storage.http import download
from relaydet.storage.parts import Checksum

DATA = os.urandom(50_000)
LOCATION = "gs://bucket/photos/a b#?.jpg"
PATH = "/download/storage/v1/b/bucket/o/photos/a b#?.jpg?alt=media"


@pytest.fixture
def bucket(monkeypatch, tmp_path):
    """A fake of the JSON API, which the client library takes for an emulator."""
    isolate(monkeypatch, tmp_path)
    with serve() as web:
        web.files[PATH] = DATA
        web.google_hashes = True
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", web.address)
        yield web


@pytest.fixture
def get(bucket, tmp_path):
    return lambda: download(gcs_server(), media_address(LOCATION), tmp_path / "a.jpg").read_bytes()


def test_an_object_is_one_part_of_its_address(bucket):
    name = quote("photos/a b#?.jpg", safe="")
    assert media_address(LOCATION).endswith(f"/b/bucket/o/{name}?alt=media")


@pytest.mark.parametrize("location", ["gs://", "gs:///a/b"])
def test_a_bucket_must_be_named(location):
    with pytest.raises(RelayError, match="names no bucket"):
        media_address(location)


def test_downloads_survive_breaks_and_busy_servers(bucket, get):
    bucket.answers[PATH] = [503, 429]
    bucket.break_after = [20_000, 0, 10]
    assert get() == DATA
    assert bucket.paths() == [PATH] * 6


def test_a_wrong_checksum_is_noticed(bucket, get, tmp_path):
    bucket.headers["x-goog-hash"] = f"md5={base64.b64encode(bytes(16)).decode()}"
    bucket.google_hashes = False
    with pytest.raises(RelayError, match="its md5 is not 0000"):
        get()
    assert not (tmp_path / "a.jpg").exists()
    bucket.headers = {}
    assert get() == DATA


@pytest.mark.parametrize(
    ("headers", "checksum"),
    [
        ({}, None),
        ({"x-goog-hash": "crc32c=4waSgw=="}, Checksum("crc32c", "e3069283")),
        (
            {"x-goog-hash": "crc32c=4waSgw==,md5=1B2M2Y8AsgTpgAmY7PhCfg=="},
            Checksum("md5", "d41d8cd98f00b204e9800998ecf8427e"),
        ),
        ({"x-goog-hash": "md5=%%%, crc32c"}, None),
        ({"x-goog-hash": "crc32c=4waSgw==", "x-goog-stored-content-encoding": "gzip"}, None),
        (
            {"x-goog-hash": "crc32c=4waSgw==", "x-goog-stored-content-encoding": "identity"},
            Checksum("crc32c", "e3069283"),
        ),
    ],
)
def test_stated_checksums(headers, checksum):
    response = requests.Response()
    response.headers.update(headers)
    assert stated_checksum(response) == checksum


@pytest.mark.parametrize("right", [True, False])
def test_crc32c_is_checked(right, bucket, get):
    # RFC 3720 B.4 gives the CRC-32C of 123456789: e3069283.
    bucket.files[PATH] = b"123456789" if right else b"123456780"
    bucket.google_hashes = False
    bucket.headers["x-goog-hash"] = "crc32c=4waSgw=="
    if right:
        assert get() == b"123456789"
    else:
        with pytest.raises(RelayError, match="its crc32c is not e3069283"):
            get()


@pytest.mark.parametrize("status", [401, 403])
def test_denied_access_says_how_to_log_in(status, bucket, get):
    bucket.answers[PATH] = [status] * 9
    with pytest.raises(RelayError, match=r"denied.*authenticate_user.*Kaggle.*gcloud auth"):
        get()


def test_without_credentials_public_buckets_are_read(bucket, get, monkeypatch):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setattr("relaydet.storage.gcs_files.API", bucket.address)

    def none(*args, **kwargs):
        raise exceptions.DefaultCredentialsError("none")

    monkeypatch.setattr(google.auth, "default", none)
    assert get() == DATA


def test_credentials_are_sent(bucket, get, monkeypatch, tmp_path):
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setattr("relaydet.storage.gcs_files.API", bucket.address)
    from google.oauth2.credentials import Credentials

    found = (Credentials("token-of-the-account"), "project")
    monkeypatch.setattr(google.auth, "default", lambda *args, **kwargs: found)
    sent = []
    asking = servers.ask

    def ask(session, url, headers):
        response = asking(session, url, headers)
        sent.append(response.request.headers.get("Authorization"))
        return response

    monkeypatch.setattr("relaydet.storage.gcs_files.ask", ask)
    assert get() == DATA
    assert sent == ["Bearer token-of-the-account"]


@pytest.mark.parametrize(
    ("trouble", "message"),
    [
        (exceptions.RefreshError("expired"), r"refused the credentials \(expired\).*log in"),
        (exceptions.TransportError("no route"), r"gave up after 5 tries \(no route\)"),
    ],
)
def test_tokens_that_cannot_be_had(trouble, message, bucket, get, monkeypatch):
    def ask(*_):
        raise trouble

    monkeypatch.setattr("relaydet.storage.gcs_files.ask", ask)
    with pytest.raises(RelayError, match=message):
        get()


@pytest.mark.parametrize("content", ["{}", "no JSON"])
def test_broken_credentials_are_told(content, bucket, get, monkeypatch, tmp_path):
    key = tmp_path / "key.json"
    key.write_text(content)
    bucket.answers[PATH] = [401]
    monkeypatch.delenv("STORAGE_EMULATOR_HOST")
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(key))
    monkeypatch.setattr("relaydet.storage.gcs_files.API", bucket.address)
    with pytest.raises(RelayError, match=r"access is denied.*log in.*no credentials: .*key\.json"):
        get()


def test_without_the_package_its_name_is_told(bucket, get, monkeypatch):
    importing = builtins.__import__

    def fail(name, *args, **kwargs):
        if name.startswith("google"):
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(RelayError, match="pip install google-cloud-storage"):
        get()
