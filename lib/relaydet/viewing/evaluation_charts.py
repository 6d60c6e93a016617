"""Charts of an evaluation: what detectors reach, by what, and what it costs them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from relaydet.evaluation.assignment import Calibration, SizeBin
from relaydet.evaluation.error_analysis import KINDS
from relaydet.viewing.charts import (
    draw_picture,
    legend_below,
    line_style,
    new_figure,
    short_name,
    write_name,
)

_FEW = 5
"""Objects in a bin below which its recall is drawn faintly: it says little."""


def precision_recall_chart(curves: Mapping[str, np.ndarray], title: str) -> Image.Image:
    """Precision over recall at IoU 0.5.

    Args:
        curves: by name of the run, precision at the recalls 0, 0.01, ..., 1.
        title: above the chart.
    """
    figure, axes = new_figure(title, "recall", "precision at IoU 0.5")
    for number, precision_R in enumerate(curves.values()):
        axes.plot(np.linspace(0, 1, len(precision_R)), precision_R, **line_style(number))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    _legend(figure, list(curves))
    return draw_picture(figure)


def size_chart(bins: Mapping[str, Sequence[SizeBin]], title: str) -> Image.Image:
    """Recall by relative size, a line a detector; the numbers of objects are below.

    Args:
        bins: by name of the run; all of the same edges.
        title: above the chart.
    """
    figure, axes = new_figure(title, "sqrt(box area / image area)", "share found")
    some = [b for b in next(iter(bins.values()), []) if b.objects]
    for number, every in enumerate(bins.values()):
        mine = [b for b in every if b.objects]
        recall = [b.recall if b.objects >= _FEW else np.nan for b in mine]
        axes.plot(range(len(mine)), recall, marker="o", **line_style(number))
        faint = [np.nan if b.objects >= _FEW else b.recall for b in mine]
        axes.plot(range(len(mine)), faint, "o", alpha=0.3, color=line_style(number)["color"])
    labels = [f"{b.low:g} to {b.high:g}\n{b.objects:,} objects" for b in some]
    axes.set_xticks(range(len(some)), labels, fontsize="x-small")
    axes.set_ylim(0, 1.02)
    _legend(figure, list(bins))
    return draw_picture(figure)


def errors_chart(gains: Mapping[str, Mapping[str, float]], title: str) -> Image.Image:
    """How much AP50 each kind of error costs, a bar a detector.

    Args:
        gains: by name of the run, and kind of error.
        title: above the chart.
    """
    figure, axes = new_figure(title, "kind of error", "AP50 that mending them gains")
    width = 0.8 / max(1, len(gains))
    for number, mine in enumerate(gains.values()):
        x = np.arange(len(KINDS)) + (number - (len(gains) - 1) / 2) * width
        colour = line_style(number)["color"]
        axes.bar(x, [mine[kind] for kind in KINDS], 0.9 * width, color=colour)
    axes.set_xticks(range(len(KINDS)), KINDS)
    axes.set_ylim(bottom=0)
    _legend(figure, list(gains))
    return draw_picture(figure)


def calibration_chart(calibrations: Mapping[str, Calibration], title: str) -> Image.Image:
    """The share that is right over the score; on the dotted line a score is a probability.

    Args:
        calibrations: by name of the run.
        title: above the chart.
    """
    figure, axes = new_figure(title, "score", "share of detections that are right")
    axes.plot([0, 1], [0, 1], color="gray", linestyle="dotted")
    for number, mine in enumerate(calibrations.values()):
        axes.plot(mine.mean_score_B, mine.share_right_B, marker="o", **line_style(number))
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    _legend(figure, list(calibrations))
    return draw_picture(figure)


def study_chart(rows: Sequence[Mapping[str, Any]], title: str) -> Image.Image:
    """AP50 with its interval: a group of bars a training set, a bar a batch size.

    Args:
        rows: {training_set, batch_size, AP50: {value, low, high}} of each run.
        title: above the chart.
    """
    figure, axes = new_figure(title, "trained on", "AP50")
    sets = list(dict.fromkeys(row["training_set"] for row in rows))
    sizes = list(dict.fromkeys(row["batch_size"] for row in rows))
    width = 0.8 / max(1, len(sizes))
    for number, size in enumerate(sizes):
        mine = [row for row in rows if row["batch_size"] == size]
        shift = (number - (len(sizes) - 1) / 2) * width
        x = [sets.index(row["training_set"]) + shift for row in mine]
        ends = ("value", "low", "high")
        value, low, high = (np.array([row["AP50"][end] for row in mine]) for end in ends)
        errors = [np.maximum(value - low, 0), np.maximum(high - value, 0)]
        colour = line_style(number)["color"]
        axes.bar(x, value, 0.9 * width, yerr=errors, capsize=4, color=colour)
        for place, height, top in zip(x, value, high, strict=True):
            axes.text(place, top + 0.02, f"{height:.3f}", ha="center", fontsize="small")
    axes.set_xticks(range(len(sets)), sets)
    for text, name in zip(axes.get_xticklabels(), sets, strict=True):
        write_name(text, short_name(name))
    axes.set_ylim(0, 1.12)
    _legend(figure, [f"batch {size}" for size in sizes])
    return draw_picture(figure)


def _legend(figure: Figure, names: Sequence[str]) -> None:
    """The names below the chart, where they cover no curve."""
    if names:
        longest = max(len(short_name(name)) for name in names)
        legend_below(figure, [short_name(name) for name in names], max(1, 95 // (longest + 8)))
