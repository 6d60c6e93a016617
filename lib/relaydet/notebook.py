"""What a notebook needs: its parameters as a configuration, and pictures on the screen."""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from relaydet.bootstrap import missing
from relaydet.config import (
    BenchConfig,
    DoctorConfig,
    EvaluateConfig,
    MergeConfig,
    StudyConfig,
    TrainConfig,
    load_sources,
)
from relaydet.console import say
from relaydet.errors import RelayError
from relaydet.runtime.detect import runs_through

if TYPE_CHECKING:
    from relaydet.jobs.bench import BenchResult
    from relaydet.jobs.evaluate import EvaluateResult
    from relaydet.jobs.merge import MergeResult
    from relaydet.jobs.study import StudyResult
    from relaydet.jobs.train import TrainResult
    from relaydet.viewing.browse import Browser

Config = TypeVar(
    "Config", MergeConfig, TrainConfig, EvaluateConfig, DoctorConfig, StudyConfig, BenchConfig
)


def check_packages() -> None:
    """Say which packages are missing before anything starts.

    Raises:
        RelayError: some are.
    """
    lacking = missing()
    if lacking:
        raise RelayError(
            f"Packages are missing or too old: {', '.join(lacking)}; run the notebook's first cell,"
            " or pip install -r requirements.txt (it leaves an installed torch as it is)."
        )


def merge(sources: str | list[dict[str, Any] | str], **parameters: Any) -> MergeResult:
    """Merge with the parameters of 1_merge_data, as keywords in lower case (see `MergeConfig`).

    Args:
        sources: "demo", the path of a JSON file with a list of sources, that list itself, or the
            name of a known source.
        parameters: the others. What is written "left=right" elsewhere may be a mapping here:
            categories {"old": "new", "other": None}, split {"val": 0.1}, images {source: location}.
    """
    check_packages()
    from relaydet.jobs.merge import merge as run

    config = _as_config(MergeConfig, parameters)
    return run(dataclasses.replace(config, sources=load_sources(sources)), say)


def train(**parameters: Any) -> TrainResult:
    """Train with the parameters of 2_train, as keywords in lower case (see `TrainConfig`)."""
    check_packages()
    from relaydet.jobs.train import train as run

    return run(_as_config(TrainConfig, parameters), say)


def doctor(**parameters: Any) -> None:
    """Print what this machine is and can; keywords in lower case (see `DoctorConfig`)."""
    check_packages()
    from relaydet.jobs.doctor import doctor as run

    run(_as_config(DoctorConfig, parameters), say)


def evaluate(**parameters: Any) -> EvaluateResult:
    """Evaluate with the parameters of 3_evaluate, in lower case (see `EvaluateConfig`)."""
    check_packages()
    from relaydet.jobs.evaluate import evaluate as run

    return run(_as_config(EvaluateConfig, parameters), say)


def study(dataset: str = "", **parameters: Any) -> StudyResult | None:
    """The study of a merged dataset's sources (see `StudyConfig`); without a dataset, nothing."""
    check_packages()
    if not dataset:
        say("STUDY is empty: no study is made.")
        return None
    from relaydet.jobs.study import study as run

    return run(_as_config(StudyConfig, {"dataset": dataset, **parameters}), say)


def bench(**parameters: Any) -> BenchResult:
    """Measure with the parameters of 4_compare_gpus, in lower case (see `BenchConfig`)."""
    check_packages()
    from relaydet.jobs.bench import bench as run

    return run(_as_config(BenchConfig, parameters), say)


def browse(result: MergeResult) -> Browser:
    """A browser over the merged images: the last value of a cell.

    In a notebook that papermill runs through it is a sheet of samples.
    """
    from relaydet.viewing.browse import browse as make

    clickable = not runs_through()
    return make(result.dataset, result.images, result.findings, clickable=clickable)


def show(
    result: MergeResult | EvaluateResult | TrainResult | StudyResult | BenchResult | None,
) -> None:
    """Show the pictures of a result, each with its caption."""
    from IPython.display import display

    for picture in result.pictures.values() if result else ():
        say(picture.caption)
        display(picture)


def _as_config(kind: type[Config], parameters: dict[str, Any]) -> Config:
    """Check the parameters against the configuration's fields; lists become tuples."""
    names = [field.name for field in dataclasses.fields(kind)]
    for unknown in sorted(set(parameters) - set(names)):
        close = difflib.get_close_matches(unknown, names, n=1)
        hint = f"did you mean {close[0].upper()}?" if close else f"there are {', '.join(names)}."
        raise RelayError(f"{unknown.upper()}: there is no such parameter; {hint}")
    lists = [field.name for field in dataclasses.fields(kind) if "tuple" in str(field.type)]
    given = {
        name: _as_list(value) if name in lists else value for name, value in parameters.items()
    }
    try:
        return msgspec.convert(given, kind)
    except msgspec.ValidationError as error:
        place = str(error).partition("`$.")[2].rstrip("`")
        what = str(error).partition(" - at ")[0]
        raise RelayError(f"{place.upper()}: {what[:1].lower()}{what[1:]}; mend it.") from error


def _as_list(value: Any) -> Any:
    """One name may come without a list, and pairs as a mapping."""
    if isinstance(value, str):
        return [value] if value else []
    if isinstance(value, Mapping):
        pairs = [(left, "" if right is None else right) for left, right in value.items()]
        return [left if left == right else f"{left}={right}" for left, right in pairs]
    return value
