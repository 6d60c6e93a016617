"""The table of an evaluation, and a page with its pictures that opens offline."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from html import escape

Row = tuple[str, dict[str, float]]

SHOWN = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100")

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; }
th, td { padding: .25rem .75rem; text-align: right; border-bottom: 1px solid #8884; }
th:first-child, td:first-child { text-align: left; white-space: pre; }
div { overflow-x: auto; }
img { max-width: 100%; background: white; }
figure { margin: 2rem 0; }
"""


def metrics_table(rows: Sequence[Row]) -> str:
    """Metrics as text: a row a name, a column a metric; a dash where there is no ground truth."""
    width = max(len("run"), *(len(name) for name, _ in rows))
    lines = [f"{'run':<{width}}" + "".join(f"{name:>8}" for name in SHOWN)]
    for name, metrics in rows:
        cells = "".join(f"{_number(metrics[key]):>8}" for key in SHOWN)
        lines.append(f"{name:<{width}}{cells}")
    return "\n".join(lines)


def report_page(
    title: str,
    rows: Sequence[Row],
    facts: Mapping[str, str],
    pictures: Sequence[tuple[str, bytes]],
) -> str:
    """One HTML file with everything inside; every name from the data is escaped.

    Args:
        title: heading of the page.
        rows: the table.
        facts: what the reader needs to trust the table.
        pictures: caption and PNG file of each, below the table.
    """
    head = "".join(f"<th>{name}</th>" for name in ("run", *SHOWN))
    body = "".join(
        f"<tr><td>{escape(name)}</td>"
        + "".join(f"<td>{_number(metrics[key])}</td>" for key in SHOWN)
        + "</tr>\n"
        for name, metrics in rows
    )
    listed = "".join(f"<li>{escape(k)}: {escape(v)}</li>\n" for k, v in facts.items())
    figures = "".join(
        f'<figure><img src="data:image/png;base64,{base64.b64encode(png).decode()}"'
        f' alt="{escape(caption)}"><figcaption>{escape(caption)}</figcaption></figure>\n'
        for caption, png in pictures
    )
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f"<h1>{escape(title)}</h1>\n<div><table><tr>{head}</tr>\n{body}</table></div>\n"
        f"<ul>{listed}</ul>\n{figures}</body></html>\n"
    )


def _number(value: float) -> str:
    return "-" if value < 0 else f"{value:.3f}"
