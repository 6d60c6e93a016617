"""The small files of a run in the store: config.json, status.json, log.jsonl."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields, replace
from datetime import datetime, timezone
from typing import Annotated, Any, Literal

import msgspec

import relaydet
from relaydet.config import TrainConfig, public
from relaydet.errors import DamagedError, ForeignFileError
from relaydet.json_file import decode_json, decode_whole_lines
from relaydet.storage.store import Store
from relaydet.training.outlook import Outlook

LogLine = dict[str, Any]
"""A line of log.jsonl; its step is a number, whoever wrote it."""
_Count = Annotated[int, msgspec.Meta(ge=0, le=2**53)]
_Seconds = Annotated[float, msgspec.Meta(ge=0, le=1e12)]
_REMEDY = "restore it or start a new RUN"


class _Status(msgspec.Struct):
    """status.json."""

    state: Literal["running", "paused", "done", "failed"]
    step: _Count
    total_steps: _Count
    epoch: _Count = 0
    reason: str = ""
    seconds_left: _Seconds | None = None
    sessions_left: _Count | None = None
    updated: str = ""


class _Best(msgspec.Struct):
    """best.json."""

    step: _Count
    dataset: str
    AP: Annotated[float, msgspec.Meta(ge=-1, le=1)]


class _Line(msgspec.Struct):
    """A line of log.jsonl; a loss that is no number is null there."""

    step: _Count
    epoch: _Count = 0
    loss: float | None = None
    losses: dict[str, float | None] = {}
    lr: float | None = None
    seconds_per_step: float | None = None
    data_seconds_per_step: float | None = None
    images_per_second: float | None = None
    time: str = ""


@dataclass(frozen=True)
class Best:
    """best.json: the checkpoint with the highest AP so far."""

    step: int
    """Optimizer steps done."""
    dataset: str
    """What it was evaluated on."""
    AP: float


@dataclass(frozen=True)
class RunFiles:
    """Reads and writes a run's files in STORE/runs/RUN."""

    store: Store
    run: str
    put: Callable[[str, bytes], None] | None = None
    """Writes a file instead of the store itself: a saver that does so in the background."""

    @property
    def where(self) -> str:
        """The run's folder, as a person would open it."""
        return self.store.describe(f"runs/{self.run}")

    def config(self, is_sealed: bool = False) -> TrainConfig | None:
        """The configuration that the run was started with; None where there is no such run.

        Args:
            is_sealed: whether sealed manifests name this run: another name in the file is damage
                then, and not a sign of a copied folder.

        Raises:
            DamagedError: it is not as it was written.
            ForeignFileError: it is of another run, or has fields of a newer version.
        """
        if not self.store.exists(self._name("config.json")):
            return None
        where = self.store.describe(self._name("config.json"))
        data = self.store.read(self._name("config.json"))
        given = decode_json(data, where, dict[str, Any], remedy=_REMEDY)
        version = given.pop("relaydet", "")
        known = {field.name for field in fields(TrainConfig)}
        refuse_newer(where, version, given, known)
        if unknown := sorted(set(given) - known):
            raise DamagedError(f"{where}: damaged (unknown field {unknown[0][:60]!r}); {_REMEDY}.")
        config: TrainConfig = decode_json(data, where, TrainConfig, strict=False, remedy=_REMEDY)
        if "run" in given and config.run != self.run:
            if is_sealed:
                raise DamagedError(f"{where}: damaged (run {config.run[:60]!r}); {_REMEDY}.")
            raise ForeignFileError(
                f"{where}: is of run {config.run[:60]!r} and not of {self.run!r}, as in a copied"
                f' folder; give RUN that name, or write "run": "{self.run}" into that file to make'
                " this folder a run of its own."
            )
        return replace(config, run=self.run)

    def write_config(self, config: TrainConfig) -> None:
        """Keep the configuration that the run is trained with."""
        written = {**asdict(public(config)), "relaydet": relaydet.__version__}
        self._write("config.json", as_json(written))

    def status(self) -> dict[str, Any] | None:
        """What `write_status` wrote; None before the first step."""
        if not self.store.exists(self._name("status.json")):
            return None
        where = self.store.describe(self._name("status.json"))
        data = self.store.read(self._name("status.json"))
        again = "train the run again, which writes it anew"
        status: dict[str, Any] = decode_json(data, where, dict[str, Any], remedy=again)
        return status | msgspec.structs.asdict(decode_json(data, where, _Status, remedy=again))

    def write_status(self, state: str, outlook: Outlook, epoch: int, reason: str = "") -> None:
        """Say where the run is: running, paused, done or failed."""
        status = {
            "state": state,
            "step": outlook.step,
            "total_steps": outlook.total_steps,
            "epoch": epoch,
            "reason": reason,
            "seconds_left": outlook.seconds_left,
            "sessions_left": outlook.sessions_left,
            "updated": now(),
        }
        self._write("status.json", as_json(status))

    def log(self, say: Callable[[str], None]) -> list[LogLine]:
        """The lines of log.jsonl that are whole; none where there is no log yet.

        Args:
            say: takes a sentence where lines are damaged.
        """
        name = self._name("log.jsonl")
        if not self.store.exists(name):
            return []
        lines = decode_whole_lines(self.store.read(name), self.store.describe(name), _Line, say)
        return [msgspec.structs.asdict(line) for line in lines]

    def write_log(self, lines: list[LogLine]) -> None:
        """Write the whole log: a resumed run drops the lines that it is about to repeat."""
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        self._write("log.jsonl", data)

    def best(self) -> Best | None:
        """The best checkpoint that was evaluated; None before one was, or where that is torn."""
        if not self.store.exists(self._name("best.json")):
            return None
        try:
            best = self._name("best.json")
            found = decode_json(self.store.read(best), best, _Best)
            return Best(found.step, found.dataset, found.AP)
        except DamagedError:
            return None  # the next evaluation writes it anew

    def write_best(self, best: Best) -> None:
        """Keep in mind which checkpoint is the best."""
        self._write("best.json", as_json(asdict(best)))

    def _write(self, file: str, data: bytes) -> None:
        (self.put or self.store.write)(self._name(file), data)

    def _name(self, file: str) -> str:
        return f"runs/{self.run}/{file}"


def refuse_newer(where: str, version: Any, keys: Iterable[str], known: Iterable[str]) -> None:
    """Raise ForeignFileError for a file of a newer version that has a field unknown to this one.

    Args:
        where: the file, as a person would open it.
        version: of the package that wrote it, as the file says.
        keys: its fields.
        known: those that this version knows.
    """
    unknown = sorted(set(keys) - set(known))
    if unknown and isinstance(version, str) and _numbers(version) > _numbers(relaydet.__version__):
        raise ForeignFileError(
            f"{where}: was written by relaydet {version[:20]} and has {unknown[0][:60]!r}, which"
            f" {relaydet.__version__} does not know; update relaydet here, or go on where the newer"
            " version is."
        )


def _numbers(version: str) -> tuple[int, ...]:
    """The release of a version, without what follows it: (0, 2, 1) of 0.2.1.dev3."""
    release = re.match(r"[0-9]{1,9}(\.[0-9]{1,9})*", version)
    return tuple(map(int, release[0].split("."))) if release else ()


def as_json(value: Any) -> bytes:
    """JSON for a person to read too."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def now() -> str:
    """Date and time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
