"""Charts, as pictures that any front end and any report can show."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image


def loss_chart(log: Sequence[Mapping[str, Any]], title: str) -> Image.Image:
    """Loss (all four summed, and each) and learning rate over the steps of a run.

    Args:
        log: lines of a run's log.jsonl.
        title: above the chart.
    """
    figure, axes = _figure(title, "optimizer step", "loss")
    steps = [line["step"] for line in log]
    axes.plot(steps, [line["loss"] for line in log], color="black", label="sum")
    for name in log[0]["losses"] if log else []:
        values = [line["losses"][name] for line in log]
        axes.plot(steps, values, linewidth=1, label=name)
    axes.set_ylim(bottom=0)
    rates = axes.twinx()
    rates.plot(steps, [line["lr"] for line in log], color="silver", linestyle="--")
    rates.set_ylabel("learning rate (dashed)", color="gray")
    rates.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="upper right")
    return _picture(figure)


def precision_recall_chart(curves: Mapping[str, np.ndarray], title: str) -> Image.Image:
    """Precision over recall at IoU 0.5.

    Args:
        curves: by name of the run, precision at the recalls 0, 0.01, ..., 1.
        title: above the chart.
    """
    figure, axes = _figure(title, "recall", "precision at IoU 0.5")
    for name, precision_R in curves.items():
        axes.plot(np.linspace(0, 1, len(precision_R)), precision_R, label=name)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.legend(frameon=False, loc="lower left")
    return _picture(figure)


def size_chart(sizes: Mapping[str, np.ndarray], title: str) -> Image.Image:
    """Distribution of the relative object size, source over source.

    Args:
        sizes: by source, sqrt(box area / image area) of each object, 0..1.
        title: above the chart.
    """
    figure, axes = _figure(title, "object size: sqrt(box area / image area)", "share of objects")
    bins = np.linspace(0, 1, 41).tolist()
    for name, values in sizes.items():
        weights = np.full(len(values), 1 / max(1, len(values)))
        axes.hist(values, bins=bins, weights=weights, histtype="step", linewidth=2, label=name)
    axes.set_xlim(0, 1)
    axes.legend(frameon=False, loc="upper right")
    return _picture(figure)


def _figure(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    # Figure without pyplot: no window system, no global state, safe in a worker thread.
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _picture(figure: Figure) -> Image.Image:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer).convert("RGB")
