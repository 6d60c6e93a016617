"""Charts, as pictures that any front end and any report can show."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import PowerNorm
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.text import Text
from PIL import Image

from relaydet.data.distributions import Distribution
from relaydet.viewing.draw import PALETTE
from relaydet.viewing.lettering import families, shortened

# Yellow is too light for a line on white.
_LINE_COLOURS = tuple(
    tuple(part / 255 for part in colour)
    for colour in (PALETTE[5], PALETTE[6], PALETTE[0], PALETTE[4], PALETTE[2], PALETTE[1])
)
_DASHES = ("solid", "dashed", "dotted", "dashdot")
_NAME_LENGTH = 30
_LEGEND_CHARACTERS = 160  # across a figure 12 inches wide
_HEAT_COLUMNS = 4
_HEAT_OBJECTS = 5  # in a cell, if a source's objects were spread evenly; fewer would be noise
_HEAT_CELLS = 24


def loss_chart(log: Sequence[Mapping[str, Any]], title: str) -> Image.Image:
    """Loss (all four summed, and each) and learning rate over the steps of a run.

    Args:
        log: lines of a run's log.jsonl.
        title: above the chart.
    """
    figure, axes = new_figure(title, "optimizer step", "loss")
    steps = [line["step"] for line in log]
    axes.plot(steps, [line["loss"] for line in log], color="black", label="sum")
    for name in log[0]["losses"] if log else []:
        values = [line["losses"].get(name) for line in log]
        axes.plot(steps, values, linewidth=1, label=name)
    axes.set_ylim(bottom=0)
    rates = axes.twinx()
    rates.plot(steps, [line["lr"] for line in log], color="silver", linestyle="--")
    rates.set_ylabel("learning rate (dashed)", color="gray")
    rates.set_ylim(bottom=0)
    # Below: in a young run the curves go through every corner.
    handles, names = axes.get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    return draw_picture(figure)


def distribution_charts(distributions: Mapping[str, Distribution]) -> dict[str, Image.Image]:
    """How the objects of each source are distributed, source over source.

    Args:
        distributions: by source.

    Returns:
        "distributions": object size, aspect ratio and objects per image side by side;
        "centres": where in the image the objects are, a panel for each source.
    """
    return {
        "distributions": _distributions_chart(distributions),
        "centres": _centres_chart(distributions),
    }


def _distributions_chart(distributions: Mapping[str, Distribution]) -> Image.Image:
    names = [f"{short_name(n)} ({len(d.aspects_K):,} objects)" for n, d in distributions.items()]
    columns = max(1, min(4, _LEGEND_CHARACTERS // (8 + max(map(len, names), default=0))))
    rows = -(-len(names) // columns)
    figure = Figure(figsize=(12, 3.9 + 0.22 * rows), layout="constrained")
    size, aspect, number = figure.subplots(1, 3)
    _size_panel(size, [d.sizes_K for d in distributions.values()])
    _aspect_panel(aspect, [d.aspects_K for d in distributions.values()])
    _number_panel(number, [d.objects_M for d in distributions.values()])
    for axes in (size, aspect, number):
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
    if names:
        legend_below(figure, names, columns)
    return draw_picture(figure)


def _size_panel(axes: Axes, values: Sequence[np.ndarray]) -> None:
    edges = np.linspace(0, 1, 41)
    _steps(axes, values, edges, lambda v: v)
    axes.set_xlim(0, 1)
    _label(axes, "Object size", "sqrt(box area / image area)", "objects (%)")


def _aspect_panel(axes: Axes, values: Sequence[np.ndarray]) -> None:
    # In octaves: twice as wide as high is as far from a square as twice as high as wide.
    _steps(axes, values, np.linspace(-4, 4, 49), np.log2)
    axes.set_xlim(-4, 4)
    axes.set_xticks(range(-4, 5, 2), ["1:16", "1:4", "1:1", "4:1", "16:1"])
    _label(axes, "Aspect ratio", "box width : height (log scale)", "objects (%)")


def _number_panel(axes: Axes, values: Sequence[np.ndarray]) -> None:
    there = [v for v in values if len(v)]
    top = int(max((np.percentile(v, 99) for v in there), default=0))
    last = min(max(top + 1, 10), 60)
    _steps(axes, values, np.arange(last + 2) - 0.5, lambda v: v)
    axes.set_xlim(-0.5, last + 0.5)
    ticks = [*range(0, last - last // 12, -(-last // 6)), last]
    more = any(v.max() > last for v in there)
    axes.set_xticks(ticks, [*map(str, ticks[:-1]), f"{last}+" if more else str(last)])
    _label(axes, "Objects per image", "objects in an image (crowds excluded)", "images (%)")


def _steps(
    axes: Axes,
    values: Sequence[np.ndarray],
    edges: np.ndarray,
    scale: Callable[[np.ndarray], np.ndarray],
) -> None:
    """A histogram of each source as a line; the outermost bins hold all that lies beyond."""
    inside = (edges[:-1] + edges[1:]) / 2
    for number, source_values in enumerate(values):
        if not len(source_values):
            continue
        clipped = np.clip(scale(source_values), inside[0], inside[-1])
        counts, _ = np.histogram(clipped, edges)
        percent = 100 * counts / len(source_values)
        axes.stairs(percent, edges, linewidth=1.6, alpha=0.9, **line_style(number))


def line_style(number: int) -> dict[str, Any]:
    """How a source or run is drawn: in a colour of its own, dashed once the colours are used up."""
    round_of_colours, place = divmod(number, len(_LINE_COLOURS))
    dashes = _DASHES[round_of_colours % len(_DASHES)]
    return {"color": _LINE_COLOURS[place], "linestyle": dashes}


def _centres_chart(distributions: Mapping[str, Distribution]) -> Image.Image:
    maps = [(short_name(name), _heat(d.centres_K2)) for name, d in distributions.items()]
    maps = maps or [("no source", None)]
    columns = min(len(maps), _HEAT_COLUMNS)
    rows = -(-len(maps) // columns)
    figure = Figure(figsize=(max(2.7 * columns + 1.6, 5), 2.8 * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True).ravel()
    brightest = max((m.max() for _, m in maps if m is not None), default=1.0)
    # By the square root: one source of a single spot would leave all others dark.
    colours, shown = PowerNorm(0.5, 0, brightest), None
    for axes, (name, heat) in zip(panels, maps, strict=False):
        write_name(axes.set_title("", fontsize="medium"), name)
        axes.set(xlim=(0, 1), ylim=(1, 0), aspect="equal", xticks=(0, 0.5, 1), yticks=(0, 0.5, 1))
        if heat is None:
            nothing = "no objects in images\nof known size"
            axes.text(0.5, 0.5, nothing, ha="center", va="center", color="gray")
        else:
            shown = axes.imshow(heat, "viridis", norm=colours, extent=(0.0, 1.0, 1.0, 0.0))
    for axes in panels[len(maps) :]:
        axes.set_visible(False)
    figure.suptitle("Centres of the objects")
    figure.supxlabel("x / image width", fontsize="medium")
    figure.supylabel("y / image height", fontsize="medium")
    if shown is not None:
        figure.colorbar(
            shown, ax=panels, label="density, 1 where spread evenly\n(square-root scale)"
        )
    return draw_picture(figure)


def _heat(centres_K2: np.ndarray) -> np.ndarray | None:
    """Objects in each cell of a grid over the image, 1 where they were spread evenly; from above.

    A source of few objects gets a coarser grid.
    """
    if not len(centres_K2):
        return None
    cells = int(np.clip(np.sqrt(len(centres_K2) / _HEAT_OBJECTS), 2, _HEAT_CELLS))
    x_K, y_K = np.clip(centres_K2, 0, 1).T
    counts, _, _ = np.histogram2d(y_K, x_K, cells, ((0, 1), (0, 1)))
    return counts * cells**2 / len(centres_K2)


def legend_below(figure: Figure, names: Sequence[str], columns: int) -> None:
    """Names below a chart, where they cover no curve, in the styles of their lines."""
    lines = [Line2D([], [], linewidth=2, **line_style(number)) for number in range(len(names))]
    numbers = [str(number) for number in range(len(names))]
    legend = figure.legend(lines, numbers, loc="outside lower center", ncols=columns, frameon=False)
    # matplotlib leaves out labels that begin with _; what the user chose is written afterwards.
    for text, name in zip(legend.get_texts(), names, strict=True):
        write_name(text, name)


def write_name(text: Text, name: str) -> None:
    """Write what a user chose: $ starts no formula, and any script is shown or spelt out."""
    text.set_text(name)
    text.set_parse_math(False)
    text.set_fontfamily(families(name))


def short_name(name: str) -> str:
    """A name that a legend has room for."""
    return shortened(name, _NAME_LENGTH) or "(no name)"


def _label(axes: Axes, title: str, x_label: str, y_label: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)


def new_figure(title: str, x_label: str, y_label: str) -> tuple[Figure, Axes]:
    """One chart of the usual size, 800 x 400 pixels."""
    # Figure without pyplot: no window system, no global state, safe in a worker thread.
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(x_label)
    axes.set_ylabel(y_label)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def draw_picture(figure: Figure) -> Image.Image:
    """The chart as a picture."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=100)
    return Image.open(buffer, formats=["PNG"]).convert("RGB")
