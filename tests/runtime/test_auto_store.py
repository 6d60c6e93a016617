"""What STORE auto comes to in each runtime, and that nobody is asked who cannot answer."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest

from relaydet.errors import RelayError
from relaydet.runtime import auto_store
from relaydet.runtime.auto_store import choose_store, find_store
from relaydet.runtime.detect import Runtime
from relaydet.storage import troubles

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


def put_secrets(monkeypatch, secrets: dict[str, str] | Exception) -> None:
    """A kaggle_secrets that has these, or cannot be reached; facts: its BackendError is none."""

    class UserSecretsClient:
        def get_secret(self, label):
            if isinstance(secrets, Exception):
                raise secrets
            if label not in secrets:
                raise module.BackendError("No user secrets exist for kernel id 1 and label.")
            return secrets[label]

    module = ModuleType("kaggle_secrets")
    module.BackendError = type("BackendError", (Exception,), {"__module__": "kaggle_web_client"})
    module.UserSecretsClient = UserSecretsClient
    monkeypatch.setitem(sys.modules, "kaggle_secrets", module)


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


def test_kaggle_without_internet_says_so_and_goes_on(monkeypatch):
    put_secrets(monkeypatch, ConnectionError("Connection error trying to communicate"))
    choice, said = choose("kaggle", dict(TOKEN))
    assert choice.location == "/kaggle/working"
    assert "turn Internet on under Settings" in said[0]


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
