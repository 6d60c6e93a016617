"""`relaydet`: the notebooks' calls, for a terminal.

Flags are the fields of the configuration dataclasses. Nothing heavy is imported before a command
is known, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import relaydet
from relaydet.config import (
    DEMO,
    BenchConfig,
    DoctorConfig,
    EvaluateConfig,
    FleetConfig,
    MergeConfig,
    StudyConfig,
    TrainConfig,
    load_sources,
)
from relaydet.console import complain, finish, hold_descriptors, json_text, one_line, say
from relaydet.errors import RelayError


@dataclasses.dataclass(frozen=True)
class MergeCommand(MergeConfig):
    """Merge datasets into one COCO file."""

    sources: str = DEMO
    """Path of a JSON file with a list of sources, "demo" to generate the demo set, or the name of a
    known source, such as coco2017-train-person."""


@dataclasses.dataclass(frozen=True)
class ScoreConfig:
    """Print the COCO metrics of a results file."""

    ground_truth: Path
    """COCO instances file."""
    detections: Path
    """COCO results file: a list of {image_id, category_id, bbox, score}."""
    engine: str = "auto"
    """auto, pycocotools or hotcoco."""
    verify: bool = False
    """Compute with pycocotools as well and compare every number."""
    json: bool = False
    """Print JSON alone."""


@dataclasses.dataclass(frozen=True)
class DemoConfig:
    """Make the demo set, train on it, evaluate: the three notebooks in one command."""

    store: str = "auto"
    """Folder or gs://bucket/prefix that everything is written to; auto decides by the runtime."""
    epochs: int | None = None
    """Passes over the training images; None takes the recipe's."""


@dataclasses.dataclass(frozen=True)
class StatusConfig:
    """List the runs in a store: state, progress, time left, last AP."""

    store: str = "auto"
    """Folder or gs://bucket/prefix that the runs are in; auto decides by the runtime."""
    json: bool = False
    """Print JSON alone."""


COMMANDS: dict[str, Any] = {
    "merge": MergeCommand,
    "train": TrainConfig,
    "evaluate": EvaluateConfig,
    "compare": EvaluateConfig,
    "fleet": FleetConfig,
    "study": StudyConfig,
    "bench": BenchConfig,
    "score": ScoreConfig,
    "status": StatusConfig,
    "demo": DemoConfig,
    "doctor": DoctorConfig,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; exit code 2 for a mistake that the user can fix."""
    arguments = sys.argv[1:] if arguments is None else arguments
    hold_descriptors()
    try:
        name = _parser().parse_args(arguments[:1]).command
        return _run(_configured(name, arguments[1:]))
    except RelayError as error:
        complain(f"relaydet: {one_line(error)}")
        return 2
    finally:
        finish()


def _parser() -> argparse.ArgumentParser:
    """Which command is meant; what follows it is the command's own."""
    parser = argparse.ArgumentParser(
        "relaydet",
        description=relaydet.__doc__,
        epilog="relaydet COMMAND --help tells its options.",
    )
    parser.add_argument("--version", action="version", version=relaydet.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, config in COMMANDS.items():
        commands.add_parser(name, help=(config.__doc__ or "").split("\n\n")[0], add_help=False)
    return parser


def _configured(name: str, options: Sequence[str]) -> Any:
    """What a command is to do; exits with 2 where an option is wrong."""
    import tyro  # only now: `relaydet --help` needs none of it

    return tyro.cli(
        COMMANDS[name],
        prog=f"relaydet {name}",
        args=options,
        config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs),
    )


def _run(command: Any) -> int:
    """Run a command; 2 where it found what the user has to mend, else 0."""
    match command:
        case MergeCommand():
            from relaydet.jobs.merge import merge

            given = {f.name: getattr(command, f.name) for f in dataclasses.fields(MergeConfig)}
            merge(MergeConfig(**{**given, "sources": load_sources(command.sources)}), say)
        case TrainConfig():
            from relaydet.jobs.train import train

            train(command, say)
        case FleetConfig():
            from relaydet.jobs.fleet import fleet

            fleet(command, say)
        case StudyConfig():
            from relaydet.jobs.study import study

            study(command, say)
        case BenchConfig():
            from relaydet.jobs.bench import bench

            bench(command, say)
        case EvaluateConfig():
            from relaydet.jobs.evaluate import evaluate

            evaluate(command, say)
        case ScoreConfig():
            _score(command)
        case StatusConfig():
            from relaydet.jobs.status import status

            status(command.store, command.json, say)
        case DemoConfig():
            from relaydet.jobs.demo import demo

            demo(command.store, command.epochs, say)
        case DoctorConfig():
            from relaydet.jobs.doctor import doctor

            return 2 if doctor(command, say).fails else 0
    return 0


def _score(command: ScoreConfig) -> None:
    from relaydet.evaluation.records import truth_of
    from relaydet.evaluation.report import metrics_table
    from relaydet.evaluation.results import detections_of
    from relaydet.evaluation.score import score

    truth = truth_of(_read(command.ground_truth), str(command.ground_truth))
    found = detections_of(_read(command.detections), truth, str(command.detections))
    scores = score(truth, found, command.engine, command.verify)
    if command.json:
        told = {**scores.metrics, "per_category": scores.per_category, "engine": scores.engine}
        say(json_text({**told, "findings": scores.findings}))
        return
    say(metrics_table([(command.detections.stem, scores.metrics)]))
    say("\n".join([f"engine: {scores.engine}", *(f"note: {n}" for n in scores.findings)]))


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise RelayError(f"{path}: cannot be read ({error.strerror}); check the path.") from error


if __name__ == "__main__":
    sys.exit(main())
