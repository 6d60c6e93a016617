"""Charts: pictures of one size, also when there is little or nothing to show."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from relaydet.data.distributions import Distribution
from relaydet.evaluation.assignment import Calibration, SizeBin
from relaydet.evaluation.error_analysis import KINDS
from relaydet.viewing.charts import distribution_charts, loss_chart
from relaydet.viewing.evaluation_charts import (
    calibration_chart,
    errors_chart,
    precision_recall_chart,
    size_chart,
    study_chart,
)
from relaydet.viewing.pictures import Picture, for_page, png


def line(step: int, **losses: float) -> dict:
    return {"step": step, "loss": sum(losses.values()), "losses": losses, "lr": 0.1}


LOG = [line(10, objectness=0.5, box_reg=0.25), line(20, objectness=0.25, box_reg=0.125)]


BINS = [SizeBin(0, 0.1, 0, 0), SizeBin(0.1, 0.2, 3, 1), SizeBin(0.2, 0.5, 90, 60)]
NAN = float("nan")
CALIBRATION = Calibration((0.1, NAN, 0.8), (0.2, NAN, 0.7), (5, 0, 9), 0.1)


def study_row(name: str, size: int) -> dict:
    return {
        "training_set": name,
        "batch_size": size,
        "AP50": {"value": 0.5, "low": 0.4, "high": 0.55},
    }


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
        pytest.param(size_chart, {}, {"a": BINS}, {"a": BINS, "$b$": BINS[::-1]}, id="sizes"),
        pytest.param(
            errors_chart,
            {},
            {"a": dict.fromkeys(KINDS, 0.0)},
            {"a": dict.fromkeys(KINDS, 0.1), "b": dict.fromkeys(KINDS, 0.2)},
            id="errors",
        ),
        pytest.param(
            calibration_chart, {}, {"a": CALIBRATION}, dict.fromkeys("abc", CALIBRATION), id="right"
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


def test_a_studys_bars_are_as_high_as_their_numbers():
    rows = [study_row(name, size) for size in (8, 16) for name in ("street", "$x$", "all")]
    low = study_chart([{**row, "AP50": {"value": 0.1, "low": 0, "high": 0.2}} for row in rows], "t")
    high = study_chart(rows, "t")
    assert high.size == low.size == study_chart([], "t").size == (800, 400)
    assert ink(study_chart([], "t")) < ink(low) < ink(high)


def test_the_same_chart_is_the_same_file():
    assert png(loss_chart(LOG, "t")) == png(loss_chart(LOG, "t"))


def test_a_page_takes_large_pictures_as_jpeg_and_charts_as_they_are():
    chart = Picture(png(loss_chart(LOG, "t")), "a chart")
    assert for_page(chart) == chart.png
    noise = np.random.default_rng(0).integers(0, 255, (40, 30, 3), np.uint8)
    photo = Picture(png(Image.fromarray(noise).resize((900, 1200))), "photos")
    small = for_page(photo)
    assert len(small) < len(photo.png) / 2
    with Image.open(io.BytesIO(small)) as opened:
        assert (opened.format, opened.size) == ("JPEG", (900, 1200))


def test_a_picture_is_shown_by_a_notebook():
    picture = Picture(png(Image.new("RGB", (3, 2), (1, 2, 3))), "a caption")
    shown = Image.open(io.BytesIO(picture._repr_png_()))
    assert (shown.format, shown.size, shown.getpixel((0, 0))) == ("PNG", (3, 2), (1, 2, 3))


def objects(count: int, images: int = 4, size: float = 0.3) -> Distribution:
    """So many equal objects, all in the upper left corner of the first image."""
    per_image = np.zeros(images, dtype=np.int64)
    per_image[:1] = count
    return Distribution(
        np.full(count, size), np.full(count, 0.5), np.full((count, 2), 0.1), per_image
    )


ODD_NAMES = ["$\\frac$", "_hidden", "日本語の名前", "a" * 300, "a\nb", "\ud800", ""]


@pytest.mark.parametrize(
    "sources",
    [
        pytest.param({}, id="none"),
        pytest.param({"a": objects(0)}, id="no objects"),
        pytest.param({"a": objects(0, images=0)}, id="no images"),
        pytest.param({"a": objects(1)}, id="one object"),
        pytest.param({"a": objects(5), "b": objects(0)}, id="one of two empty"),
        pytest.param({f"source {n}": objects(9) for n in range(9)}, id="many"),
        pytest.param({name: objects(9) for name in ODD_NAMES}, id="odd names"),
        pytest.param({"a": objects(10_000)}, id="a crowded image"),
        pytest.param({"a": objects(3, size=1.0), "b": objects(3, size=7.0)}, id="beyond the axis"),
    ],
)
@pytest.mark.filterwarnings("error")
def test_distributions_of_any_sources_are_drawn(sources):
    charts = distribution_charts(sources)
    assert list(charts) == ["distributions", "centres"]
    assert charts["distributions"].width == 1200
    assert all(chart.mode == "RGB" and ink(chart) > 1000 for chart in charts.values())


def coloured(chart: Image.Image) -> int:
    """Pixels that are neither black, grey nor white."""
    pixels = np.asarray(chart).astype(int)
    return int((pixels.max(axis=2) - pixels.min(axis=2) > 40).sum())


def test_each_source_has_a_line_and_a_panel():
    one, two = (
        distribution_charts({"a": objects(50)}),
        distribution_charts({"a": objects(50), "b": objects(50, size=0.7)}),
    )
    assert coloured(two["distributions"]) > 1.2 * coloured(one["distributions"])
    assert coloured(two["centres"]) > 1.5 * coloured(one["centres"])


def test_the_heat_map_is_the_right_way_up():
    charts = [
        np.asarray(distribution_charts({"a": Distribution(*arrays)})["centres"]).astype(int)
        for arrays in (
            (np.ones(99), np.ones(99), np.tile((0.1, 0.9), (99, 1)), np.ones(99, np.int64)),
            (np.ones(99), np.ones(99), np.tile((0.9, 0.1), (99, 1)), np.ones(99, np.int64)),
        )
    ]
    brighter = charts[0].sum(axis=2) - charts[1].sum(axis=2)
    rows, columns = np.nonzero(brighter > 200)
    other_rows, other_columns = np.nonzero(brighter < -200)
    assert rows.min() > other_rows.max(), "y counts downwards"
    assert columns.max() < other_columns.min(), "x counts to the right"
