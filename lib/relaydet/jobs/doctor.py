"""What this machine is and can, before anything is trained: a line each, with the remedy."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from relaydet.config import DoctorConfig
from relaydet.console import json_text
from relaydet.errors import RelayError
from relaydet.runtime.auto_store import choose_store
from relaydet.runtime.detect import Runtime, detect
from relaydet.runtime.limits import LIMITS, find_deadline, session_hours
from relaydet.storage.cache import CACHE_VARIABLE, cache_note, check_cache
from relaydet.storage.local import LocalStore
from relaydet.storage.store import GCS, open_store, try_store

if TYPE_CHECKING:  # it loads torchvision, which is looked at first
    from relaydet.runtime.device import Device

OK, WARN, FAIL = "ok", "warn", "fail"
LITTLE_TIME_MINUTES = 30.0
LITTLE_MEMORY = 4e9
"""Bytes of main memory below which loader processes and a detector get in each other's way."""
LITTLE_SHARED_MEMORY = 256e6
"""Bytes of /dev/shm: a batch of eight 800 x 1333 images is 26 MB, and some are on their way."""
SHARED = Path("/dev/shm")
INTERNET = "https://download.pytorch.org/models/"
"""Where weights come from: what a run needs the internet for."""
ANSWER_SECONDS = 5.0

_INTERNET_REMEDY = {
    "kaggle": "turn Internet on under Settings (it needs a verified phone number), or attach what"
    " is needed and set WEIGHTS to a file",
}
_CACHE_REMEDY = (
    f"what is kept there may go away with the machine; set {CACHE_VARIABLE} to a folder that stays"
)
_GPU_REMEDY = {
    "colab": "take one under Runtime > Change runtime type",
    "kaggle": "take GPU T4 x2 under Settings > Accelerator",
    "colab_enterprise": "connect to a runtime whose template has one",
}


@dataclass(frozen=True)
class Finding:
    """What one check came to."""

    check: str
    """What was looked at: runtime, time, device ..."""
    level: str
    """ok, warn or fail."""
    message: str
    remedy: str = ""
    """What to do; empty where nothing needs to be done."""

    def __str__(self) -> str:
        line = f"{self.level:4}  {self.check:11}  {self.message}"
        return f"{line}\n{'':19}-> {self.remedy}" if self.remedy else line


@dataclass(frozen=True)
class DoctorResult:
    """Everything that was found; `report` is what `--json` prints."""

    report: dict[str, Any]
    findings: list[Finding]

    @property
    def fails(self) -> bool:
        """Whether training cannot work here as things are."""
        return any(finding.level == FAIL for finding in self.findings)

    def __str__(self) -> str:
        counts = [
            f"{sum(f.level == level for f in self.findings)} {level}" for level in (OK, WARN, FAIL)
        ]
        return "\n".join([*map(str, self.findings), f"doctor: {', '.join(counts)}"])


def doctor(config: DoctorConfig, say: Callable[[str], None] = print) -> DoctorResult:
    """Look at everything that a run needs, by the calls that a run makes.

    A small file is written to the store and to the cache folder and removed again, and one web
    address is asked.

    Args:
        config: which store, device and precision are meant.
        say: takes what is printed.
    """
    aside = (lambda line: None) if config.json else say
    runtime = detect()
    report: dict[str, Any] = {
        "runtime": asdict(runtime),
        "limits": asdict(LIMITS[runtime.name]),
        "versions": _versions(),
    }
    report["limits"]["minutes_left"], time_left = _time(runtime)
    findings = [_runtime(runtime), time_left, fit := _versions_fit()]
    report["device"], found = _device(config, runtime) if fit.level == OK else ({}, [])
    findings += [*found, _memory()]
    report["store"], found = _store(config, runtime, aside)
    findings += [*found, _cache(), _internet(runtime), *_widgets(runtime)]
    report["findings"] = [asdict(finding) for finding in findings]
    result = DoctorResult(report, findings)
    say(json_text(report) if config.json else str(result))
    return result


def _runtime(runtime: Runtime) -> Finding:
    who = "with its front end" if runtime.front_end else "without a front end"
    return Finding("runtime", OK, f"{runtime.name}, {who} ({runtime.reason})")


def _time(runtime: Runtime) -> tuple[float | None, Finding]:
    """Minutes to the runtime's own limit, None where nothing says so, and what to say of it."""
    try:
        hours, whose = session_hours(runtime)
        deadline = find_deadline(runtime, None)
    except RelayError as error:
        return None, Finding("time", FAIL, str(error))
    idle = LIMITS[runtime.name].idle_hours
    away = f"; it is shut down {idle:g} h after you leave it alone" if idle else ""
    if hours is None:
        return None, Finding("time", OK, f"no limit that is known{away}")
    if deadline is None:
        message = f"{whose} is {hours:g} h; how much of it is over is not known"
        return None, Finding("time", OK, message)
    left = (deadline.at - time.monotonic()) / 60
    message = f"{left:.0f} min left ({whose} of {hours:g} h from the machine's start){away}"
    if left < LITTLE_TIME_MINUTES:
        return left, Finding("time", WARN, message, "start a new session: a run goes on there")
    return left, Finding("time", OK, message)


def _versions() -> dict[str, str | None]:
    names = ("relaydet", "torch", "torchvision", "numpy", "ipywidgets", "google-cloud-storage")
    found = {name: _version(name) for name in names}
    found["torch"] = str(torch.__version__)  # tells the build too: 2.11.0+cu128
    return {"python": platform.python_version(), **found, "cuda": torch.version.cuda}


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _versions_fit() -> Finding:
    versions = _versions()
    cuda = f"CUDA {versions['cuda']}" if versions["cuda"] else "built without CUDA"
    line = (
        f"Python {versions['python']}, torch {versions['torch']} ({cuda}), torchvision"
        f" {versions['torchvision']}"
    )
    try:
        importlib.import_module("torchvision.ops").nms(torch.zeros(1, 4), torch.zeros(1), 0.5)
    except (ImportError, RuntimeError, OSError, AttributeError) as error:
        message = f"{line}: torchvision does not fit this torch ({str(error).splitlines()[0]})"
        remedy = "install the pair that belongs together: see environments/README.md"
        return Finding("versions", FAIL, message, remedy)
    return Finding("versions", OK, line)


def _device(config: DoctorConfig, runtime: Runtime) -> tuple[dict[str, Any], list[Finding]]:
    from relaydet.runtime.device import choose_device

    try:
        device = choose_device(config.device, config.precision, runtime.name)
    except RelayError as error:
        return {"error": str(error)}, [Finding("device", FAIL, str(error))]
    facts = {
        "name": device.name,
        "type": device.device.type,
        "precision": str(device.dtype).removeprefix("torch."),
        "channels_last": device.channels_last,
        "memory_total": device.memory_total,
        "memory_free": device.memory_free,
        "reason": device.reason,
    }
    return facts, [_gpu(device, runtime), _precision(device)]


def _gpu(device: Device, runtime: Runtime) -> Finding:
    message = device.name
    if device.memory_total and device.memory_free is not None:
        free, total = device.memory_free / 1e9, device.memory_total / 1e9
        message += f", {free:.1f} of {total:.1f} GB free"
    if device.warning:
        return Finding("device", WARN, f"{message}: {device.warning}", device.remedy)
    if device.device.type == "cpu" and runtime.name in _GPU_REMEDY:
        return Finding("device", WARN, f"{message}: no GPU", _GPU_REMEDY[runtime.name])
    return Finding("device", OK, message)


def _precision(device: Device) -> Finding:
    return Finding("precision", OK, device.reason)


def _memory() -> Finding:
    free = _available_memory()
    shared = _free_space(SHARED) if SHARED.is_dir() else None
    told = "not known" if free is None else f"{free / 1e9:.1f} GB"
    message = f"{told} free, {os.cpu_count()} cores"
    if free is not None and free < LITTLE_MEMORY:
        return Finding("memory", WARN, message, "close other programs, or train with --workers 0")
    if shared is not None and shared < LITTLE_SHARED_MEMORY:
        message += f", {shared / 1e6:.0f} MB of it shared"
        remedy = "start the container with --shm-size=2g, or train with --workers 0"
        return Finding("memory", WARN, message, remedy)
    return Finding("memory", OK, message)


def _available_memory() -> float | None:
    """Bytes that programs may still take, as Linux tells (see proc(5)); None elsewhere."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return 1024.0 * int(sizes[0]) if sizes else None


def _free_space(folder: Path) -> float | None:
    """Bytes free on the disk of a folder, or of the next one above it that is there."""
    for path in (folder, *folder.parents):
        try:
            return float(shutil.disk_usage(path).free)
        except FileNotFoundError:
            continue
        except OSError:  # a mount that has died, which is reported where it is needed
            return None
    return None


def _store(
    config: DoctorConfig, runtime: Runtime, say: Callable[[str], None]
) -> tuple[dict[str, Any], list[Finding]]:
    """Where everything would go, and whether a file can be put there."""
    where = config.store
    facts: dict[str, Any] = {}
    try:
        choice = choose_store(where, runtime, say)
        where = f"{choice.location} ({choice.reason})"
        facts = {"location": choice.location, "reason": choice.reason}
        store = open_store(choice.location)
        try_store(store)
    except RelayError as error:
        found = [Finding("store", FAIL, where), Finding("writing", FAIL, str(error))]
        return {**facts, "error": str(error), "writable": False}, found
    if choice.remedy:
        told = Finding("store", WARN, where, choice.remedy)
    else:
        space = _free_space(store.root) if isinstance(store, LocalStore) else None
        free = "" if space is None else f", {space / 1e9:.0f} GB free"
        told = Finding("store", OK, f"{where}, can be written to{free}")
    bucket = choice.location.startswith(GCS)
    whose = "the account in use may write there" if bucket else "none are needed for a folder"
    return {**facts, "writable": True}, [told, Finding("credentials", OK, whose)]


def _cache() -> Finding:
    """Where checkpoints wait for the store and downloads are kept: training needs both places."""
    try:
        root, note = check_cache(), cache_note()
    except RelayError as error:
        return Finding("cache", FAIL, str(error))
    if note:
        return Finding("cache", WARN, note, _CACHE_REMEDY)
    free = _free_space(root)
    space = "" if free is None else f", {free / 1e9:.0f} GB free"
    return Finding("cache", OK, f"{root}, can be written to{space}")


def _internet(runtime: Runtime) -> Finding:
    import requests

    try:
        requests.head(INTERNET, timeout=ANSWER_SECONDS, allow_redirects=True)
    except requests.RequestException as error:
        message = f"{INTERNET} does not answer ({type(error).__name__})"
        remedy = _INTERNET_REMEDY.get(
            runtime.name, "connect, or set WEIGHTS to a file; WEIGHTS=auto trains from scratch here"
        )
        return Finding("internet", WARN, message, remedy)
    return Finding("internet", OK, "weights and data sets can be downloaded")


def _widgets(runtime: Runtime) -> list[Finding]:
    """JupyterLab shows ipywidgets 7 with jupyterlab_widgets 1 alone, and 8 with 3."""
    version, view = _version("ipywidgets"), _version("jupyterlab_widgets")
    if not version or not view or runtime.name.startswith(("colab", "kaggle")):
        return []  # Colab and Kaggle have views of their own
    if (version.split(".")[0], view.split(".")[0]) in (("7", "1"), ("8", "3")):
        return []
    message = f"ipywidgets {version} beside jupyterlab_widgets {view}: buttons will not show"
    remedy = f"pip install 'jupyterlab_widgets{'<2' if version.startswith('7') else '>=3'}'"
    return [Finding("widgets", WARN, message, remedy)]
