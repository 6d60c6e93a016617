"""What STORE auto comes to in each runtime, and that nobody is asked who cannot answer."""

from __future__ import annotations

import errno
import http.client
import io
import json
import os
import socket
import sys
from pathlib import Path
from types import ModuleType
from urllib.error import HTTPError, URLError

import pytest

from relaydet.errors import RelayError, StoreError
from relaydet.runtime import auto_store, credentials
from relaydet.runtime.auto_store import choose_store, find_store, tell_drive
from relaydet.runtime.detect import Runtime
from relaydet.storage import troubles
from relaydet.storage.local import LocalStore

MOUNTED = "drive /content/drive fuse.drive rw,nosuid 0 0\n"
TOKEN = {"KAGGLE_USER_SECRETS_TOKEN": "x"}
GCS_ATTACHED = {"KAGGLE_KERNEL_INTEGRATIONS": "BIGQUERY:GCS"}


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    """Only what a test puts there is mounted, or can be imported."""
    mounts = tmp_path / "mounts"
    mounts.write_text("/dev/sda / ext4 rw 0 0\n")
    monkeypatch.setattr(troubles, "MOUNTS", mounts)
    monkeypatch.chdir(tmp_path)
    return mounts


def put_module(monkeypatch, name: str, **members) -> None:
    module = ModuleType(name)
    vars(module).update(members)
    monkeypatch.setitem(sys.modules, name, module)
    parent, _, child = name.rpartition(".")
    if parent:
        if parent not in sys.modules:
            put_module(monkeypatch, parent)
        monkeypatch.setattr(sys.modules[parent], child, module, raising=False)


def put_drive(monkeypatch, mount) -> None:
    put_module(monkeypatch, "google.colab.drive", mount=mount)


def put_secrets(monkeypatch, secrets: dict[str, str] | Exception, *before: Exception) -> list[str]:
    """A kaggle_secrets that has these, or fails; `before` is how it fails at first.

    As the real one was seen to (facts): its BackendError is "none", and an answer with a status of
    HTTP comes out as a ConnectionError. Returns the labels that it is asked for.
    """
    asked: list[str] = []
    failures = list(before)

    class UserSecretsClient:
        def get_secret(self, label):
            asked.append(label)
            if failures:
                raise failures.pop(0)
            if isinstance(secrets, Exception):
                raise secrets
            if label not in secrets:
                raise module.BackendError("No user secrets exist for kernel id 1 and label.")
            return secrets[label]

    module = ModuleType("kaggle_secrets")
    module.BackendError = type("BackendError", (Exception,), {"__module__": "kaggle_web_client"})
    module.UserSecretsClient = UserSecretsClient
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)
    return asked


def connection_error(cause: Exception) -> Exception:
    """What Kaggle's client raises: urllib's own error is its cause."""
    error = ConnectionError("Connection error trying to communicate with service.")
    error.__cause__ = cause
    return error


def answer(code: int) -> Exception:
    return connection_error(HTTPError("https://host", code, "words", {}, io.BytesIO()))


def backend_error(words: str) -> Exception:
    return type("BackendError", (Exception,), {"__module__": "kaggle_web_client"})(words)


@pytest.fixture
def waits(monkeypatch) -> list[float]:
    """A clock that a sleep puts forward, and how long was slept."""
    slept: list[float] = []
    monkeypatch.setattr(credentials.time, "sleep", slept.append)
    monkeypatch.setattr(credentials.time, "monotonic", lambda: sum(slept))
    return slept


def never(*_arguments, **_more):
    raise AssertionError("nobody can be asked here: this would wait for ever")


def choose(name: str, environment=None, asked="auto", front_end=False):
    said: list[str] = []
    runtime = Runtime(name, "by the test", front_end, front_end)
    environment = {} if environment is None else environment
    return choose_store(asked, runtime, said.append, environment), said


@pytest.mark.parametrize(
    ("name", "environment", "location", "reason", "stays"),
    [
        pytest.param("local", {}, "work", "a folder on this machine", True, id="plain"),
        pytest.param("gcp_notebook", {}, "work", "this instance's disk", True, id="Workbench"),
        pytest.param("ci", {}, "work", "on ci", False, id="CI"),
        pytest.param("vertex_job", {}, "work", "on vertex_job", False, id="job without a folder"),
        pytest.param(
            "vertex_job",
            {"AIP_CHECKPOINT_DIR": "gs://people/job/checkpoints/"},
            *("gs://people/job/checkpoints", "AIP_CHECKPOINT_DIR", True),
            id="job with a folder",
        ),
        pytest.param("colab_enterprise", {}, "work", "colab_enterprise", False, id="Enterprise"),
        pytest.param("kaggle", {}, "/kaggle/working", "attach that to the next", True, id="Kaggle"),
        pytest.param("colab", {}, "work", "without its front end", False, id="papermill on Colab"),
        *(
            pytest.param(
                name,
                {"RELAYDET_STORE": "/mnt/big"},
                *("/mnt/big", "RELAYDET_STORE says so", True),
                id=f"named on {name}",
            )
            for name in ("local", "colab", "kaggle", "vertex_job", "gcp_notebook", "ci")
        ),
    ],
)
def test_auto_by_runtime(monkeypatch, name, environment, location, reason, stays):
    put_drive(monkeypatch, never)
    choice, _ = choose(name, environment)
    assert choice.location == location
    assert reason in choice.reason
    assert (not choice.remedy) == stays
    assert stays or "goes away with the machine: set STORE to gs://" in str(choice)


def test_what_was_asked_for_is_taken(monkeypatch):
    put_drive(monkeypatch, never)
    choice, said = choose("colab", {"RELAYDET_STORE": "gs://x"}, asked="there", front_end=True)
    assert (choice.location, choice.reason, said) == ("there", "as asked", [])


def test_a_mounted_drive_is_taken_and_not_mounted_again(monkeypatch, machine):
    machine.write_text(MOUNTED)
    put_drive(monkeypatch, never)
    for front_end in (False, True):
        choice, said = choose("colab", front_end=front_end)
        assert (choice.location, choice.reason) == (
            "/content/drive/MyDrive/relaydet",
            "Drive is mounted",
        )
        assert said == []


def test_colab_asks_for_drive_and_says_so_first(monkeypatch, machine):
    events = []

    def mount(place):
        events.append(("mount", place))
        machine.write_text(MOUNTED)

    put_drive(monkeypatch, mount)
    runtime = Runtime("colab", "", True, True)
    choice = choose_store("auto", runtime, lambda line: events.append(("said", line)), {})
    assert [kind for kind, _ in events] == ["said", "mount"]
    assert "Colab will ask to let this notebook use your Google Drive" in events[0][1]
    assert events[1][1] == "/content/drive"
    assert (choice.location, choice.remedy) == ("/content/drive/MyDrive/relaydet", "")


@pytest.mark.parametrize(
    ("error", "why"),
    [
        pytest.param(ValueError("mount failed"), "mount failed", id="refused"),
        pytest.param(TimeoutError(), "TimeoutError", id="no answer"),
        pytest.param(NotImplementedError("not here"), "not here", id="not offered"),
        pytest.param(AttributeError("no kernel"), "no kernel", id="no kernel behind it"),
        pytest.param(None, "Drive was not mounted", id="said nothing, did nothing"),
    ],
)
def test_without_drive_colab_goes_on_and_says_what_that_means(monkeypatch, error, why):
    def mount(place):
        if error:
            raise error

    put_drive(monkeypatch, mount)
    choice, _ = choose("colab", front_end=True)
    assert choice.location == "work"
    assert why in choice.reason
    assert "goes away with the machine" in choice.remedy


@pytest.mark.parametrize(
    ("secrets", "environment", "location", "reason"),
    [
        pytest.param(
            {"RELAYDET_STORE": "gs://people/x"},
            {**TOKEN, **GCS_ATTACHED},
            *("gs://people/x", "Add-ons > Google Cloud Services"),
            id="bucket and attached account",
        ),
        pytest.param(
            {"RELAYDET_STORE": "gs://people/x", "__gcloud_sdk_auth__": '{"type": "x"}'},
            TOKEN,
            *("gs://people/x", "Google Cloud SDK secret"),
            id="bucket and gcloud login",
        ),
        pytest.param({}, TOKEN, "/kaggle/working", "attach that", id="no secret of that name"),
        pytest.param(
            {"RELAYDET_STORE": "gs://people/x"}, {}, "/kaggle/working", "attach", id="none attached"
        ),
    ],
)
def test_kaggle_keeps_where_to_write_as_a_secret(
    monkeypatch, secrets, environment, location, reason
):
    put_secrets(monkeypatch, secrets)
    environment = dict(environment)
    choice, said = choose("kaggle", environment)
    assert choice.location == location
    assert reason in choice.reason
    assert said == []
    key = environment.get("GOOGLE_APPLICATION_CREDENTIALS")
    assert bool(key) == ("SDK secret" in reason)
    if key:
        assert Path(key).read_text() == secrets["__gcloud_sdk_auth__"]
        Path(key).unlink()


def test_kaggle_without_internet_says_so_and_goes_on(monkeypatch, waits):
    put_secrets(monkeypatch, connection_error(URLError(socket.gaierror(-3, "no such name"))))
    choice, said = choose("kaggle", dict(TOKEN))
    assert choice.location == "/kaggle/working"
    assert "turn Internet on under Settings" in said[-1]


PASSING = [
    pytest.param(answer(500), "answers HTTP 500 Internal Server Error", id="500"),
    pytest.param(answer(429), "answers HTTP 429 Too Many Requests", id="429"),
    pytest.param(answer(503), "answers HTTP 503 Service Unavailable", id="503"),
    pytest.param(
        connection_error(URLError(ConnectionResetError(104, "reset by peer"))),
        "Connection error trying to communicate",
        id="reset",
    ),
    pytest.param(connection_error(TimeoutError()), "the service does not answer", id="silence"),
    pytest.param(
        connection_error(URLError(TimeoutError())),
        "the service does not answer",
        id="no connection",
    ),
    pytest.param(json.JSONDecodeError("no value", "<html>", 0), "no JSON", id="a page of HTML"),
    pytest.param(http.client.IncompleteRead(b"{"), "cut off", id="cut off"),
    pytest.param(backend_error("Response: {'error': {'code': 13}}"), "'code': 13", id="inner"),
]


@pytest.mark.parametrize(("error", "words"), PASSING)
def test_passing_trouble_with_kaggles_secrets_is_waited_out(monkeypatch, waits, error, words):
    asked = put_secrets(monkeypatch, {"RELAYDET_STORE": "/mnt/big\n"}, error, error, error)
    choice, said = choose("kaggle", dict(TOKEN))
    assert (choice.location, len(asked), waits) == ("/mnt/big", 4, [1.0, 2.0, 4.0])
    assert len(said) == 2
    assert words in said[0]
    assert "trying again for 60 s" in said[0]
    assert said[1].startswith("the secret RELAYDET_STORE: /mnt/big (without the white space")


@pytest.mark.parametrize(("error", "words"), PASSING)
def test_trouble_with_kaggles_secrets_that_does_not_pass_never_moves_the_store(
    monkeypatch, waits, error, words
):
    put_secrets(monkeypatch, error)
    with pytest.raises(RelayError, match=words) as told:
        choose("kaggle", dict(TOKEN))
    assert "run again in a few minutes, or set STORE to what the secret says" in str(told.value)
    assert 40 <= sum(waits) <= 60


@pytest.mark.parametrize("code", [401, 403])
def test_a_secret_that_kaggle_refuses_is_told_at_once(monkeypatch, waits, code):
    put_secrets(monkeypatch, answer(code))
    with pytest.raises(RelayError, match=rf"HTTP {code}.*attach it .*under Add-ons > Secrets"):
        choose("kaggle", dict(TOKEN))
    assert waits == []


def test_a_name_that_cannot_be_resolved_for_a_moment_is_tried_again(monkeypatch, waits):
    unresolved = connection_error(URLError(socket.gaierror(-3, "Temporary failure")))
    put_secrets(monkeypatch, {"RELAYDET_STORE": "/mnt/big"}, unresolved, unresolved)
    choice, _ = choose("kaggle", dict(TOKEN))
    assert choice.location == "/mnt/big"


@pytest.mark.parametrize(
    ("name", "environment"),
    [("local", {"RELAYDET_STORE": "gs:/x"}), ("vertex_job", {"AIP_CHECKPOINT_DIR": "gs:/x"})],
)
def test_what_a_variable_says_is_cleaned_and_validated_too(name, environment):
    (variable,) = environment
    with pytest.raises(RelayError, match=rf"^{variable} gs:/x: did you mean gs://x\?"):
        choose(name, environment)
    choice, said = choose(name, {variable: ' "/mnt/big"\n'})
    assert choice.location == "/mnt/big"
    assert said == [f"{variable}: /mnt/big (without the white space and quotes around it)"]
    blank = pytest.raises(RelayError, match=rf"^{variable} ' ': is empty")
    with blank:
        choose(name, {variable: " "})


def test_a_secret_of_kaggle_is_validated_too(monkeypatch):
    put_secrets(monkeypatch, {"RELAYDET_STORE": "gs:/x"})
    with pytest.raises(RelayError, match=r"^the secret RELAYDET_STORE gs:/x: did you mean gs://x"):
        choose("kaggle", dict(TOKEN))


@pytest.fixture
def dead(monkeypatch, machine):
    """Drive as its process has left it: mounted, and out of reach; returns what revives it."""
    machine.write_text(MOUNTED)
    real, alive = Path.stat, []

    def stat(path, **named):
        if path.is_relative_to("/content/drive") and not alive:
            raise OSError(errno.ENOTCONN, os.strerror(errno.ENOTCONN))
        return real(path, **named)

    monkeypatch.setattr(Path, "stat", stat)
    return lambda: alive.append(True)


@pytest.mark.parametrize("asked", ["auto", "/content/drive/MyDrive/other"])
def test_a_drive_whose_mount_has_died_is_mounted_again(monkeypatch, dead, asked):
    places = []
    put_drive(monkeypatch, lambda place: (places.append(place), dead()))
    choice, said = choose("colab", asked=asked, front_end=True)
    assert choice.location == ("/content/drive/MyDrive/relaydet" if asked == "auto" else asked)
    assert places == ["/content/drive"]
    assert "Drive's mount has died (Transport endpoint is not connected): mounting it" in said[0]
    assert said[1] == "Drive is mounted again"


@pytest.mark.parametrize("front_end", [False, True])
@pytest.mark.parametrize("asked", ["auto", "/content/drive/MyDrive/other"])
def test_a_drive_that_stays_dead_never_moves_the_store(monkeypatch, dead, asked, front_end):
    def mount(place):
        raise TimeoutError("the browser does not answer")

    put_drive(monkeypatch, mount if front_end else never)
    with pytest.raises(StoreError, match=r"Drive's mount has died: .*run this cell again") as told:
        choose("colab", asked=asked, front_end=front_end)
    assert ("the browser does not answer" in str(told.value)) == front_end


def test_notebooks_of_the_repository_find_what_its_top_has(monkeypatch, tmp_path):
    (tmp_path / "lib/relaydet").mkdir(parents=True)
    (tmp_path / "notebooks").mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    choice, _ = choose("local")
    assert choice.location == "../work"
    assert "the repository that these notebooks are in" in choice.reason
    (tmp_path / "notebooks/work").mkdir()
    assert choose("local")[0].location == "work", "what was trained there stays in use"


def test_a_folder_work_above_another_folder_is_nobodys_business(monkeypatch, tmp_path):
    for folder in ("work", "notebooks"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "notebooks")
    assert choose("local")[0].location == "work"


def test_an_error_of_ours_in_kaggles_client_is_not_taken_for_no_secret(monkeypatch):
    put_secrets(monkeypatch, TypeError("a fault"))
    with pytest.raises(TypeError):
        choose("kaggle", dict(TOKEN))


def test_colab_asks_for_an_account_where_a_bucket_is_named(monkeypatch):
    asked = []
    put_module(monkeypatch, "google.colab.auth", authenticate_user=lambda: asked.append(1))
    choice, said = choose("colab", asked="gs://people/x", front_end=True)
    assert (choice.location, len(asked)) == ("gs://people/x", 1)
    assert "Colab may ask for your Google account now" in said[0]
    assert "your account" in choice.reason


def test_colab_is_not_asked_for_an_account_without_its_front_end_or_with_a_key(monkeypatch):
    put_module(monkeypatch, "google.colab.auth", authenticate_user=never)
    choose("colab", asked="gs://people/x")
    choice, _ = choose(
        "colab", {"GOOGLE_APPLICATION_CREDENTIALS": "k"}, "gs://people/x", front_end=True
    )
    assert "GOOGLE_APPLICATION_CREDENTIALS" in choice.reason


def test_who_refuses_the_account_is_told_what_else_there_is(monkeypatch):
    def refuse():
        raise OSError("denied")

    put_module(monkeypatch, "google.colab.auth", authenticate_user=refuse)
    with pytest.raises(RelayError, match="did not let this notebook use your Google account"):
        choose("colab", asked="gs://people/x", front_end=True)


def test_the_store_is_opened_and_what_auto_came_to_is_said(monkeypatch):
    monkeypatch.setattr(auto_store, "detect", lambda: Runtime("local", ""))
    monkeypatch.delenv("RELAYDET_STORE", raising=False)
    said: list[str] = []
    assert find_store("auto", said.append).location == "work"
    assert said == ["store: work (a folder on this machine)"]
    said.clear()
    assert find_store("here", said.append).location == "here"
    assert said == []


def test_a_merge_and_a_training_on_drive_end_with_what_drive_does_later(tmp_path, monkeypatch):
    monkeypatch.setattr(troubles, "DRIVE", tmp_path / "drive")
    said: list[str] = []
    tell_drive(LocalStore(tmp_path / "disk"), said.append)
    assert said == []
    tell_drive(LocalStore(tmp_path / "drive/store"), said.append)
    assert "leave this runtime connected for a few minutes" in said[0]
