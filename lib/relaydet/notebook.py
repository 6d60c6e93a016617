"""What a notebook needs: its parameters as a configuration, and pictures on the screen."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any, TypeVar

from relaydet.bootstrap import missing
from relaydet.config import (
    BenchConfig,
    DoctorConfig,
    EvaluateConfig,
    MergeConfig,
    StudyConfig,
    TrainConfig,
    load_sources,
    told_from_where,
)
from relaydet.console import say
from relaydet.errors import RelayError
from relaydet.parameters import as_config, refuse_unknown_injected
from relaydet.places import leave_deleted_folder
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
    leave_deleted_folder()
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

    config = _as_config(MergeConfig, parameters, "sources")
    loaded = load_sources(sources)
    with told_from_where(sources, loaded):
        return run(dataclasses.replace(config, sources=loaded), say)


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


def _as_config(kind: type[Config], parameters: dict[str, Any], *others: str) -> Config:
    """Return the parameters as a configuration; `others` are handed over beside them."""
    refuse_unknown_injected([name.upper() for name in (*parameters, *others)], kind)
    config: Config = as_config(kind, parameters)
    return config
