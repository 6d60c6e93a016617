"""Measure the time per batch on what is attached, beside all that was measured before."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import msgspec
import torch

import relaydet
from relaydet.config import BenchConfig, MergeConfig, TrainConfig, parse_images
from relaydet.data.dataset import Dataset
from relaydet.data.demo import write_demo
from relaydet.data.images import Images
from relaydet.data.loader import training_samples
from relaydet.data.saved import load_dataset, open_sources
from relaydet.errors import RelayError
from relaydet.evaluation.report import columns
from relaydet.jobs.merge import merge
from relaydet.json_file import decode_lines
from relaydet.model import recipe_of
from relaydet.runtime.auto_store import find_store
from relaydet.runtime.detect import detect
from relaydet.runtime.device import devices_to_use
from relaydet.runtime.stop import StopRequest, stop_on_signals
from relaydet.runtime.torch_state import own_torch_state
from relaydet.storage.cache import tell_cache
from relaydet.storage.local import LocalStore
from relaydet.storage.store import Store
from relaydet.training.launch import launch
from relaydet.training.meeting import is_rank, joined
from relaydet.training.members import device_of
from relaydet.training.outlook import duration
from relaydet.training.run_files import now
from relaydet.training.settings import settle
from relaydet.training.speed import WARM_UP, Speed, measure_speed
from relaydet.training.team import Team, choose_ranks, refuse_small_batch
from relaydet.viewing.pictures import Picture, png
from relaydet.viewing.progress import bar, step_bar
from relaydet.viewing.speed_chart import machine_of, precision_of, speed_chart

FILE = "benchmarks/speed.jsonl"
STUDY_IMAGES, STUDY_EPOCHS = 82_299, 12
"""COCO's persons and CUHK-SYSU, and how long the study trained on them."""
_GENERATED = "scenes"
"""What the dataset of generated scenes is called."""
_SCENES = (48, 16, 1)
_TRIES = 3

SpeedLine = dict[str, Any]
"""A line of speed.jsonl."""


@dataclass(frozen=True)
class Timed:
    """What the ranks measured."""

    rows: list[SpeedLine]
    """Of rank 0; empty on the others."""
    stopped: str
    """Why it ended early; empty where it did not."""


@dataclass(frozen=True)
class BenchResult:
    """What was measured here and before."""

    rows: list[SpeedLine]
    """What this call measured."""
    all_rows: list[SpeedLine]
    """All lines of speed.jsonl."""
    where: str
    """Path of that file."""

    @property
    def pictures(self) -> dict[str, Picture]:
        """By name: the time per batch on every machine seen so far."""
        caption = (
            "Time per batch on every machine so far, with quartiles; beside it what the study"
            " published: A100 x4 is 1.4 x as fast as V100 x4, A100 x8 1.7 x as fast as A100 x4."
        )
        return {"speed": Picture(png(speed_chart(self.all_rows)), caption)}

    def __str__(self) -> str:
        return f"{speed_table(self.all_rows)}\n\nAll measurements are in {self.where}"


def bench(config: BenchConfig, say: Callable[[str], None] = print) -> BenchResult:
    """Measure the time per batch at each batch size, and add it to STORE/benchmarks/speed.jsonl.

    Args:
        config: which model, at which batch sizes.
        say: takes each line that tells the user what was decided.

    Raises:
        RelayError: something in the configuration, the device or the store has to be mended.
    """
    if not config.batch_sizes or min(config.batch_sizes) < 1 or config.steps < 2:
        raise RelayError("BATCH_SIZES and STEPS: take batch sizes from 1 on, and 2 steps or more.")
    store = find_store(config.store, say)
    tell_cache(say)
    gpus = len(devices_to_use(config.device))
    ranks, why = choose_ranks(config.gpus, config.device, gpus, min(config.batch_sizes))
    if ranks == 1 or is_rank():
        timed = time_here(config, say)
    else:
        say(f"ranks: {ranks} processes ({why})")
        asked = {"job": "bench", "config": replace(config, store=store.location)}
        timed = msgspec.convert(launch(asked, "bench", ranks, 0, say, step_bar), Timed)
    if timed.stopped:
        raise RelayError(f"Nothing was added: {timed.stopped}; run it again to measure.")
    if not timed.rows:
        return BenchResult([], [], store.describe(FILE))
    result = BenchResult(timed.rows, _add(store, timed.rows), store.describe(FILE))
    say(str(result))
    return result


def time_here(
    config: BenchConfig,
    say: Callable[[str], None],
    open_bar: Callable[[str, int, int], Any] = step_bar,
    stop: StopRequest | None = None,
) -> Timed:
    """This process's part of `bench`: all of it, or that of one rank."""
    stop = StopRequest() if stop is None else stop
    runtime = detect()
    with (
        own_torch_state(),
        joined(answer_minutes=10, stop=stop, say=say) as team,
        _images(config) as (dataset, folders),
        stop_on_signals(stop),
    ):
        device = device_of(team, config, runtime)
        if team.leads:
            say(f"device: {device.name} ({device.reason})")
        rows: list[SpeedLine] = []
        for batch_size in config.batch_sizes:
            refuse_small_batch(batch_size, team.ranks)
            settled = _settled(config, batch_size, device.device.type, say if team.leads else _mute)
            sides = recipe_of(settled.model).sides(settled.image_size)
            samples = training_samples(dataset, folders, sides=sides)
            label, total = f"batch {batch_size}", WARM_UP + config.steps
            with open_bar(label, total, 0) if team.leads else _Mute() as shown:
                speed = measure_speed(
                    settled, samples, device, team, config.steps, shown, stop, say
                )
            if speed is None:
                return Timed([], str(stop.reason or "another rank was stopped"))
            names = team.gather(device.name, str)
            precision = str(device.dtype).removeprefix("torch.")
            place = _Place(_machine(names), team, runtime.name, precision)
            rows.append(_row(speed, settled, config, place))
    return Timed(rows if team.leads else [], "")


def _settled(
    config: BenchConfig, batch_size: int, device_type: str, say: Callable[[str], None]
) -> TrainConfig:
    asked = TrainConfig(
        run="bench",
        dataset=config.dataset or _GENERATED,
        model=config.model,
        batch_size=batch_size,
        image_size=config.image_size,
        workers=config.workers,
    )
    return settle(None, asked, device_type, say)


@contextmanager
def _images(config: BenchConfig) -> Iterator[tuple[Dataset, dict[str, Images]]]:
    """Open the dataset that was asked for and its images, or generated ones."""
    if config.dataset:
        saved = load_dataset(find_store(config.store, _mute), config.dataset)
        yield (
            saved.dataset,
            open_sources(saved, parse_images(config.images, saved.locations), (), bar),
        )
        return
    with tempfile.TemporaryDirectory() as name:
        street, search, _ = write_demo(Path(name) / "scenes", sizes=_SCENES)
        merge(MergeConfig(_GENERATED, (street, search), ("person",), name), say=_mute)
        saved = load_dataset(LocalStore(name), _GENERATED)
        yield saved.dataset, open_sources(saved)


@dataclass(frozen=True)
class _Place:
    """Where something was measured."""

    gpu: str
    team: Team
    runtime: str
    precision: str


def _row(speed: Speed, settled: TrainConfig, config: BenchConfig, place: _Place) -> SpeedLine:
    return {
        "gpu": place.gpu,
        "gpus": place.team.ranks,
        "machines": place.team.nodes,
        "model": settled.model,
        "image_size": settled.image_size,
        "batch_size": settled.batch_size,
        "precision": place.precision,
        "plain": config.plain,
        **asdict(speed),
        "price_per_hour": config.price_per_hour,
        "torch": str(torch.__version__),
        "relaydet": relaydet.__version__,
        "runtime": place.runtime,
        "date": now(),
    }


def _machine(names: Sequence[str]) -> str:
    """The devices' name; of unlike ones all names."""
    return " and ".join(dict.fromkeys(names))


def _add(store: Store, rows: Sequence[SpeedLine]) -> list[SpeedLine]:
    """Add lines to the file, which others may be adding to; all that is in it then."""
    written = msgspec.json.decode(msgspec.json.encode(rows))
    for _ in range(_TRIES):
        lines = [*_lines(store), *written]
        store.write(FILE, b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
        there = _lines(store)
        if all(row in there for row in written):
            return there
    raise RelayError(
        f"{store.describe(FILE)}: others write to it at the same time; run it again in a moment."
    )


def _lines(store: Store) -> list[SpeedLine]:
    if not store.exists(FILE):
        return []
    return [*decode_lines(store.read(FILE), store.describe(FILE), dict[str, Any])]


def speed_table(rows: Sequence[SpeedLine]) -> str:
    """A row a machine and batch size: its time per batch, and what the study would take there.

    Args:
        rows: lines of speed.jsonl; of several of one machine, model and batch size the last.
    """
    head = [
        *("machine", "model", "px", "batch", "precision", "s/batch", "quartiles", "of it data"),
        *("images/s", "GB", "x smaller", f"{STUDY_EPOCHS} epochs of {STUDY_IMAGES:,}", "cost"),
    ]
    latest = {(*_kind(row), row["batch_size"]): row for row in rows}
    lines = [head]
    for kind in sorted({_kind(row) for row in rows}):
        before = None
        for batch_size in sorted(size for *other, size in latest if tuple(other) == kind):
            key = (*kind, batch_size)
            row = latest[key]
            lines.append(_line(row, before))
            before = row
    return columns(lines)


def _kind(row: SpeedLine) -> tuple[str, ...]:
    """What must be the same for two batch sizes to be compared."""
    return machine_of(row), str(row["model"]), str(row["image_size"]), precision_of(row)


def _line(row: SpeedLine, smaller: SpeedLine | None) -> list[str]:
    hours = STUDY_EPOCHS * STUDY_IMAGES / row["images_per_second"] / 3600
    price = row.get("price_per_hour")
    low, high = row["quartiles"]
    memory = row["peak_memory"]
    slower = row["seconds_per_batch"] / smaller["seconds_per_batch"] if smaller else None
    return [
        machine_of(row),
        str(row["model"]),
        str(row["image_size"]),
        str(row["batch_size"]),
        precision_of(row),
        f"{row['seconds_per_batch']:.3f}",
        f"{low:.3f}-{high:.3f}",
        f"{row['data_seconds']:.3f}",
        f"{row['images_per_second']:.1f}",
        f"{memory / 1e9:.1f}" if memory else "-",
        f"{slower:.2f}" if slower else "-",
        duration(3600 * hours),
        f"{hours * price:.2f}" if price else "-",
    ]


def _mute(_line: str) -> None:
    """Said by rank 0 alone, or not at all."""


class _Mute:
    """A bar that nobody sees."""

    def __enter__(self) -> _Mute:
        return self

    def __exit__(self, *_error: object) -> None:
        pass

    def update(self) -> None:
        pass
