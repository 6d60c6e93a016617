"""What a notebook needs: its parameters as a configuration, and pictures on the screen."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from relaydet.config import EvaluateConfig, MergeConfig, TrainConfig, load_sources
from relaydet.errors import RelayError

if TYPE_CHECKING:
    from relaydet.jobs.evaluate import EvaluateResult
    from relaydet.jobs.merge import MergeResult
    from relaydet.jobs.train import TrainResult

Config = TypeVar("Config", TrainConfig, EvaluateConfig)

# Import name of each package in requirements.txt.
_NEEDED = (
    *("torch", "torchvision", "numpy", "PIL", "msgspec", "scipy", "pycocotools"),
    *("safetensors", "matplotlib", "tqdm"),
)


def check_packages() -> None:
    """Say which packages are missing before anything starts.

    Raises:
        RelayError: some are.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise RelayError(
            f"Packages are missing: {', '.join(missing)}; run %pip install -r requirements.txt"
            " (it leaves an installed torch as it is) and start this notebook again."
        )


def merge(
    dataset: str,
    sources: str | list[dict[str, Any]],
    categories: str | Sequence[str] | Mapping[str, str],
    store: str,
) -> MergeResult:
    """Merge with the parameters of 1_merge_data.

    Args:
        dataset: name of the merged dataset.
        sources: "demo", the path of a JSON file with a list of sources, or that list.
        categories: names to keep, or a mapping from old to new names; empty keeps all.
        store: folder that everything is written to, or auto.
    """
    check_packages()
    from relaydet.jobs.merge import merge as run

    if isinstance(categories, str):
        categories = [categories]
    if isinstance(categories, Mapping):
        categories = [f"{old}={new}" for old, new in categories.items()]
    return run(MergeConfig(dataset, load_sources(sources), tuple(categories), store))


def train(**parameters: Any) -> TrainResult:
    """Train with the parameters of 2_train, as keywords in lower case (see `TrainConfig`)."""
    check_packages()
    from relaydet.jobs.train import train as run

    return run(_as_config(TrainConfig, parameters))


def evaluate(**parameters: Any) -> EvaluateResult:
    """Evaluate with the parameters of 3_evaluate, in lower case (see `EvaluateConfig`)."""
    check_packages()
    from relaydet.jobs.evaluate import evaluate as run

    return run(_as_config(EvaluateConfig, parameters))


def show(result: MergeResult | EvaluateResult | TrainResult) -> None:
    """Show the pictures of a result, each with its caption."""
    from IPython.display import display

    for picture in result.pictures.values():
        print(picture.caption)
        display(picture)


def _as_config(kind: type[Config], parameters: dict[str, Any]) -> Config:
    """Check the parameters against the configuration's fields; lists become tuples."""
    for name in ("include", "runs"):  # one name may come without a list
        if isinstance(parameters.get(name), str):
            parameters[name] = [parameters[name]]
    try:
        return msgspec.convert(parameters, kind)
    except msgspec.ValidationError as error:
        place = str(error).partition("`$.")[2].rstrip("`")
        what = str(error).partition(" - at ")[0]
        raise RelayError(f"{place.upper()}: {what[:1].lower()}{what[1:]}; mend it.") from error
