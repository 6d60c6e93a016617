"""Findings of one kind that are too many to list: the first ones, and a last one that counts on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import TypeVar

from relaydet.data.findings import Finding

Row = TypeVar("Row")

# Of one code and source. More tell a reader nothing new, and a report of a million does not open.
MOST_FINDINGS = 1_000


def sum_up(findings: Iterable[Finding]) -> list[Finding]:
    """The findings in their order, then one for each code and source that has too many."""
    kept: list[Finding] = []
    counts: dict[tuple[str, str], int] = {}
    last: dict[tuple[str, str], Finding] = {}
    for finding in findings:
        key = (finding.code, finding.source)
        counts[key] = counts.get(key, 0) + 1
        if counts[key] <= MOST_FINDINGS:
            kept.append(finding)
        else:
            last[key] = finding
    return kept + [_rest(last[key], counts[key] - MOST_FINDINGS) for key in last]


def first_of(rows: Sequence[Row], make: Callable[[Row], Finding]) -> list[Finding]:
    """A finding for each row, all of one code and source; of too many, only the first are made."""
    findings = [make(row) for row in rows[:MOST_FINDINGS]]
    if len(rows) > MOST_FINDINGS:
        findings.append(_rest(findings[-1], len(rows) - MOST_FINDINGS))
    return findings


def _rest(example: Finding, count: int) -> Finding:
    message = f"{count:,} more are {example.code}, not listed one by one"
    return replace(example, message=message, image=None, annotation=None)
