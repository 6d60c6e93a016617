"""The time per batch on every machine that was measured, beside what the study published."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image

from relaydet.viewing.charts import draw_picture, legend_below, line_style, write_name
from relaydet.viewing.lettering import shortened

_NAME_LENGTH = 24
PUBLISHED = {
    "V100 x4": {8: 1.0, 16: 1.8},
    "A100 x4": {8: 1 / 1.4, 16: 1.8 / 1.4},
    "A100 x8": {8: 1 / 1.4 / 1.7, 16: 1.8 / 1.4 / 1.7},
}
"""Time per batch on the study's machines at its two batch sizes, as multiples of the first."""


def machine_of(row: Mapping[str, Any]) -> str:
    """A line's machine, such as Tesla T4 x2."""
    return f"{row['gpu']} x{row['gpus']}" if row["gpus"] > 1 else str(row["gpu"])


def precision_of(row: Mapping[str, Any]) -> str:
    """A line's precision, and whether torchvision's own ways were measured."""
    return f"{row['precision']}, plain" if row.get("plain") else str(row["precision"])


def speed_chart(rows: Sequence[Mapping[str, Any]]) -> Image.Image:
    """Bars of the median time per batch with quartiles, and the published ratios.

    Args:
        rows: lines of speed.jsonl; of several of one machine, model and batch size the last.
    """
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    ours, theirs = figure.subplots(1, 2, width_ratios=[2, 1])
    sizes = sorted({row["batch_size"] for row in rows})
    _measured(ours, rows, sizes)
    _published(theirs, sizes)
    legend_below(figure, [f"batch {size}" for size in sizes], max(1, len(sizes)))
    return draw_picture(figure)


def _measured(axes: Axes, rows: Sequence[Mapping[str, Any]], sizes: Sequence[int]) -> None:
    latest = {(_name(row), row["batch_size"]): row for row in rows}
    names = list(dict.fromkeys(name for name, _ in latest))
    width = 0.8 / max(1, len(sizes))
    for number, size in enumerate(sizes):
        mine = [(name, latest[name, size]) for name in names if (name, size) in latest]
        shift = (number - (len(sizes) - 1) / 2) * width
        x = [names.index(name) + shift for name, _ in mine]
        median = np.array([row["seconds_per_batch"] for _, row in mine])
        low, high = (np.array([row["quartiles"][end] for _, row in mine]) for end in (0, 1))
        errors = [np.maximum(median - low, 0), np.maximum(high - median, 0)]
        colour = line_style(number)["color"]
        axes.bar(x, median, 0.9 * width, yerr=errors, capsize=4, color=colour)
        for place, height, top in zip(x, median, high, strict=True):
            axes.annotate(
                f"{height:.3g}", (place, top), (0, 4), textcoords="offset points", ha="center"
            )
    axes.set_xticks(range(len(names)), names)
    for text, name in zip(axes.get_xticklabels(), names, strict=True):
        write_name(text, "\n".join(shortened(part, _NAME_LENGTH) for part in name.split("\n")))
    axes.set_ylabel("seconds per batch")
    axes.margins(y=0.12)
    axes.set_title("Measured: time per batch")
    axes.spines[["top", "right"]].set_visible(False)


def _name(row: Mapping[str, Any]) -> str:
    return f"{machine_of(row)}\n{row['model']}, {row['image_size']} px\n{precision_of(row)}"


def _published(axes: Axes, sizes: Sequence[int]) -> None:
    """In the colours of the batch sizes where they were measured too, else in grey."""
    for place, times in enumerate(PUBLISHED.values()):
        for number, (size, time) in enumerate(times.items()):
            colour = line_style(sizes.index(size))["color"] if size in sizes else "gray"
            x = place + 0.4 * number - 0.2
            axes.bar(x, time, 0.36, color=colour)
            axes.annotate(f"{time:.2f}", (x, time), (0, 3), textcoords="offset points", ha="center")
    axes.set_xticks(range(len(PUBLISHED)), [name.replace(" ", "\n") for name in PUBLISHED])
    axes.set_ylabel("of V100 x4 at batch 8")
    axes.margins(y=0.12)
    axes.set_title("Published: batches of 8 and 16")
    axes.spines[["top", "right"]].set_visible(False)
