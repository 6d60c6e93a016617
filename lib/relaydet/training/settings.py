"""What a run is trained with: decided once when it starts, and kept whenever it goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import msgspec

from relaydet.config import TrainConfig, check_name, check_seed
from relaydet.errors import DamagedError, RelayError
from relaydet.model import choose_model, recipe_of

# Fields that may differ when a run goes on: they change where and how fast it is trained, not
# what is trained.
_FREE_FIELDS = frozenset(
    {
        "store",
        "images",
        "take_over",
        "resume_from",
        "keep_last",
        "keep_gigabytes",
        "answer_minutes",
        "max_minutes",
        "checkpoint_minutes",
        "gpus",
        "max_restarts",
        "micro_batch",
        "workers",
        "device",
        "precision",
        "plain",
        "recompute",
        "deterministic",
    }
)
_ABOVE_ZERO = (
    "epochs",
    "batch_size",
    "learning_rate",
    "image_size",
    "micro_batch",
    "keep_gigabytes",
    "answer_minutes",
)
_ZERO_OR_MORE = ("workers", "max_minutes", "checkpoint_minutes", "max_restarts")
_AT_MOST = {
    "epochs": 1_000_000,
    "batch_size": 1_000_000,
    "learning_rate": 1_000_000,
    "image_size": 16_384,
    "micro_batch": 1_000_000,
    "workers": 1024,
    "max_minutes": 1e8,
    "checkpoint_minutes": 1e8,
    "answer_minutes": 1e6,
    "keep_gigabytes": 1e9,
    "max_restarts": 1_000_000,
}
"""Beyond these nothing trains; an infinity or a number with a digit too many is not meant."""
_DECIDED = ("epochs", "learning_rate", "image_size")
"""What a user may leave open, and a run that was started has."""
_OWN_WEIGHTS = ("auto", "coco", "imagenet", "none")


def settle(
    started: TrainConfig | None, asked: TrainConfig, device_type: str, say: Callable[[str], None]
) -> TrainConfig:
    """The configuration to train with.

    Args:
        started: what the run was started with; None for a new run.
        asked: what the user asks for now; a field left at its default asks for nothing.
        device_type: cpu, cuda or mps.
        say: takes the line that tells which model was taken.

    Raises:
        RelayError: the run was started with something else, the model is unknown, or a number
            makes no sense.
    """
    check_seed(asked.seed)
    refuse_nonsense(asked)
    if started:
        return _as_started(started, asked, say)
    model, reason = choose_model(asked.model, device_type)
    say(f"model: {model} ({reason})")
    recipe = recipe_of(model)
    return replace(
        asked,
        model=model,
        epochs=asked.epochs or recipe.epochs,
        learning_rate=asked.learning_rate or recipe.peak_learning_rate(asked.batch_size),
        image_size=asked.image_size or recipe.image_size,
    )


def differences(written: dict[str, Any] | None, config: TrainConfig) -> list[str]:
    """What makes a checkpoint one of another run: the fields that may not change.

    Args:
        written: the configuration in its manifest; None, of an older version, says nothing.
        config: what is trained now.

    Returns:
        A sentence's part for each: "SEED 7 instead of 0".
    """
    if not written:
        return []
    # Not the dataclass itself: msgspec leaves out what a file that it was read from left out.
    now, defaults, then = (
        msgspec.json.decode(msgspec.json.encode(value))  # as a manifest has it
        for value in (asdict(config), asdict(TrainConfig()), written)
    )
    told = []
    for name in now:
        was = then.get(name, defaults[name])
        if name in (*_FREE_FIELDS, "epochs", "run") or was == now[name]:
            continue
        if name not in then and was in (None, "auto"):
            continue  # decided when a run starts, which this says nothing of
        if name == "weights" and _are_files(was, now[name]):
            continue
        told.append(f"{name.upper()} {was!r} instead of {now[name]!r}")
    return told


def _are_files(*weights: str) -> bool:
    """Whether all are files of weights: read when a run starts, and not looked at again."""
    return not any(name in _OWN_WEIGHTS for name in weights)


def check_started(config: TrainConfig, where: str) -> None:
    """Validate what a file says that a run was started with, as a user's would be.

    Args:
        config: what it says.
        where: the file, as a person would open it.

    Raises:
        DamagedError: a name, a number or the model cannot have been written by relaydet.
    """
    try:
        for name in _DECIDED:
            if getattr(config, name) is None:
                raise RelayError(f"{name.upper()} is not there.")
        if config.model == "auto":
            raise RelayError("MODEL is not there.")
        refuse_nonsense(config)
        choose_model(config.model, "cpu")
        recipe_of(config.model)
    except RelayError as error:
        reason = str(error).partition(";")[0].rstrip(".")
        raise DamagedError(
            f"{where}: damaged ({reason}); restore it or start a new RUN."
        ) from error


def differ_in_seed_alone(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two runs' configurations, as model.json has them, are but for SEED the same.

    Names, and what changes where and how fast a run is trained, do not count.
    """
    names = one.keys() | other.keys()
    return {n for n in names if one.get(n) != other.get(n)} - _FREE_FIELDS - {"run"} == {"seed"}


def refuse_nonsense(asked: TrainConfig) -> None:
    """Raise a RelayError for a name or a number that cannot be meant."""
    check_name("RUN", asked.run)
    check_name("DATASET", asked.dataset)
    for name in (*_ABOVE_ZERO, *_ZERO_OR_MORE):
        value = getattr(asked, name)
        if value is not None and not (value > 0 or (value == 0 and name in _ZERO_OR_MORE)):
            wanted = "0 or more" if name in _ZERO_OR_MORE else "more than 0"
            raise RelayError(f"{name.upper()}: {value} makes no sense; take {wanted}.")
        if value is not None and value > (most := _AT_MOST[name]):
            raise RelayError(f"{name.upper()}: {value:.6g} is too much; take at most {most:g}.")
    if asked.keep_last < 2:
        raise RelayError(
            f"KEEP_LAST: {asked.keep_last} is too few; take at least 2, so that one is left when"
            " the newest is damaged."
        )
    check_seed(asked.seed)


def _as_started(
    started: TrainConfig, asked: TrainConfig, say: Callable[[str], None]
) -> TrainConfig:
    """The run's configuration with the free fields as asked; other differences are refused.

    A value that is the default may be one that the user gave: it is not taken, and said so.
    """
    default = TrainConfig()
    started = _with_more_epochs(started, asked, say)
    started = _with_weights_elsewhere(started, asked, say)
    changed = [
        f"{name.upper()} ({getattr(started, name)!r} then, {getattr(asked, name)!r} now)"
        for name in (field.name for field in fields(TrainConfig))
        if name not in _FREE_FIELDS
        and getattr(asked, name) not in (getattr(default, name), getattr(started, name))
    ]
    if changed:
        raise RelayError(
            f"Run {started.run!r} was started with another {', '.join(changed)}; set it back to"
            " go on, or choose a new RUN."
        )
    for name in (field.name for field in fields(TrainConfig)):
        was, now = getattr(started, name), getattr(asked, name)
        if name not in _FREE_FIELDS and was != now and now not in (None, "auto", ()):
            say(f"{name.upper()}: {was!r}, as the run was started, and not {now!r}")
    free = {name: getattr(asked, name) for name in _FREE_FIELDS}
    return replace(started, run=asked.run, **free)


def _with_weights_elsewhere(
    started: TrainConfig, asked: TrainConfig, say: Callable[[str], None]
) -> TrainConfig:
    """A file of weights is read when a run starts, and may be elsewhere or gone when it goes on."""
    if started.weights == asked.weights or not _are_files(started.weights, asked.weights):
        return started
    say(
        f"WEIGHTS: {started.weights!r} until now, {asked.weights!r} from here on; they are read at"
        " the start of a run alone, and a checkpoint needs them no more"
    )
    return replace(started, weights=asked.weights)


def _with_more_epochs(
    started: TrainConfig, asked: TrainConfig, say: Callable[[str], None]
) -> TrainConfig:
    """A run may be made longer, also when it is done; the rate follows the longer schedule."""
    if not asked.epochs or asked.epochs <= int(started.epochs or 0):
        return started
    say(
        f"EPOCHS: {started.epochs} until now, {asked.epochs} from here on; the learning rate"
        " follows the longer schedule from here, so the weights will differ from a run that was"
        " planned so from its start"
    )
    return replace(started, epochs=asked.epochs)
