"""The tables of an evaluation, and a page with its pictures that opens offline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from relaydet.console import markup, shown
from relaydet.evaluation.significance import Difference, Interval, Significance

Row = tuple[str, dict[str, float]]

FEW = 12
"""Differences that are shown as they are; of more, AP50 first and the rest on demand."""
SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")

_STYLE = """
:root { color-scheme: light dark; --line: #8886; --faint: #8882; --good: #177245; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --good: #6fcf97; --bad: #ff8a80; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
h2 { margin-top: 3rem; border-bottom: 1px solid var(--line); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .25rem .75rem; border-bottom: 1px solid var(--line); }
th, td { text-align: right; white-space: nowrap; }
th:first-child, td:first-child { text-align: left; white-space: pre; }
td small { display: block; opacity: .75; }
tr:hover td { background: var(--faint); }
.better { color: var(--good); } .worse { color: var(--bad); }
img { max-width: 100%; height: auto; background: white; border-radius: 4px; }
figure { margin: 2rem 0; }
figcaption { opacity: .85; }
ul { overflow-wrap: anywhere; }
"""


@dataclass(frozen=True)
class Section:
    """What the page says of one dataset."""

    title: str
    rows: list[Row]
    """Name and metrics of each detector; rows of a source begin with two spaces."""
    significance: Significance | None
    """Intervals and differences, where there are some."""
    facts: Mapping[str, str]
    """What the reader needs to trust the table."""
    pictures: Sequence[tuple[str, bytes]]
    """Caption and image file, PNG or JPEG, of each."""


def metrics_table(rows: Sequence[Row]) -> str:
    """Metrics as text: a row a name, a column a metric; a dash where there is no ground truth."""
    width = max(len("run"), *(len(name) for name, _ in rows))
    lines = [f"{'run':<{width}}" + "".join(f"{name:>8}" for name in SHOWN)]
    for name, metrics in rows:
        cells = "".join(f"{_number(metrics[key]):>8}" for key in SHOWN)
        lines.append(f"{name:<{width}}{cells}")
    return "\n".join(lines)


def intervals_table(significance: Significance, measures: Sequence[str] = ()) -> str:
    """Each detector's measures with their 95 % intervals, as text."""
    names = [m for m in _measures(significance) if not measures or m in measures]
    rows = [
        [who, *(str(intervals[m]) for m in names)]
        for who, intervals in significance.intervals.items()
    ]
    return columns([["run", *names], *rows])


def differences_table(significance: Significance) -> str:
    """What each detector has more than another, with its interval and the verdict, as text.

    Of more than two detectors the AP50 alone; the page and comparison.json have all.
    """
    few = len(significance.intervals) <= 2
    rows = [
        [f"{d.second} - {d.first}", d.measure, signed(d.delta), verdict_of(d)]
        for d in significance.differences
        if few or d.measure == "AP50"
    ]
    if not rows:
        return ""
    return columns([["difference", "of", "with 95 % interval", "verdict"], *rows])


def verdict_of(difference: Difference) -> str:
    """Return the verdict with the name of whom it is about: "second is better"."""
    judged = difference.verdict in ("better", "worse")
    return f"{difference.second} is {difference.verdict}" if judged else difference.verdict


def report_page(title: str, sections: Sequence[Section]) -> str:
    """One HTML file with everything inside; every name from the data is escaped.

    Args:
        title: heading of the page.
        sections: one a dataset.
    """
    body = "".join(_section(section) for section in sections)
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{markup(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{markup(title)}</h1>\n{body}</body></html>\n"
    )


def _section(section: Section) -> str:
    listed = "".join(f"<li>{markup(k)}: {markup(v)}</li>\n" for k, v in section.facts.items())
    figures = "".join(_figure(caption, image) for caption, image in section.pictures)
    return (
        f"<section><h2>{markup(section.title)}</h2>\n{_metrics(section)}"
        f"{_differences(section.significance)}<ul>{listed}</ul>\n{figures}</section>\n"
    )


def _figure(caption: str, image: bytes) -> str:
    kind = "jpeg" if image.startswith(b"\xff\xd8") else "png"
    return (
        f'<figure><img src="data:image/{kind};base64,{base64.b64encode(image).decode()}"'
        f' alt="{markup(caption)}"><figcaption>{markup(caption)}</figcaption></figure>\n'
    )


def _metrics(section: Section) -> str:
    intervals = section.significance.intervals if section.significance else {}
    head = "".join(f"<th>{name}</th>" for name in ("run", *SHOWN))
    rows = ""
    for name, metrics in section.rows:
        known = intervals.get(name, {})
        cells = "".join(f"<td>{_number(metrics[k])}{_small(known.get(k))}</td>" for k in SHOWN)
        rows += f"<tr><td>{markup(name)}</td>{cells}</tr>\n"
    return f'<div class="wide"><table><tr>{head}</tr>\n{rows}</table></div>\n'


def _small(interval: Interval | None) -> str:
    return f"<small>{interval.low:.3f} to {interval.high:.3f}</small>" if interval else ""


def _differences(significance: Significance | None) -> str:
    if significance is None or not significance.differences:
        return ""
    every = significance.differences
    told = every if len(every) <= FEW else [d for d in every if d.measure == "AP50"]
    rest = (
        ""
        if len(told) == len(every)
        else (f"<details><summary>All measures</summary>{_differences_table(every)}</details>\n")
    )
    return (
        f"<h3>Which is better?</h3>\n{_differences_table(told)}{rest}<p>Intervals hold the true"
        f" number with 95 % confidence: a paired bootstrap over {significance.images:,} images,"
        f" {significance.draws:,} draws. They say how much other images of the same kind would"
        " change it, not what training anew with another SEED would.</p>\n"
    )


def _differences_table(differences: Sequence[Difference]) -> str:
    names = ("of", "against", "measure", "difference", "verdict")
    head = "".join(f"<th>{name}</th>" for name in names)
    rows = "".join(_difference(difference) for difference in differences)
    return f'<div class="wide"><table><tr>{head}</tr>\n{rows}</table></div>\n'


def _difference(difference: Difference) -> str:
    names = "".join(f"<td>{markup(n)}</td>" for n in (difference.second, difference.first))
    kind = difference.verdict.replace(" ", "-")
    return (
        f"<tr>{names}<td>{difference.measure}</td><td>{signed(difference.delta)}</td>"
        f'<td class="{kind}">{markup(verdict_of(difference))}</td></tr>\n'
    )


def _measures(significance: Significance) -> list[str]:
    return list(next(iter(significance.intervals.values()), {}))


def columns(rows: Sequence[Sequence[str]]) -> str:
    """Rows of cells as lines of text, with each column as wide as its widest cell."""
    rows = [[shown(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)


def signed(delta: Interval) -> str:
    """A difference and its interval, each with its sign."""
    return f"{delta.value:+.3f} [{delta.low:+.3f}, {delta.high:+.3f}]"


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"
