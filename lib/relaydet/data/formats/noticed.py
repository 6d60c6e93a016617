"""Findings of one reading, bounded: a broken file must not fill memory with what is wrong in it."""

from __future__ import annotations

from collections import Counter
from typing import Literal

from relaydet.data.findings import Finding

MAX_OF_A_KIND = 100


class Noticed:
    """What reading one source noticed: the first 100 of each kind, and a count of the rest."""

    def __init__(self, source: str) -> None:
        self._source = source
        self._kept: list[Finding] = []
        self._counts: Counter[tuple[str, Literal["info", "warning", "error"], str]] = Counter()

    def add(
        self,
        code: str,
        severity: Literal["info", "warning", "error"],
        message: str,
        action: str,
        image: str | None = None,
    ) -> None:
        """Note one finding; its fields are those of `Finding`."""
        kind = (code, severity, action)
        self._counts[kind] += 1
        if self._counts[kind] <= MAX_OF_A_KIND:
            self._kept.append(Finding(code, severity, self._source, message, action, image))

    def findings(self) -> list[Finding]:
        """The findings kept, and one for each kind of which there were more."""
        more = [
            Finding(
                code,
                severity,
                self._source,
                f"{count - MAX_OF_A_KIND} more like the {MAX_OF_A_KIND} before",
                action,
            )
            for (code, severity, action), count in self._counts.items()
            if count > MAX_OF_A_KIND
        ]
        return self._kept + more
