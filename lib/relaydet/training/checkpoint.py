"""Checkpoints: written so that a half-written one can never be taken for a whole one.

STORE/runs/RUN/checkpoints/step-00001234.pt holds model and optimizer in full precision, and
step-00001234.json, the manifest, is written after it: {format, step, file, size, sha256, ...}. A
checkpoint exists once its manifest does, and is loaded only when size and SHA-256 match it. There
is no random state in it: everything random is a function of the step (see `randomness`).
"""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass
from typing import Any

import msgspec
import torch

from relaydet.errors import RelayError
from relaydet.storage.store import Store
from relaydet.training.run_files import as_json

FORMAT = 1
KEEP = 2


@dataclass(frozen=True)
class Checkpoint:
    """A verified checkpoint."""

    step: int
    """Optimizer steps done."""
    state: dict[str, Any]
    """{"model": state dict, "optimizer": state dict}."""
    manifest: dict[str, Any]


def folder_of(run: str) -> str:
    """Folder of a run's checkpoints in the store."""
    return f"runs/{run}/checkpoints"


def save_checkpoint(
    store: Store, run: str, step: int, state: dict[str, Any], facts: dict[str, Any]
) -> dict[str, Any]:
    """Write a checkpoint, verify it where it lies, then remove all but the newest two.

    Args:
        store: where to.
        run: name of the run.
        step: optimizer steps done.
        state: tensors, numbers, strings and containers of them.
        facts: what else the manifest shall say (the dataset's hash, versions).

    Returns:
        The manifest.

    Raises:
        RelayError: it could not be written, or what was read back differs.
    """
    buffer = io.BytesIO()
    torch.save(state, buffer)
    data = buffer.getvalue()
    name = f"{folder_of(run)}/step-{step:08d}"
    manifest = {
        "format": FORMAT,
        "step": step,
        "file": f"{name.rsplit('/', 1)[1]}.pt",
        "size": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        **facts,
    }
    store.write(f"{name}.pt", data)
    store.write(f"{name}.json", as_json(manifest))
    _, problem = _verified_bytes(store, f"{name}.json")
    if problem:
        raise RelayError(f"{store.describe(name)}.pt: {problem}; check the disk or the mount.")
    _remove_old(store, run, step)
    return manifest


def load_newest(store: Store, run: str) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that verifies.

    Returns:
        The checkpoint, or None where there is none; and a sentence for each that was skipped.
    """
    skipped: list[str] = []
    manifests = [n for n in store.names(folder_of(run)) if n.endswith(".json")]
    for name in reversed(manifests):
        data, problem = _verified_bytes(store, name)
        if not problem:
            try:
                state = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
            except MemoryError:
                raise  # says nothing about the file
            except Exception as error:  # torch raises whatever a broken file provokes
                reason = next(iter(str(error).splitlines()), type(error).__name__)
                problem = f"it cannot be loaded safely ({reason})"
            else:
                manifest = msgspec.json.decode(store.read(name))
                return Checkpoint(manifest["step"], state, manifest), skipped
        skipped.append(f"skipped {store.describe(name)}: {problem}")
    return None, skipped


def _verified_bytes(store: Store, manifest_name: str) -> tuple[bytes, str]:
    """The bytes that a manifest promises, or what is wrong with them."""
    try:
        manifest = msgspec.json.decode(store.read(manifest_name))
        name = f"{manifest_name.rsplit('/', 1)[0]}/{manifest['file']}"
        size, sha256 = manifest["size"], manifest["sha256"]
        known = manifest["format"] == FORMAT and isinstance(manifest["step"], int)
    except (msgspec.MsgspecError, KeyError, TypeError):
        return b"", "its manifest is damaged"
    if not known:
        return b"", f"its format is {manifest['format']}, and this version reads {FORMAT}"
    if not store.exists(name):
        return b"", "its .pt file is missing"
    data = store.read(name)
    if len(data) != size:
        return b"", f"its .pt file has {len(data)} of {size} bytes"
    if hashlib.sha256(data).hexdigest() != sha256:
        return b"", "its .pt file does not match its SHA-256"
    return data, ""


def _remove_old(store: Store, run: str, step: int) -> None:
    """Keep the newest up to this step; one beyond it was rejected when this session started.

    The manifest goes first: without it the rest is no checkpoint.
    """
    newest = f"{folder_of(run)}/step-{step:08d}"
    names = store.names(folder_of(run))
    whole = [name.removesuffix(".json") for name in names if name.endswith(".json")]
    keep = [name for name in whole if name <= newest][-KEEP:]
    for name in sorted(names, key=lambda n: not n.endswith(".json")):
        if name.rsplit(".", 1)[0] not in keep:
            store.delete(name)
