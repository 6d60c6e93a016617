"""A browser over the images of a merged dataset: filters, previous, next, random.

A thin layer of ipywidgets, 7 or 8, over `viewing.pages`. Where they are missing, or where nobody
is there to click, it shows a sheet of samples.
"""

from __future__ import annotations

import base64
import importlib
import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image as Pillow

from relaydet.console import markup, shown
from relaydet.data.dataset import Dataset
from relaydet.data.findings import Finding
from relaydet.data.images import Images
from relaydet.errors import RelayError
from relaydet.randomness import keyed_bits
from relaydet.viewing.pages import SIZES, Catalogue, Filters, Pages, catalogue
from relaydet.viewing.pictures import png
from relaydet.viewing.samples import overview_sheet

WIDGET_VIEW = "application/vnd.jupyter.widget-view+json"
_RANDOM = 0x62726F77  # first part of the random button's keys: no other draw uses it
_NO_WIDGETS = "To browse all images: %pip install ipywidgets, then start the notebook again."


@dataclass(frozen=True)
class Controls:
    """The widgets of a browser; the value of a filter is 0 for all, or the position of a choice."""

    source: Any
    category: Any
    size: Any
    code: Any
    previous: Any
    next: Any
    random: Any
    counter: Any
    picture: Any
    text: Any
    """File name, contents, licence and findings; of an image that cannot be read, why."""


def browse(
    dataset: Dataset,
    images: Mapping[str, Images],
    findings: Sequence[Finding] = (),
    title: str = "",
    clickable: bool = True,
) -> Browser:
    """Make a browser; a notebook shows it where it is the last value of a cell.

    An image is read when it is shown, and not before.

    Args:
        dataset: a merged dataset.
        images: where each source's images are.
        findings: what reading, merging and checking noticed.
        title: above the browser.
        clickable: somebody may click; else it is the sheet alone.
    """
    index = catalogue(dataset, findings)
    return Browser(
        index,
        Pages(dataset, images, index),
        lambda note: overview_sheet(dataset, images, note=note),
        title,
        clickable,
    )


class Browser:
    """Shows one image at a time, of those that the filters leave.

    Shown by a notebook it is both widgets, for a live front end, and a sheet of samples as a PNG,
    for whatever shows the notebook later on.
    """

    def __init__(
        self,
        index: Catalogue,
        pages: Pages,
        sheet: Callable[[str], Pillow.Image],
        title: str = "",
        clickable: bool = True,
    ) -> None:
        """Start at the first image; see `browse`."""
        self._index, self._pages, self._draw_sheet, self._title = index, pages, sheet, title
        choices = (index.places.sources, index.categories, SIZES, tuple(index.rows_of_code))
        self._choices: tuple[tuple[str, ...], ...] = choices
        self._rows = index.select(Filters())
        self._place = self._draws = 0
        self.controls: Controls | None = None
        self._box: Any = None
        widgets = _ipywidgets()
        self._note = "" if widgets else _NO_WIDGETS
        if widgets is not None and clickable:
            self.controls = _make_controls(widgets, index, self._choices)
            self._box = _arrange(widgets, self.controls, title)
            self._listen(self.controls)
            self._show(self.controls)

    @property
    def rows(self) -> np.ndarray:
        """Rows of `dataset.images` that the filters leave: int64 [K]."""
        return self._rows

    @property
    def row(self) -> int | None:
        """Row of the image that is shown; None where the filters leave none."""
        return int(self._rows[self._place]) if len(self._rows) else None

    def _listen(self, controls: Controls) -> None:
        for control in (controls.source, controls.category, controls.size, controls.code):
            control.observe(lambda change: self._filter(controls), names="value")
        controls.previous.on_click(lambda button: self._go(controls, self._place - 1))
        controls.next.on_click(lambda button: self._go(controls, self._place + 1))
        controls.random.on_click(lambda button: self._go(controls, self._random_place()))

    def _filter(self, controls: Controls) -> None:
        """Select anew, and stay at the image that is shown if it is still there."""
        values = (controls.source, controls.category, controls.size, controls.code)
        source, category, size, code = (
            names[control.value - 1] if control.value else None
            for names, control in zip(self._choices, values, strict=True)
        )
        before = self.row
        self._rows = self._index.select(Filters(source, category, size, code))
        still = np.flatnonzero(self._rows == (-1 if before is None else before))
        self._go(controls, int(still[0]) if len(still) else 0)

    def _go(self, controls: Controls, place: int) -> None:
        """Show the image at a place of the selection, which begins again at its end."""
        self._place = place % max(len(self._rows), 1)
        self._show(controls)

    def _random_place(self) -> int:
        """A place other than this one, the same in every session after as many clicks."""
        self._draws += 1
        others = max(len(self._rows) - 1, 1)
        return self._place + 1 + int(keyed_bits(_RANDOM, self._draws) % np.uint64(others))

    def _show(self, controls: Controls) -> None:
        row, total = self.row, len(self._rows)
        controls.counter.value = f"{self._place + 1 if total else 0:,} of {total:,} images"
        for button in (controls.previous, controls.next, controls.random):
            button.disabled = total < 2
        if row is None:
            picture, text = b"", "No image passes these filters; choose fewer."
        else:
            picture, text = self._page(row)
        if picture:
            controls.picture.value = picture
        controls.picture.layout.display = None if picture else "none"
        controls.text.value = text

    def _page(self, row: int) -> tuple[bytes, str]:
        text = self._pages.describe(row)
        try:
            return _jpeg(self._pages.render(row)), text
        except RelayError as error:
            return b"", f"{markup(str(error))}<br>{text}"

    @cached_property
    def _sheet(self) -> str:
        return base64.b64encode(png(self._draw_sheet(self._note))).decode("ascii")

    def __repr__(self) -> str:
        total, sources = len(self._index.places.source_M), len(self._index.places.sources)
        title = f"{self._title}: " if self._title else ""
        note = f" {self._note}" if self._note else ""
        return f"{title}a browser over {total:,} images of {sources} sources.{note}"

    def _repr_mimebundle_(self, **_choice: Any) -> dict[str, Any]:
        """What a notebook shows and keeps; front ends choose the first kind that they know."""
        bundle: dict[str, Any] = {"text/plain": repr(self), "image/png": self._sheet}
        if self._box is not None:
            # Like the widget's own, which ipywidgets 7 and 8 spell differently. Format:
            # https://github.com/jupyter-widgets/ipywidgets/blob/main/packages/schema/messages.md
            model = {"version_major": 2, "version_minor": 0, "model_id": self._box.model_id}
            bundle[WIDGET_VIEW] = model
        return bundle


def _ipywidgets() -> Any:
    """The package, or None; relaydet works without it."""
    try:
        return importlib.import_module("ipywidgets")
    except ImportError:
        return None


def _make_controls(
    widgets: Any, index: Catalogue, choices: tuple[tuple[str, ...], ...]
) -> Controls:
    per_source = np.bincount(index.places.source_M, minlength=len(choices[0]))
    counted = [f"{name} ({n:,})" for name, n in zip(choices[0], per_source, strict=True)]
    codes = [f"{code} ({len(rows):,})" for code, rows in index.rows_of_code.items()]
    return Controls(
        source=_dropdown(widgets, "Source", "all", counted),
        category=_dropdown(widgets, "Category", "any", choices[1]),
        size=_dropdown(widgets, "Object size", "any", choices[2]),
        code=_dropdown(widgets, "Finding", "with or without", codes),
        previous=_button(widgets, "Previous", "arrow-left"),
        next=_button(widgets, "Next", "arrow-right"),
        random=_button(widgets, "Random", "random"),
        counter=widgets.Label(),
        # A box would stretch the picture to its own width.
        picture=widgets.Image(
            format="jpeg", layout={"max_width": "100%", "align_self": "flex-start"}
        ),
        text=widgets.HTML(),
    )


def _dropdown(widgets: Any, name: str, every: str, choices: Sequence[str]) -> Any:
    options = [(shown(label), position) for position, label in enumerate([every, *choices])]
    return widgets.Dropdown(options=options, value=0, description=name, disabled=not choices)


def _button(widgets: Any, name: str, icon: str) -> Any:
    return widgets.Button(description=name, icon=icon, tooltip=f"{name} image of these")


def _arrange(widgets: Any, controls: Controls, title: str) -> Any:
    """Everything in one box, in the order that the Tab key goes; colours are the theme's own."""
    filters = [controls.source, controls.category, controls.size, controls.code]
    buttons = [controls.previous, controls.next, controls.random, controls.counter]
    wrap = {"flex_flow": "row wrap"}
    rows = [
        widgets.HBox(filters, layout=wrap),
        widgets.HBox(buttons, layout=wrap),
        controls.picture,
        controls.text,
    ]
    return widgets.VBox([widgets.HTML(f"<b>{markup(title)}</b>"), *rows] if title else rows)


def _jpeg(picture: Pillow.Image) -> bytes:
    """A picture as bytes that are quick to send; colours of thin lines are kept."""
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=90, subsampling=0)
    return buffer.getvalue()
