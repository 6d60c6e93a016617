"""A store in a bucket: what only a server can get wrong, and what a user is told."""

from __future__ import annotations

import builtins
import json
import os
import subprocess
import sys
import time

import google.auth
import pytest
from gcs_server import AFTER, BEFORE, FLIPPED, HALF, connect, serve_line

from relaydet.errors import RelayError, StoreError
from relaydet.storage import gcs
from relaydet.storage.gcs import GcsStore
from relaydet.storage.store import open_store

LOG_IN = r"authenticate_user\(\).*Kaggle.*gcloud auth application-default login"
LARGE = 20_000_000
CALLS = {
    "read": lambda store, path: store.read("a/x"),
    "write": lambda store, path: store.write("a/x", b"1"),
    "write much": lambda store, path: store.write("a/x", bytes(9_000_000)),
    "create": lambda store, path: store.create("a/x", b"1"),
    "create from a file": lambda store, path: store.create("a/x", path),
    "differs": lambda store, path: store.differs("a/x", path),
    "names": lambda store, path: store.names("a"),
    "folders": lambda store, path: store.folders("a"),
    "exists": lambda store, path: store.exists("a/x"),
    "delete": lambda store, path: store.delete("a/x"),
}
EVERY_CALL = pytest.mark.parametrize("call", CALLS.values(), ids=list(CALLS))


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "original"
    path.write_bytes(b"1")
    return path


@pytest.fixture
def line(gcs_server, gcs_bucket, monkeypatch):
    """A line to the server that breaks where a test wants it."""
    with serve_line(gcs_server[0]) as line:
        connect(monkeypatch, line.address)
        yield line


@pytest.fixture
def store(line, gcs_bucket):
    """A store at the end of that line."""
    return GcsStore(f"gs://{gcs_bucket}/pre")


@pytest.fixture
def direct(gcs_server, gcs_bucket, monkeypatch):
    """The same store beside that line; to be asked for before the line is."""
    store = GcsStore(f"gs://{gcs_bucket}/pre")
    store.exists("x")  # the client library looks up the address now
    return store


@pytest.fixture
def stub(monkeypatch):
    """A Cloud Storage that wants credentials and has nothing."""
    with serve_line("") as line:
        connect(monkeypatch, line.address)
        monkeypatch.delenv("STORAGE_EMULATOR_HOST")
        monkeypatch.setenv("API_ENDPOINT_OVERRIDE", line.address)
        yield line


@pytest.fixture
def key(stub, tmp_path, monkeypatch):
    """The key of a service account, which gets its tokens from the stub."""
    rsa = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.rsa")
    from cryptography.hazmat.primitives import serialization as form

    private = rsa.generate_private_key(65537, 2048).private_bytes(
        form.Encoding.PEM, form.PrivateFormat.PKCS8, form.NoEncryption()
    )
    account = {
        "type": "service_account",
        "client_email": "a@b.iam.gserviceaccount.com",
        "private_key": private.decode(),
        "token_uri": f"{stub.address}/token",
        "project_id": "p",
    }
    (tmp_path / "key.json").write_text(json.dumps(account))
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))


def test_a_location_is_a_bucket_and_a_prefix(gcs_bucket):
    for location in (f"gs://{gcs_bucket}", f"gs://{gcs_bucket}/"):
        top = open_store(location)
        assert isinstance(top, GcsStore)
        top.write("top.txt", b"1")
        assert top.place("a/b") == f"gs://{gcs_bucket}/a/b"
    below = open_store(f"gs://{gcs_bucket}/x/y/")
    below.write("low.txt", b"2")
    assert top.read("x/y/low.txt") == b"2"
    assert below.describe("low.txt") == f"gs://{gcs_bucket}/x/y/low.txt"
    assert top.folders("x") == ["x/y"]
    assert top.names("x/y") == ["x/y/low.txt"]


@pytest.mark.parametrize("location", ["gs://", "gs:///", "gs:///a/b"])
def test_a_bucket_must_be_named(location):
    with pytest.raises(RelayError, match=r"gs://.*: names no bucket; write gs://bucket/folder"):
        open_store(location)


@pytest.mark.parametrize(
    "call",
    # The library does not tell the others whether the bucket or the object is missing.
    [CALLS[name] for name in CALLS if name not in ("exists", "differs", "read")],
)
def test_a_missing_bucket_is_named(gcs_bucket, path, call):
    store = GcsStore("gs://no-such-bucket/x")
    with pytest.raises(StoreError, match=r"there is no bucket 'no-such-bucket'; create it, or"):
        call(store, path)


@EVERY_CALL
def test_denied_access_says_how_to_log_in(store, line, path, call):
    line.answers = [403] * 9
    with pytest.raises(StoreError, match=rf"/a.*: cannot be .*the 403 of a test.*{LOG_IN}"):
        call(store, path)
    assert len(line.asked) == 1, "asking again is of no use"


def test_a_token_that_is_refused_says_how_to_log_in(key, stub, path):
    stub.answers = [400] * 99
    with pytest.raises(StoreError, match=LOG_IN):
        GcsStore("gs://bucket/x").read("a")
    assert {request.split()[1] for request in stub.asked} == {"/token"}


@EVERY_CALL
def test_a_token_that_expired_says_how_to_log_in(stub, monkeypatch, path, call):
    from google.oauth2.credentials import Credentials

    found = (Credentials("of yesterday"), "project")
    monkeypatch.setattr(google.auth, "default", lambda *args, **kwargs: found)
    stub.answers = [401] * 9
    with pytest.raises(StoreError, match=rf"/a.*: cannot be .*refresh the access token.*{LOG_IN}"):
        call(GcsStore("gs://bucket/x"), path)
    assert len(stub.asked) == 1, "asking again is of no use"


@EVERY_CALL
def test_without_credentials_it_is_told_how_to_get_them(stub, monkeypatch, tmp_path, path, call):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("CLOUDSDK_CONFIG", str(tmp_path))
    monkeypatch.setenv("NO_GCE_CHECK", "true")
    monkeypatch.delenv("GOOGLE_APPLICATION_CREDENTIALS", raising=False)
    with pytest.raises(StoreError, match=rf"gs://bucket/x: no Google Cloud credentials.*{LOG_IN}"):
        call(GcsStore("gs://bucket/x"), path)
    assert stub.asked == []


@pytest.mark.parametrize("content", ["{}", "no JSON", None], ids=["empty", "no JSON", "missing"])
def test_a_broken_key_is_told(stub, monkeypatch, tmp_path, content):
    if content is not None:
        (tmp_path / "key.json").write_text(content)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(tmp_path / "key.json"))
    with pytest.raises(StoreError, match=rf"gs://bucket/x: .*key\.json.*{LOG_IN}"):
        GcsStore("gs://bucket/x").exists("a")


@EVERY_CALL
def test_without_the_package_its_name_is_told(monkeypatch, path, call):
    importing = builtins.__import__

    def fail(name, *args, **kwargs):
        if name.startswith("google"):
            raise ImportError(name)
        return importing(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(RelayError, match="pip install google-cloud-storage"):
        call(GcsStore("gs://bucket/x"), path)


@EVERY_CALL
@pytest.mark.parametrize(
    "answers", [[503, 429, 500], [BEFORE] * 3, [502, BEFORE, 504]], ids=["busy", "reset", "mixed"]
)
def test_a_busy_server_is_asked_again(direct, store, line, path, answers, call):
    direct.write("a/x", b"1")
    line.answers = list(answers)
    call(store, path)
    assert line.answers == []
    assert len(line.asked) > len(answers)


def test_a_large_file_goes_on_after_breaks(direct, store, line, tmp_path):
    original = tmp_path / "original"
    original.write_bytes(os.urandom(LARGE))
    line.answers = [503, lambda: None, BEFORE, lambda: None, 503, 503]
    assert store.create("c/x", original) is True
    assert line.answers == []
    assert direct.differs("c/x", original) == ""
    parts = [request for request in line.asked if "upload_id=" in request]
    assert len(parts) > LARGE / gcs.PART_BYTES, "what has arrived is not sent again"


def test_a_download_goes_on_after_a_break(direct, store, line):
    data = os.urandom(300_000)
    direct.write("c/x", data)
    line.answers = [HALF, HALF, 503]
    assert store.read("c/x") == data


def test_a_download_with_a_wrong_bit_is_refused(direct, store, line):
    direct.write("c/x", b"0123456789")
    line.answers = [FLIPPED]
    with pytest.raises(StoreError, match=r"c/x: cannot be read \(Checksum mismatch"):
        store.read("c/x")
    assert store.read("c/x") == b"0123456789"


@EVERY_CALL
def test_a_server_that_stays_away_is_told_in_time(store, line, path, monkeypatch, call):
    monkeypatch.setattr(gcs, "TRY_SECONDS", 0.3)
    line.down = True
    start = time.monotonic()
    with pytest.raises(StoreError, match=r"gs://.*/pre/a.*: cannot be .*check that the internet"):
        call(store, path)
    assert 0.2 < time.monotonic() - start < 3
    line.down = False
    store.write("a/x", b"1")
    assert store.read("a/x") == b"1", "it works again once the server is back"


@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "a file"])
def test_a_create_whose_answer_is_lost_is_ours(direct, store, line, path, as_file):
    line.answers = [AFTER]
    assert store.create("a/x", path if as_file else b"1") is True
    posts = [request for request in line.asked if request.startswith("POST")]
    assert len(posts) == 2, "it was tried again"
    assert direct.read("a/x") == b"1"


@pytest.mark.parametrize("as_file", [False, True], ids=["bytes", "a file"])
@pytest.mark.parametrize("first", [503, BEFORE], ids=["busy", "reset"])
def test_a_create_that_another_overtakes_is_not_ours(direct, store, line, path, first, as_file):
    line.answers = [first, lambda: direct.create("a/x", b"2")]
    assert store.create("a/x", path if as_file else b"1") is False
    assert line.answers == []
    assert direct.read("a/x") == b"2"


def test_a_delete_whose_answer_is_lost_is_done(direct, store, line):
    direct.write("a/x", b"1")
    line.answers = [AFTER]
    store.delete("a/x")
    assert len([request for request in line.asked if request.startswith("DELETE")]) == 2
    assert not direct.exists("a/x")


def test_a_folder_with_many_files_is_listed_and_deleted(gcs_bucket, monkeypatch):
    store = GcsStore(f"gs://{gcs_bucket}/x")
    for number in range(30):
        store.write(f"many/{number:02d}", b"1")
    assert store.names("many") == [f"many/{number:02d}" for number in range(30)]
    store.delete("many")
    assert store.names("many") == []


def test_whoever_needs_no_bucket_loads_nothing_of_google(tmp_path):
    code = (
        "import sys, relaydet.storage.store as s; s.open_store(sys.argv[1]).write('a', b'1');"
        "print([m for m in ('google.cloud', 'google.auth', 'requests') if m in sys.modules])"
    )
    ran = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "store")], capture_output=True, text=True
    )
    assert (ran.stdout.strip(), ran.returncode) == ("[]", 0), ran.stderr
