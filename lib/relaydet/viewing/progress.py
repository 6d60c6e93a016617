"""Progress of anything long, with the time left."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tqdm import tqdm

from relaydet.bars import Advance
from relaydet.console import Screen, one_line


def progress(label: str, total: int | None = None) -> Callable[[Iterable], Iterable]:
    """A wrapper that shows how an iteration comes along.

    Args:
        label: what is being done.
        total: number of items, where the iterable does not know it.
    """

    def show(items: Iterable) -> Iterable:
        return tqdm(items, desc=one_line(label), total=total, **_style())

    return show


@contextmanager
def bar(label: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar for `relaydet.bars.OpenBar`; bytes are shown as kB and MB."""
    with tqdm(
        desc=one_line(label), total=total, unit=unit, unit_scale=unit == "B", **_style()
    ) as shown:
        yield shown.update


def step_bar(label: str, total: int, done: int) -> tqdm:
    """A bar for training: starts at the steps already done and counts from there."""
    return tqdm(desc=one_line(label), total=total, initial=done, unit="step", **_style())


def _style() -> dict[str, Any]:
    """On a terminal a moving bar; in a log file or a headless notebook a line now and then."""
    screen = Screen()
    live = screen.isatty()
    return {
        "mininterval": 0.3 if live else 10,
        "delay": 1,  # what is done within a second needs no bar
        "dynamic_ncols": live,
        "file": screen,
    }
