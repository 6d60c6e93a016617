"""What reading, merging and checking noticed, and what was done about it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Finding:
    """One thing noticed in one place; an entry of `findings` in report.json."""

    code: str
    """Stable kind, kebab-case: box-clamped, image-missing, ..."""
    severity: str
    """info (nothing lost), warning (something dropped or changed) or error."""
    source: str
    """Name of the source it was found in."""
    message: str
    """One sentence: what is wrong and where."""
    action: str
    """What was done: kept, clamped, dropped, ..."""
    image: str | None = None
    """File name of the image concerned, within its source."""
    annotation: int | str | None = None
    """Id of the annotation concerned, as in the source."""


def count_by_code(findings: Iterable[Finding]) -> list[tuple[str, str, str, int]]:
    """Findings summed up as (source, code, action, count), most frequent first."""
    counts = Counter((f.source, f.code, f.action) for f in findings)
    return [(*key, count) for key, count in sorted(counts.items(), key=lambda kv: (-kv[1], kv[0]))]


def findings_table(findings: Iterable[Finding]) -> str:
    """Findings as text, one line for each kind, with an example; empty ones say so."""
    findings = list(findings)
    if not findings:
        return "findings: none"
    lines = []
    for source, code, action, count in count_by_code(findings):
        example = next(
            f for f in findings if (f.source, f.code, f.action) == (source, code, action)
        )
        lines.append(f"  {count:>6} x {source}: {code}, {action}; such as: {example.message}")
    return "\n".join(["findings:", *lines])
