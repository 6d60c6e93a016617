"""What STORE auto stands for: the place of this runtime that outlives the session."""

from __future__ import annotations

import os
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path

from relaydet.errors import RelayError
from relaydet.places import DRIVE, KAGGLE_WORKING
from relaydet.runtime.credentials import kaggle_secret, log_in
from relaydet.runtime.detect import Runtime, detect
from relaydet.storage.store import AUTO, GCS, Store, open_store
from relaydet.storage.troubles import drive_is_mounted

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
    a Google account.

    Args:
        asked: STORE; auto decides by the runtime.
        runtime: where this is.
        say: takes what is about to be asked, and why a place could not be had.
        environment: the environment variables.

    Raises:
        RelayError: a bucket is named, and the user refused the account for it.
    """
    choice = StoreChoice(asked, "as asked")
    if asked == AUTO:
        choice = _auto(runtime, say, environment)
    if choice.location.startswith(GCS):
        whose = log_in(runtime, say, environment)
        reason = f"{choice.reason}, with {whose}" if whose else choice.reason
        return StoreChoice(choice.location, reason, choice.remedy)
    return choice


def find_store(asked: str, say: Callable[[str], None] = print) -> Store:
    """Open the store that STORE means on this machine; what auto came to is said.

    Raises:
        RelayError: it is no folder that can be written to and no bucket.
    """
    choice = choose_store(asked, detect(), say)
    if asked == AUTO:
        say(str(choice))
    return open_store(choice.location)


def _auto(
    runtime: Runtime, say: Callable[[str], None], environment: MutableMapping[str, str]
) -> StoreChoice:
    named = environment.get(STORE_VARIABLE, "")
    if named:
        return StoreChoice(named, f"{STORE_VARIABLE} says so")
    match runtime.name:
        case "colab":
            return _on_colab(runtime, say)
        case "kaggle":
            return _on_kaggle(say, environment)
        case "vertex_job" if environment.get("AIP_CHECKPOINT_DIR"):
            folder = environment["AIP_CHECKPOINT_DIR"].rstrip("/")
            return StoreChoice(folder, "the job's AIP_CHECKPOINT_DIR")
        case "vertex_job" | "ci" | "colab_enterprise":
            return _goes_away(f"on {runtime.name}")
        case "gcp_notebook":
            reason = f"it stays on this instance's disk; {STORE_VARIABLE} names no bucket"
            return StoreChoice(FOLDER, reason)
        case _:
            return StoreChoice(FOLDER, "a folder on this machine")


def _on_colab(runtime: Runtime, say: Callable[[str], None]) -> StoreChoice:
    if drive_is_mounted():
        return StoreChoice(str(ON_DRIVE), "Drive is mounted")
    if not runtime.front_end:
        return _goes_away("on Colab without its front end, where nobody can be asked for Drive")
    trouble = _mount_drive(say)
    if trouble:
        return _goes_away(trouble)
    return StoreChoice(str(ON_DRIVE), "Drive was mounted")


def _mount_drive(say: Callable[[str], None]) -> str:
    """Ask for Drive; what went wrong, or nothing."""
    from google.colab import drive

    say(
        "Colab will ask to let this notebook use your Google Drive: checkpoints are kept in its"
        " folder relaydet, so that training can go on when this machine is gone. Agree, or set"
        " STORE to gs://bucket/folder"
    )
    try:
        drive.mount(str(DRIVE))
    except Exception as error:  # ValueError, TimeoutError, Colab's MessageError: by its version
        return f"Drive could not be mounted: {str(error) or type(error).__name__}"
    return "" if drive_is_mounted() else "Drive was not mounted"


def _on_kaggle(say: Callable[[str], None], environment: MutableMapping[str, str]) -> StoreChoice:
    try:
        named = kaggle_secret(STORE_VARIABLE, environment)
    except RelayError as error:
        say(str(error))
        named = ""
    if named:
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
    return StoreChoice(str(Path(FOLDER)), f"a folder on this machine, {why}", remedy)
