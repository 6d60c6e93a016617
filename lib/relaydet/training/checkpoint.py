"""Checkpoints: written so that a half-written one can never be taken for a whole one.

STORE/runs/RUN/checkpoints/step-00001234.pt holds model and optimizer in full precision, and
step-00001234.json, the manifest, is written after it: {format, step, token, file, size, sha256,
seal, ...}. A checkpoint exists once its manifest does, and is loaded only when size and SHA-256
match it; the manifest's own SHA-256 is its seal, since the step, the token and the dataset's hash
must be true as well.
There is no random state in it: everything random is a function of the step (see `randomness`).

It is packed on this machine's own disk first and published from there, so that a store that is away
for a while loses nothing.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import torch

from relaydet.errors import RelayError, StoreError
from relaydet.json_file import UNDECODABLE
from relaydet.storage.store import Store
from relaydet.storage.troubles import on_drive
from relaydet.training.run_files import as_json, refuse_newer

FORMAT = 1
_DAMAGED = 2**62


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    step: int
    """Optimizer steps done."""
    state: dict[str, Any]
    """{"model": state dict, "optimizer": state dict}."""
    manifest: dict[str, Any]
    where: str
    """The manifest, as a person would open it."""


@dataclass(frozen=True)
class Packed:
    """A checkpoint on this machine's disk, or in its memory, ready to be published."""

    file: Path
    """The .pt file; its manifest lies beside it."""
    manifest: dict[str, Any]
    data: bytes | None = None
    """What the .pt file would hold, where it is in memory; None where it is on the disk."""

    @property
    def manifest_file(self) -> Path:
        """The manifest."""
        return self.file.with_suffix(".json")

    def unreadable(self) -> str:
        """Why the files on this machine's disk cannot be read back; empty where they can."""
        if self.data is not None:
            return ""
        try:
            for file in (self.file, self.manifest_file):
                with file.open("rb") as opened:
                    while opened.read(1 << 20):
                        pass
        except OSError as error:
            return f"{file}: {error.strerror or error}"
        return ""

    def remove(self) -> None:
        """Free the disk; raises OSError where it does not let go."""
        if self.data is not None:
            return
        for ending in (".json", ".half", ".pt"):
            self.file.with_suffix(ending).unlink(missing_ok=True)


_KNOWN = frozenset(
    {
        *("format", "step", "token", "owner", "resumed_from", "file", "size", "sha256", "seal"),
        *("relaydet", "dataset_sha256", "config", "frozen", "precision", "micro_batch", "torch"),
        *("device", "threads", "plain", "ranks"),
    }
)
"""Fields of a manifest that this version writes."""


class _Promise(msgspec.Struct):
    """What of a manifest is relied on."""

    format: int
    step: int
    file: str
    size: int
    sha256: str
    token: int = 0


@dataclass(frozen=True)
class Lineage:
    """Which session makes a checkpoint."""

    token: int = 0
    """Fencing token of its lease."""
    owner: str = ""
    """Its random name."""
    resumed_from: int = 0
    """Step that it started from."""


@dataclass(frozen=True)
class Keep:
    """Which checkpoints stay in the store."""

    last: int = 2
    """The newest so many; at least two, of which the older stands in for a damaged newer one."""
    best: int | None = None
    """The step with the best AP so far, where an evaluation has told."""
    size: float = float("inf")
    """Bytes that all may take together; the newest two stay whatever they take."""


def folder_of(run: str) -> str:
    """Folder of a run's checkpoints in a store."""
    return f"runs/{run}/checkpoints"


def pack(
    folder: Path,
    step: int,
    lineage: Lineage,
    state: dict[str, Any],
    facts: dict[str, Any],
    in_memory: bool = False,
) -> Packed:
    """Write a checkpoint to this machine's disk.

    Args:
        folder: where to; made if need be.
        step: optimizer steps done.
        lineage: who makes it, and from what.
        state: tensors, numbers, strings and containers of them.
        facts: what else the manifest shall say (the dataset's hash, versions).
        in_memory: keep it in memory instead, where the disk does not take it.

    Raises:
        OSError: the disk is full, or cannot be written to.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getbuffer()
    name = f"step-{step:08d}.pt"
    manifest = {
        "format": FORMAT,
        "step": step,
        "token": lineage.token,
        "owner": lineage.owner,
        "resumed_from": lineage.resumed_from,
        "file": name,
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        **facts,
    }
    manifest["seal"] = _seal(manifest)
    if in_memory:
        return Packed(folder / name, manifest, buffer.getvalue())
    folder.mkdir(parents=True, exist_ok=True)
    packed = Packed(folder / name, manifest)
    packed.manifest_file.unlink(missing_ok=True)
    try:
        packed.file.write_bytes(data)
        half = packed.file.with_suffix(".half")
        half.write_bytes(as_json(manifest))
        half.replace(packed.manifest_file)
    except OSError:
        with suppress(OSError):  # why it cannot be written is what has to be said
            packed.remove()
        raise
    return packed


def publish(store: Store, run: str, packed: Packed) -> None:
    """Put a checkpoint into the store and verify it there; `tidy` may follow.

    Raises:
        StoreError: it could not be written, or what arrived differs; it is no checkpoint then.
        LeaseLostError: the store is fenced, and the run is another session's.
    """
    name = f"{folder_of(run)}/{packed.file.stem}"
    # What is there of that step is of a session that was killed, or stopped and fenced off.
    for left in (f"{name}.json", f"{name}.pt"):
        if store.exists(left):
            store.delete(left)
    for file, data in (
        (packed.file, packed.data),
        (packed.manifest_file, None if packed.data is None else as_json(packed.manifest)),
    ):
        stored = f"{name}{file.suffix}"
        put = store.create(stored, file if data is None else data)
        if not put:
            problem = "another session wrote it meanwhile"
        elif data is None:
            problem = store.differs(stored, file)
        else:
            problem = "" if store.read(stored) == data else "its bytes are others"
        if problem:
            raise StoreError(
                f"{store.describe(stored)}: did not arrive ({problem}); check the disk or the"
                " mount."
            )


def tidy(store: Store, run: str, newest: dict[str, Any], keep: Keep) -> None:
    """Remove all that need not stay, once the newest checkpoint has been verified in the store.

    A manifest goes before its .pt file: without it the rest is no checkpoint. Of older tokens only
    those may stay that the newest one came after: a higher step was rejected when this session
    started, or is of one that had lost the run. What a newer token has published is not this
    session's to remove.

    Raises:
        StoreError: the store is away; what should have gone is still there then.
        LeaseLostError: the store is fenced, and the run is another session's.
    """
    token, step, base = newest["token"], newest["step"], newest["resumed_from"]
    manifests = _manifests(store, run)
    order = sorted(
        (
            found
            for found in manifests
            if (found[0] == token and found[1] <= step) or (found[0] < token and found[1] <= base)
        ),
        reverse=True,
    )
    best = [found for found in order if found[1] == keep.best]
    ranked = [*order[:2], *best, *order[2 : keep.last]]
    stay: dict[str, int] = {}
    for place, (_, _, name) in enumerate(dict.fromkeys(ranked)):
        size = _size_of(store, name)
        if place < 2 or sum(stay.values()) + size <= keep.size:
            stay[name.removesuffix(".json")] = size
    stay |= {name.removesuffix(".json"): 0 for new, _, name in manifests if token < new < _DAMAGED}
    names: Iterable[str] = store.names(folder_of(run))
    for name in sorted(names, key=lambda n: not n.endswith(".json")):
        is_ours = name.rpartition("/")[2].startswith("step-")  # people put notes anywhere
        if is_ours and name.rsplit(".", 1)[0] not in stay:
            store.delete(name)


def load_newest(
    store: Store, run: str, unfit: Callable[[dict[str, Any]], str] = lambda manifest: ""
) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies: of the highest token, the highest step.

    A session that was stopped for so long that another took the run over may still publish what it
    had under way. That has the older token, and is passed over once the other has published.

    Args:
        store: where the run is.
        run: its name.
        unfit: says of a manifest why its checkpoint is not this run's; empty where it is.

    Returns:
        The checkpoint, or None where there is none; and a sentence for each that was passed over.

    Raises:
        StoreError: the store cannot be read.
        ForeignFileError: the newest is of a newer version, with what this one does not know.
    """
    passed: list[str] = []
    manifests = _manifests(store, run)
    highest = max((step for token, step, _ in manifests if token != _DAMAGED), default=0)
    for _, step, name in sorted(manifests, reverse=True):
        manifest, data, problem = _verified(store, name, step)
        if not problem:
            refuse_newer(store.describe(name), manifest.get("relaydet"), manifest, _KNOWN)
            problem = unfit(manifest)
        if not problem:
            try:
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            except MemoryError:
                raise  # says nothing about the file
            except Exception as error:  # torch raises whatever a broken file provokes
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                problem = f"it cannot be loaded safely ({reason})"
            else:
                if highest > step and not passed:
                    passed.append(
                        f"passed over step {highest}: published by a session that had lost the run"
                    )
                return Checkpoint(step, state, manifest, store.describe(name)), passed
        passed.append(f"skipped {store.describe(name)}: {problem}")
    return None, passed


def newest_manifest(store: Store, run: str) -> dict[str, Any] | None:
    """The manifest of the newest checkpoint, whether or not its .pt file is whole; None without."""
    return next(iter(sealed_manifests(store, run)), None)


def sealed_manifests(store: Store, run: str) -> list[dict[str, Any]]:
    """All manifests that are as they were written, whether or not the .pt files are; newest first.

    Raises:
        StoreError: the store cannot be read.
    """
    whole = sorted((f for f in _manifests(store, run) if f[0] != _DAMAGED), reverse=True)
    found = []
    for _, _, name in whole:
        try:
            found.append(_opened(store.read(name))[0])
        except StoreError:
            raise
        except (RelayError, *UNDECODABLE):
            continue  # removed or replaced since it was looked at
    return found


def _manifests(store: Store, run: str) -> list[tuple[int, int, str]]:
    """(token, step, name) of each manifest; a damaged one comes first of all, and is named then."""
    found = []
    for name in store.names(folder_of(run)):
        stem, _, ending = name.rpartition("/")[2].rpartition(".")
        if ending != "json" or not stem.removeprefix("step-").isdecimal():
            continue
        try:
            manifest, promise = _opened(store.read(name))
            token = promise.token if _is_sealed(manifest) else _DAMAGED
        except StoreError:
            raise
        except RelayError:
            continue  # removed since the names were listed
        except UNDECODABLE:
            token = _DAMAGED
        found.append((token, int(stem.removeprefix("step-")), name))
    return found


def _opened(text: bytes) -> tuple[dict[str, Any], _Promise]:
    """A manifest, and what of it is relied on; raises MsgspecError or another of UNDECODABLE."""
    return msgspec.json.decode(text), msgspec.json.decode(text, type=_Promise)


def _is_sealed(manifest: dict[str, Any]) -> bool:
    """Whether a manifest is as it was written; one without a seal is taken at its word."""
    try:
        seal = _seal(manifest)
    except UNDECODABLE:
        return False  # it could never have been written
    return bool(manifest.get("seal", seal) == seal)


def _seal(manifest: dict[str, Any]) -> str:
    """SHA-256 of a manifest without its seal."""
    content = {key: value for key, value in manifest.items() if key != "seal"}
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def _verified(store: Store, name: str, step: int) -> tuple[dict[str, Any], bytes, str]:
    """A manifest and the bytes that it promises, or what is wrong with them."""
    file = f"{name.removesuffix('.json')}.pt"
    try:
        manifest, promise = _opened(store.read(name))
        if promise.format != FORMAT:
            return {}, b"", f"its format is {promise.format}, and this version reads {FORMAT}"
        if not _is_sealed(manifest):
            return {}, b"", "its manifest is damaged"
        if (promise.step, promise.file) != (step, file.rpartition("/")[2]):
            return {}, b"", "its manifest is of another checkpoint"
        if not store.exists(file):
            return {}, b"", f"its .pt file is missing{_drive_hint(store)}"
        data = store.read(file)
    except UNDECODABLE:
        return {}, b"", "its manifest is damaged"
    except StoreError:
        raise
    except RelayError:
        return {}, b"", "it was removed meanwhile"
    if len(data) != promise.size:
        return {}, b"", f"its .pt file has {len(data)} of {promise.size} bytes{_drive_hint(store)}"
    if hashlib.sha256(data).hexdigest() != promise.sha256:
        return {}, b"", "its .pt file does not match its SHA-256"
    return manifest, data, ""


def _drive_hint(store: Store) -> str:
    if on_drive(store.place("")):
        return " (Drive had not uploaded it when its runtime went away)"
    return ""


def _size_of(store: Store, manifest_name: str) -> int:
    try:
        return int(msgspec.json.decode(store.read(manifest_name))["size"])
    except (*UNDECODABLE, KeyError, TypeError, ValueError):
        return 0  # a damaged one among the newest: it may stay, and counts for nothing
