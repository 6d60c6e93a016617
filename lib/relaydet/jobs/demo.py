"""The whole way once on generated scenes: merge, train, evaluate."""

from __future__ import annotations

from collections.abc import Callable

from relaydet.config import EvaluateConfig, MergeConfig, TrainConfig
from relaydet.jobs.evaluate import EvaluateResult, evaluate
from relaydet.jobs.merge import merge
from relaydet.jobs.train import train


def demo(
    store: str = "auto", epochs: int | None = None, say: Callable[[str], None] = print
) -> EvaluateResult:
    """Do what the three notebooks do with unchanged parameters; goes on where it was stopped.

    Args:
        store: where everything is written to.
        epochs: passes over the training images; None takes the recipe's.
        say: takes what is printed.
    """
    merge(MergeConfig(store=store), say)
    train(TrainConfig(store=store, epochs=epochs), say)
    return evaluate(EvaluateConfig(store=store), say)
