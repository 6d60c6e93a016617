"""How far something long has come: what a job passes down to whatever takes time.

The rooms below `viewing` know no screen. They open a bar by label, total and unit, and tell it each
amount done; `viewing.progress.bar` shows it, `no_bar` shows nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager

Advance = Callable[[int], object]
OpenBar = Callable[[str, int, str], AbstractContextManager[Advance]]


@contextmanager
def no_bar(label: str, total: int, unit: str) -> Iterator[Advance]:
    """A bar that nobody sees."""
    yield lambda amount: None
