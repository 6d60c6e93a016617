"""The small files of a run in the store: config.json, status.json, log.jsonl."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

import msgspec

from relaydet.config import TrainConfig, public
from relaydet.errors import DamagedError
from relaydet.json_file import decode_json, decode_lines
from relaydet.storage.store import Store
from relaydet.training.outlook import Outlook

LogLine = dict[str, Any]
_REMEDY = "restore it or start a new RUN"


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

    def config(self) -> TrainConfig | None:
        """The configuration that the run was started with; None where there is no such run."""
        if not self.store.exists(self._name("config.json")):
            return None
        return self._decode("config.json", TrainConfig)

    def write_config(self, config: TrainConfig) -> None:
        """Keep the configuration that the run is trained with."""
        self._write("config.json", as_json(asdict(public(config))))

    def status(self) -> dict[str, Any] | None:
        """What `write_status` wrote; None before the first step."""
        if not self.store.exists(self._name("status.json")):
            return None
        return self._decode("status.json", dict[str, Any])

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

    def log(self) -> list[LogLine]:
        """The lines of log.jsonl; none where there is no log yet."""
        if not self.store.exists(self._name("log.jsonl")):
            return []
        name = self._name("log.jsonl")
        data = self.store.read(name)
        return [*decode_lines(data, self.store.describe(name), LogLine, _REMEDY)]

    def write_log(self, lines: list[LogLine]) -> None:
        """Write the whole log: a resumed run drops the lines that it is about to repeat."""
        data = b"".join(msgspec.json.encode(line) + b"\n" for line in lines)
        self._write("log.jsonl", data)

    def best(self) -> Best | None:
        """The best checkpoint that was evaluated; None before one was, or where that is torn."""
        if not self.store.exists(self._name("best.json")):
            return None
        try:
            return self._decode("best.json", Best, strict=True)
        except DamagedError:
            return None  # the next evaluation writes it anew

    def write_best(self, best: Best) -> None:
        """Keep in mind which checkpoint is the best."""
        self._write("best.json", as_json(asdict(best)))

    def _write(self, file: str, data: bytes) -> None:
        (self.put or self.store.write)(self._name(file), data)

    def _name(self, file: str) -> str:
        return f"runs/{self.run}/{file}"

    def _decode(self, file: str, kind: Any, strict: bool = False) -> Any:
        name = self._name(file)
        return decode_json(
            self.store.read(name), self.store.describe(name), kind, strict, remedy=_REMEDY
        )


def as_json(value: Any) -> bytes:
    """JSON for a person to read too."""
    return msgspec.json.format(msgspec.json.encode(value), indent=1) + b"\n"


def now() -> str:
    """Date and time in UTC, to the second."""
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
