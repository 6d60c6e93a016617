"""What STORE auto stands for: the place of this runtime that outlives the session."""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from relaydet.errors import StoreError
from relaydet.places import DRIVE, KAGGLE_WORKING
from relaydet.runtime.credentials import NoInternetError, kaggle_secret, log_in
from relaydet.runtime.detect import Runtime, detect
from relaydet.storage.store import AUTO, GCS, STORE, Store, clean_location, open_store
from relaydet.storage.troubles import drive_is_mounted, mount_trouble, on_drive, store_trouble

STORE_VARIABLE = "RELAYDET_STORE"
"""Environment variable, or secret of a Kaggle notebook, that says what auto is."""
ON_DRIVE = DRIVE / "MyDrive" / "relaydet"
FOLDER = "work"


@dataclass(frozen=True)
class StoreChoice:
    """Where everything is written to, and why."""

    location: str
    """A folder or gs://bucket/prefix."""
    reason: str
    """Why there."""
    remedy: str = ""
    """What to do where it goes away with the machine; empty where it stays."""

    def __str__(self) -> str:
        line = f"store: {self.location} ({self.reason})"
        return f"{line}; {self.remedy}" if self.remedy else line


def choose_store(
    asked: str,
    runtime: Runtime,
    say: Callable[[str], None] = print,
    environment: MutableMapping[str, str] = os.environ,
) -> StoreChoice:
    """Decide where everything is written to, and get access to it.

    Only on Colab with its front end is the user asked anything: to let the notebook use Drive, or
    a Google account. A Drive whose mount has died is mounted again there.

    Args:
        asked: STORE; auto decides by the runtime.
        runtime: where this is.
        say: takes what is about to be asked, and why a place could not be had.
        environment: the environment variables.

    Raises:
        RelayError: it names no place (see `clean_location`); a bucket is named, and the user
            refused the account for it; Kaggle's secrets cannot be read.
        StoreError: Drive's mount has died and cannot be mounted again from here.
    """
    choice = StoreChoice(_cleaned(asked, STORE, say), "as asked")
    if choice.location == AUTO:
        choice = _auto(runtime, say, environment)
    if on_drive(Path(choice.location)):
        _revive_drive(runtime, say)
    if choice.location.startswith(GCS):
        whose = log_in(runtime, say, environment)
        reason = f"{choice.reason}, with {whose}" if whose else choice.reason
        return StoreChoice(choice.location, reason, choice.remedy)
    return choice


def find_store(asked: str, say: Callable[[str], None] = print, must_exist: bool = False) -> Store:
    """Open the store that STORE means on this machine; what auto came to is said.

    Args:
        asked: STORE.
        say: takes what auto came to.
        must_exist: refuse a folder that was named and is not there, for jobs that only read.

    Raises:
        RelayError: it is no folder that can be used and no bucket.
        StoreError: it may be there later: a mount that is away.
    """
    choice = choose_store(asked, detect(), say)
    if clean_location(asked) == AUTO:
        say(str(choice))
        must_exist = False  # an empty one is where everything is going to be
    return open_store(choice.location, must_exist=must_exist)


def tell_drive(store: Store, say: Callable[[str], None]) -> None:
    """Say that Drive goes on uploading, where that is the store."""
    if on_drive(store.place("")):
        say(
            "Drive uploads what was written in its own time: leave this runtime connected for a"
            " few minutes before you close it"
        )


def _cleaned(asked: str, parameter: str, say: Callable[[str], None]) -> str:
    location = clean_location(asked, parameter)
    if location != str(asked) and location != AUTO:
        say(f"{parameter}: {location} (without the white space and quotes around it)")
    return location


def _auto(
    runtime: Runtime, say: Callable[[str], None], environment: MutableMapping[str, str]
) -> StoreChoice:
    named = environment.get(STORE_VARIABLE, "")
    named = _cleaned(named, STORE_VARIABLE, say) if named else AUTO
    if named != AUTO:
        return StoreChoice(named, f"{STORE_VARIABLE} says so")
    match runtime.name:
        case "colab":
            return _on_colab(runtime, say)
        case "kaggle":
            return _on_kaggle(say, environment)
        case "vertex_job" if environment.get("AIP_CHECKPOINT_DIR"):
            variable = "AIP_CHECKPOINT_DIR"
            folder = _cleaned(environment[variable].rstrip("/"), variable, say)
            return StoreChoice(folder, "the job's AIP_CHECKPOINT_DIR")
        case "vertex_job" | "ci" | "colab_enterprise":
            return _goes_away(f"on {runtime.name}")
        case "gcp_notebook":
            reason = f"it stays on this instance's disk; {STORE_VARIABLE} names no bucket"
            return StoreChoice(_folder()[0], reason)
        case _:
            return StoreChoice(*_folder())


def _folder() -> tuple[str, str]:
    """The folder work, and why there: at the top of the repository where its notebooks are run.

    Jupyter starts a kernel in the notebook's folder, papermill and `make demo` at the top: both
    are to find the same runs. What is in notebooks/work already stays in use.
    """
    try:
        here = Path.cwd()
        notebooks = here.name == "notebooks" and (here.parent / "lib/relaydet").is_dir()
    except OSError:  # the current folder is gone, which `open_store` says
        notebooks = False
    if notebooks and not Path(FOLDER).is_dir():
        return f"../{FOLDER}", "the folder work of the repository that these notebooks are in"
    return FOLDER, "a folder on this machine"


def _on_colab(runtime: Runtime, say: Callable[[str], None]) -> StoreChoice:
    if drive_is_mounted():
        return StoreChoice(str(ON_DRIVE), "Drive is mounted")
    if not runtime.front_end:
        return _goes_away("on Colab without its front end, where nobody can be asked for Drive")
    trouble = _mount_drive(say)
    if trouble:
        return _goes_away(trouble)
    return StoreChoice(str(ON_DRIVE), "Drive was mounted")


def _revive_drive(runtime: Runtime, say: Callable[[str], None]) -> None:
    """Mount Drive again where its mount has died and somebody can be asked.

    `drive.mount` then takes a second; where the browser does not answer it gives up by itself
    after two minutes.

    Raises:
        StoreError: it is dead still; what is there must not be begun anew elsewhere.
    """
    trouble = mount_trouble(DRIVE / "MyDrive") if drive_is_mounted() else None
    if trouble is None:
        return
    why = ""
    if runtime.name == "colab" and runtime.front_end:
        say(f"Drive's mount has died ({trouble.strerror}): mounting it again, in 2 min at most")
        why = _mount()
        trouble = mount_trouble(DRIVE / "MyDrive")
        if trouble is None:
            say("Drive is mounted again")
            return
    dead = store_trouble(DRIVE / "MyDrive", "be reached", trouble)
    raise StoreError(f"{why}. {dead}" if why else str(dead)) from trouble


def _mount_drive(say: Callable[[str], None]) -> str:
    """Ask for Drive; what went wrong, or nothing."""
    say(
        "Colab will ask to let this notebook use your Google Drive: checkpoints are kept in its"
        " folder relaydet, so that training can go on when this machine is gone. Agree, or set"
        " STORE to gs://bucket/folder"
    )
    return _mount()


def _mount() -> str:
    from google.colab import drive

    try:
        drive.mount(str(DRIVE))
    except Exception as error:  # ValueError, TimeoutError, Colab's MessageError: by its version
        return f"Drive could not be mounted: {str(error) or type(error).__name__}"
    return "" if drive_is_mounted() else "Drive was not mounted"


def _on_kaggle(say: Callable[[str], None], environment: MutableMapping[str, str]) -> StoreChoice:
    try:
        named = kaggle_secret(STORE_VARIABLE, environment, say)
    except NoInternetError as error:
        say(str(error))
        named = ""
    named = _cleaned(named, f"the secret {STORE_VARIABLE}", say) if named else AUTO
    if named != AUTO:
        return StoreChoice(named, f"this notebook's secret {STORE_VARIABLE} says so")
    reason = (
        "Kaggle keeps it as the output of this version; attach that to the next one and training"
        " goes on"
    )
    return StoreChoice(str(KAGGLE_WORKING), reason)


def _goes_away(why: str) -> StoreChoice:
    remedy = (
        "it goes away with the machine: set STORE to gs://bucket/folder, or the environment"
        f" variable {STORE_VARIABLE}, to keep what is trained"
    )
    folder, reason = _folder()
    return StoreChoice(folder, f"{reason}, {why}", remedy)
