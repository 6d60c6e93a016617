"""Charts: pictures of one size, also when there is little or nothing to show."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from relaydet.viewing.charts import loss_chart, precision_recall_chart, size_chart
from relaydet.viewing.pictures import Picture, png


def line(step: int, **losses: float) -> dict:
    return {"step": step, "loss": sum(losses.values()), "losses": losses, "lr": 0.1}


LOG = [line(10, objectness=0.5, box_reg=0.25), line(20, objectness=0.25, box_reg=0.125)]


def ink(picture: Image.Image) -> int:
    """Pixels that are not white."""
    return int((np.asarray(picture) < 250).any(axis=2).sum())


@pytest.mark.parametrize(
    ("chart", "nothing", "little", "much"),
    [
        pytest.param(loss_chart, [], LOG[:1], LOG, id="loss"),
        pytest.param(
            precision_recall_chart,
            {},
            {"a": np.zeros(101)},
            {"a": np.zeros(101), "<b> & $c$": np.linspace(1, 0, 101)},
            id="precision and recall",
        ),
        pytest.param(
            size_chart,
            {},
            {"street": np.array([])},
            {"street": np.array([]), "search": np.array([0.1, 0.5, 0.9])},
            id="sizes",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore:No artists with labels")
def test_a_chart_shows_what_is_there(chart, nothing, little, much):
    pictures = [chart(data, "A title") for data in (nothing, little, much)]
    assert {picture.size for picture in pictures} == {(800, 400)}
    assert {picture.mode for picture in pictures} == {"RGB"}
    amounts = [ink(picture) for picture in pictures]
    assert amounts[0] < amounts[2]
    assert amounts[1] < amounts[2]


def test_the_same_chart_is_the_same_file():
    assert png(loss_chart(LOG, "t")) == png(loss_chart(LOG, "t"))


def test_a_picture_is_shown_by_a_notebook():
    picture = Picture(png(Image.new("RGB", (3, 2), (1, 2, 3))), "a caption")
    shown = Image.open(io.BytesIO(picture._repr_png_()))
    assert (shown.format, shown.size, shown.getpixel((0, 0))) == ("PNG", (3, 2), (1, 2, 3))
