"""Where a run goes on: the newest checkpoint in the store, on this machine, or elsewhere."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

from relaydet.config import TrainConfig
from relaydet.errors import RelayError
from relaydet.places import KAGGLE_INPUT
from relaydet.runtime.attached import attached_stores
from relaydet.runtime.detect import Runtime
from relaydet.storage.cache import cache_root
from relaydet.storage.local import LocalStore
from relaydet.storage.store import AUTO, Store, clean_location, open_store
from relaydet.training.checkpoint import Checkpoint, folder_of, load_newest, newest_manifest
from relaydet.training.settings import differences


@dataclass(frozen=True)
class Start:
    """What a session starts from."""

    checkpoint: Checkpoint | None
    """None for a new run."""
    in_store: bool
    """Whether the store itself has it; else it is to be saved there first."""


def unsent_folder(store: Store, run: str) -> Path:
    """Where this machine keeps a run's checkpoints that are not in the store yet.

    A folder for each token is in it, laid out as a store: a session that was fenced off must not
    write into the files of the one that came after it.
    """
    digest = hashlib.sha256(store.place("").encode()).hexdigest()[:10]
    return cache_root() / "unsent" / f"{run}-{digest}"


def earlier_outputs(
    run: str, resume_from: str, runtime: Runtime, attached: Path = KAGGLE_INPUT
) -> list[Store]:
    """Stores that are only read, in which a run may have been trained before.

    Args:
        run: its name.
        resume_from: the store that the user names; empty looks at what is attached, on Kaggle.
        runtime: where this is.
        attached: where Kaggle mounts the outputs of earlier versions.

    Raises:
        RelayError: the named store does not have the run.
    """
    if resume_from:
        if clean_location(resume_from, "RESUME_FROM") == AUTO:
            raise RelayError(
                "RESUME_FROM auto: names no store; leave it empty for what Kaggle has attached, or"
                " give the folder that has runs/ in it."
            )
        store = open_store(resume_from, "RESUME_FROM")
        if not store.exists(f"runs/{run}/config.json"):
            raise RelayError(
                f"RESUME_FROM {resume_from}: there is no run {run!r} in it; give the folder that"
                " has runs/ in it, or mend RUN."
            )
        return [store]
    return [*attached_stores(runtime, f"runs/{run}/config.json", attached)]


def find_start(
    store: Store,
    run: str,
    unsent: Path,
    earlier: Sequence[Store],
    config: TrainConfig,
    say: Callable[[str], None] = print,
) -> Start:
    """Load the newest checkpoint of all places.

    Args:
        store: the run's own store.
        run: its name.
        unsent: folder of what this machine could not carry to the store (`unsent_folder`).
        earlier: stores in which the run was trained before.
        config: what is trained; what was trained otherwise elsewhere is another run of that name.
        say: takes a sentence for each checkpoint that was passed over, and where the one taken is.

    Raises:
        RelayError: there are checkpoints, and none can be used.
        StoreError: a store cannot be read.
    """
    best, passed = load_newest(store, run, lambda manifest: _unlike(manifest, config))
    in_store, others = best is not None, []
    for place in [*map(LocalStore, sorted(unsent.glob("*"))), *earlier]:
        found, more = load_newest(place, run)
        passed += more
        if found and (changed := _unlike(found.manifest, config)):
            others.append(f"passed over {found.where}: {changed}")
        elif found and (best is None or _is_newer(found, best, place in earlier)):
            best, in_store = found, False
    for sentence in passed + others:
        say(sentence)
    if passed and best is None:
        raise RelayError(
            f"Run {run!r} has checkpoints and none can be used ({passed[0]}); restore one from"
            " elsewhere, or start a new RUN."
        )
    if best and not in_store:
        say(f"going on from {best.where}")
    return Start(best, in_store)


def leave_alone(store: Store, run: str, unsent: Path, say: Callable[[str], None]) -> None:
    """Put aside what this machine kept of a run that the store does not have any more.

    Somebody deleted it there: going on from what was not carried over in time would bring it back.
    Nothing is deleted, and what is put aside is not looked at again.

    Args:
        store: the run's own store, before anything of this session is written to it.
        run: its name.
        unsent: folder of what this machine could not carry to the store (`unsent_folder`).
        say: takes where it is now, and how to take or delete it.

    Raises:
        RelayError: it cannot be put aside.
        StoreError: the store cannot be read.
    """
    left = [f for f in unsent.glob("*") if any((f / folder_of(run)).glob("step-*"))]
    if not left or _has_run(store, run):
        return
    aside = next(p for n in count(1) if not (p := unsent.with_name(f"{unsent.name}.{n}")).exists())
    try:
        unsent.rename(aside)
    except OSError as error:
        raise RelayError(
            f"{unsent}: checkpoints of a run {run!r} that the store does not have any more, and"
            f" they cannot be put aside ({error.strerror}); move or delete them."
        ) from error
    newest = aside / max(left, key=lambda folder: folder.name.zfill(20)).name
    there = store.describe(f"runs/{run}")
    say(
        f"WARNING: run {run!r} is not in the store any more, so the checkpoints of it that this"
        f" machine kept are left alone, in {aside}; to take them, stop, delete {there} and copy"
        f" {newest}/runs/{run} in its place; else delete that folder"
    )


def _has_run(store: Store, run: str) -> bool:
    folder = f"runs/{run}"
    files = (f"{folder}/config.json", f"{folder}/lease.json")
    return any(map(store.exists, files)) or any(
        store.names(f"{folder}/{below}") for below in ("leases", "checkpoints")
    )


def _unlike(manifest: dict[str, Any], config: TrainConfig) -> str:
    """Why a checkpoint is not of what is trained; empty where it is."""
    changed = differences(manifest.get("config"), config)
    return f"of another run, with {', '.join(changed)}" if changed else ""


def forget_unsent(unsent: Path, token: int) -> None:
    """Remove what sessions up to this one left here, once the store has something newer."""
    for folder in unsent.glob("*"):
        if folder.name.isdecimal() and int(folder.name) <= token:
            # One that was fenced off may still be at work there: what it finds missing makes it
            # look at its lease, and what it leaves is older, and known to be.
            shutil.rmtree(folder, ignore_errors=True)


def highest_token(store: Store, run: str, unsent: Path) -> int:
    """The highest token that a checkpoint was made under, in the store or here; 0 without any."""
    manifest = newest_manifest(store, run) or {}
    here = [int(folder.name) for folder in unsent.glob("*") if folder.name.isdecimal()]
    return max([int(manifest.get("token", 0)), *here])


def _is_newer(found: Checkpoint, best: Checkpoint, elsewhere: bool) -> bool:
    """Tokens of another store count on their own; there, the step alone tells."""
    if elsewhere:
        return found.step > best.step
    return _age(found) > _age(best)


def _age(checkpoint: Checkpoint) -> tuple[int, int]:
    return int(checkpoint.manifest.get("token", 0)), checkpoint.step
