"""`relaydet`: the notebooks' calls, for a terminal.

Flags are the fields of the configuration dataclasses. Nothing heavy is imported before a command
is known, so that --help answers at once.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import difflib
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn, get_origin, get_type_hints

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
    told_from_where,
)
from relaydet.console import complain, finish, hold_descriptors, json_text, one_line, say
from relaydet.errors import RelayError
from relaydet.parameters import as_config, suggestion
from relaydet.places import leave_deleted_folder


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
    """Run one command.

    Returns:
        0, or 2 for a mistake that the user can fix.

    Raises:
        SystemExit: with 0 after help was printed, with 2 where the command line is wrong.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    hold_descriptors()
    leave_deleted_folder()
    try:
        command = _parsed(arguments)
        return _run(command)
    except RelayError as error:
        complain(f"relaydet: {one_line(error)}")
        return 2
    finally:
        finish()


def _parsed(arguments: Sequence[str]) -> Any:
    """What a command is to do; ends the program where that is help, or a mistake."""
    name, options = (arguments[0], arguments[1:]) if arguments else ("", ())
    try:
        if name in COMMANDS:
            if not {"-h", "--help"} & set(options):
                return as_config(COMMANDS[name], _given(name, options))
            say(_help_of(name))
        elif name in ("-h", "--help"):
            say(_help())
        elif name == "--version":
            say(relaydet.__version__)
        else:
            what = f"there is no command {name!r}" if name else "name a command"
            raise RelayError(f"{what}; {suggestion(name, COMMANDS, upper=False)}")
    except RelayError as error:
        complain(f"relaydet: {one_line(error)}")
        sys.exit(2)
    sys.exit(0)


def _help() -> str:
    """The commands."""
    parser = argparse.ArgumentParser(
        "relaydet",
        description=relaydet.__doc__,
        epilog="relaydet COMMAND --help tells its options.",
    )
    parser.add_argument("--version", action="version", version=relaydet.__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, config in COMMANDS.items():
        commands.add_parser(name, help=(config.__doc__ or "").split("\n\n")[0], add_help=False)
    return parser.format_help().rstrip()


def _help_of(name: str) -> str:
    """The options of a command, with what the configuration's fields say of themselves."""
    import tyro  # only now: nothing else needs it

    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        tyro.cli(
            COMMANDS[name],
            prog=f"relaydet {name}",
            args=["--help"],
            config=(tyro.conf.OmitArgPrefixes, tyro.conf.PositionalRequiredArgs),
        )
    return printed.getvalue().rstrip()


class _Parser(argparse.ArgumentParser):
    """Says in one sentence what is wrong."""

    def error(self, message: str) -> NoReturn:
        option = message.partition("argument ")[2].partition(":")[0].removeprefix("--")
        name = option.rpartition("/--")[0] or option
        if "expected one argument" in message:
            raise RelayError(f"{_parameter(name)}: a value is missing; write --{name} VALUE.")
        if "ignored explicit argument" in message:
            raise RelayError(f"{_parameter(name)}: takes no value; {_either(name)}.")
        if "arguments are required" in message:
            missing = message.rpartition(": ")[2].upper().replace(", ", " and ")
            raise RelayError(f"{missing}: not given; {self.prog} --help shows how it is called.")
        raise RelayError(f"{self.prog}: {message}; see {self.prog} --help.")


def _given(name: str, options: Sequence[str]) -> dict[str, Any]:
    """The options of a command as they are written, by field."""
    fields = dataclasses.fields(COMMANDS[name])
    hints = get_type_hints(COMMANDS[name])
    parser = _Parser(f"relaydet {name}", add_help=False, allow_abbrev=False)
    for field in fields:
        flag = f"--{_flag(field.name)}"
        if field.default is dataclasses.MISSING:
            parser.add_argument(field.name)
        elif hints[field.name] is bool:
            parser.add_argument(
                flag, action=argparse.BooleanOptionalAction, default=argparse.SUPPRESS
            )
        else:
            several = "*" if get_origin(hints[field.name]) is tuple else None
            parser.add_argument(flag, nargs=several, default=argparse.SUPPRESS)
    given, unknown = parser.parse_known_args([_spelt(option) for option in options])
    if unknown:
        raise RelayError(_unknown_option(name, unknown[0], options))
    return vars(given)


def _unknown_option(name: str, unknown: str, options: Sequence[str]) -> str:
    """The sentence about what is no option of a command, or stands where none is."""
    flag = unknown.partition("=")[0]
    before = _spelt(options[max(0, list(map(_spelt, options)).index(unknown) - 1)])
    plain = before.removeprefix("--").removeprefix("no-").replace("-", "_")
    if not flag.startswith("-"):
        if get_type_hints(COMMANDS[name]).get(plain) is bool:
            return f"{_parameter(plain)}: takes no value; {_either(_flag(plain))}."
        return f"{unknown!r} is not expected there; options are written --name value."
    plain = flag.lstrip("-").lower().removeprefix("no-").replace("-", "_")
    known = [_flag(field.name) for field in dataclasses.fields(COMMANDS[name])]
    others = [c for c, kind in COMMANDS.items() if plain in kind.__dataclass_fields__]
    close = difflib.get_close_matches(_flag(plain), known, n=1)
    if others and name not in others:
        hint = f"it is one of relaydet {others[0]}."
    elif close:
        hint = f"did you mean --{close[0]}?"
    else:
        hint = f"relaydet {name} --help lists those there are."
    return f"unknown option {flag}; {hint}"


def _either(flag: str) -> str:
    return f"write --{flag} or --no-{flag} alone"


def _flag(field: str) -> str:
    return field.replace("_", "-")


def _parameter(flag: str) -> str:
    return flag.replace("-", "_").upper()


def _spelt(option: str) -> str:
    """An option with - for _ in its name, as both are taken."""
    name, equals, value = option.partition("=")
    return f"{name.replace('_', '-')}{equals}{value}" if name.startswith("--") else option


def _run(command: Any) -> int:
    """Run a command; 2 where it found what the user has to mend, else 0."""
    match command:
        case MergeCommand():
            from relaydet.jobs.merge import merge

            given = {f.name: getattr(command, f.name) for f in dataclasses.fields(MergeConfig)}
            sources = load_sources(command.sources)
            with told_from_where(command.sources, sources):
                merge(MergeConfig(**{**given, "sources": sources}), say)
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
