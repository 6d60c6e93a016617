"""A dataset drawn: what is on the sheet, and the sizes of its objects."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from PIL import Image as PillowImage

from relaydet.data.dataset import Annotation, Category, Dataset, Image, set_extra
from relaydet.data.images import open_images
from relaydet.data.saved import load_dataset
from relaydet.viewing.draw import PALETTE
from relaydet.viewing.samples import offset_sheet, overview_sheet, sample_sheet


@pytest.fixture
def folders(tmp_path):
    for number in range(1, 6):
        PillowImage.new("RGB", (100, 50)).save(tmp_path / f"{number}.png")
    return {"a": open_images(str(tmp_path))}


def dataset(*boxes) -> Dataset:
    """Five images of source a; boxes are (image, category, crowd)."""
    images = [Image(i, f"a/{i}.png", 100, 50, source="a") for i in range(1, 6)]
    annotations = [
        Annotation(n, image, category, (10.0, 10.0, 50.0, 25.0), 1250.0, iscrowd=crowd)
        for n, (image, category, crowd) in enumerate(boxes, start=1)
    ]
    return Dataset(images, annotations, [Category(1, "person"), Category(2, "car")])


def has(sheet: PillowImage.Image, colour) -> bool:
    return bool((np.asarray(sheet) == colour).all(axis=2).any())


def test_boxes_have_the_colour_of_their_category(folders):
    sheet = sample_sheet(dataset((1, 2, 0)), folders, "a")
    assert has(sheet, PALETTE[1])
    assert not has(sheet, PALETTE[0])


def test_crowds_are_hatched(folders):
    plain = sample_sheet(dataset((1, 1, 0)), folders, "a")
    crowd = sample_sheet(dataset((1, 1, 1)), folders, "a")
    coloured = [(np.asarray(s) == PALETTE[0]).all(axis=2).sum() for s in (plain, crowd)]
    assert coloured[1] > 1.5 * coloured[0]


def tiles(sheet: PillowImage.Image) -> int:
    """Number of images on a sheet of these black ones, which are drawn 320 x 160."""
    black = (np.asarray(sheet) == 0).all(axis=2)
    count = 0
    for left_edge in range(6, sheet.width - 300, 326):
        runs = np.flatnonzero(np.diff(black[:, left_edge].astype(int), prepend=0, append=0))
        count += int((np.diff(runs)[::2] == 160).sum())
    return count


@pytest.mark.parametrize(
    ("boxes", "count", "shown"),
    [
        pytest.param([], 8, 0, id="nothing annotated"),
        pytest.param([(3, 1, 0)], 8, 1, id="fewer than asked for"),
        pytest.param([(i, 1, 0) for i in range(1, 6)], 3, 3, id="a choice"),
        pytest.param([(i, 1, 0) for i in range(1, 6)], 8, 5, id="two rows"),
        pytest.param([(i, 1, 0) for i in range(1, 6)], 1, 1, id="one"),
    ],
)
def test_so_many_images_are_shown(folders, boxes, count, shown):
    assert tiles(sample_sheet(dataset(*boxes), folders, "a", count)) == shown


def test_a_source_without_images_is_an_empty_sheet(folders):
    assert not has(sample_sheet(dataset((1, 1, 0)), folders, "b"), PALETTE[0])


def test_the_legend_names_what_is_there(folders):
    whole = dataset((1, 1, 0))
    one_category = msgspec.structs.replace(whole.categories[0])
    alone = Dataset(whole.images, whole.annotations, [one_category])
    heights = [
        sample_sheet(data, folders, "a").height
        for data in (alone, whole, dataset((1, 1, 0), (1, 2, 0)), dataset((1, 1, 1)))
    ]
    assert heights[0] < heights[1], "one category needs no legend"
    sheets = [
        sample_sheet(dataset((1, 1, 0), (1, second, crowd)), folders, "a")
        for second, crowd in ((1, 0), (2, 0), (1, 1))
    ]
    legends = [
        np.asarray(sheet.crop((0, sheet.height - 24, 320, sheet.height))) for sheet in sheets
    ]
    assert has(PillowImage.fromarray(legends[0]), PALETTE[0])
    assert not has(PillowImage.fromarray(legends[0]), PALETTE[1])
    assert has(PillowImage.fromarray(legends[1]), PALETTE[1])
    assert (legends[0] != legends[2]).any(), "the crowd"


def test_a_sheet_of_a_missing_image_says_which(folders, tmp_path):
    (tmp_path / "1.png").unlink()
    before = np.asarray(sample_sheet(dataset((2, 1, 0)), folders, "a"))
    after = np.asarray(sample_sheet(dataset((1, 1, 0)), folders, "a"))
    assert after.shape != before.shape
    assert (after < 128).any(), "text"


def of_sources(**counts: int) -> Dataset:
    """A dataset with so many images of each source, all of one folder's 1.png."""
    images = [
        Image(f"{source}{n}", f"{source}/1.png", 100, 50, source=source)
        for source, count in counts.items()
        for n in range(count)
    ]
    return Dataset(images, [], [Category(1, "person")])


@pytest.mark.parametrize(
    ("counts", "count", "shown"),
    [
        ({"a": 3}, 8, 3),
        ({"a": 100}, 8, 8),
        ({"a": 100, "b": 100, "c": 100}, 8, 8),
        ({"a": 100, "b": 1}, 8, 5),
        ({f"source{n}": 2 for n in range(20)}, 8, 8),
        ({}, 8, 0),
    ],
    ids=str,
)
def test_an_overview_takes_of_every_source_as_many(folders, counts, count, shown):
    everywhere = dict.fromkeys(counts, folders["a"])
    assert tiles(overview_sheet(of_sources(**counts), everywhere, count)) == shown


def test_an_overview_prefers_images_with_objects(folders):
    assert has(overview_sheet(dataset((4, 1, 0)), folders, 1), PALETTE[0])


def test_an_overview_goes_on_without_an_image(folders, tmp_path):
    (tmp_path / "2.png").write_bytes(b"no image")
    whole = dataset()
    assert tiles(overview_sheet(whole, folders)) == 4
    assert tiles(overview_sheet(whole, {})) == 0


def test_a_note_is_written_on_the_overview(folders):
    plain, noted = (overview_sheet(dataset(), folders, note=note) for note in ("", "a note"))
    assert noted.height > plain.height


def with_raw(*stored) -> Dataset:
    """An image for each stored box, read as (10, 10, 50, 25)."""
    whole = dataset(*((n, 1, 0) for n in range(1, len(stored) + 1)))
    for annotation, raw in zip(whole.annotations, stored, strict=True):
        if raw is not None:
            set_extra(annotation, raw_bbox=raw)
    return whole


MOVED = [11, 11, 50, 25]


@pytest.mark.parametrize(
    ("stored", "shown"),
    [
        pytest.param([], False, id="no boxes"),
        pytest.param([None], False, id="nothing stored"),
        pytest.param([[10, 10, 50, 25]], False, id="not moved"),
        pytest.param([[10, 10, 60, 25]], False, id="clamped, not moved"),
        pytest.param([[11, 11, 50]], False, id="three numbers"),
        pytest.param([["11", 11, 50, 25]], False, id="text"),
        pytest.param([{"x": 1}], False, id="no list"),
        pytest.param([MOVED], True, id="moved"),
        pytest.param([None, "?", MOVED, [9.5, 9.5, 50, 25]], True, id="some moved"),
    ],
)
def test_an_offset_is_shown_where_there_is_one(folders, stored, shown):
    sheet = offset_sheet(with_raw(*stored), folders, "a")
    assert (sheet is not None) == shown
    assert offset_sheet(with_raw(*stored), folders, "b") is None


def outline(pixels: np.ndarray, colour) -> tuple[int, int]:
    """Left and upper edge of what is drawn in a colour."""
    rows, columns = np.nonzero((pixels == colour).all(axis=2))
    return int(columns.min()), int(rows.min())


def test_the_offset_is_eight_times_enlarged(folders, tmp_path):
    grey = np.full((50, 100, 3), 90, np.uint8)
    grey[10:35, 10:60] = 200  # just what the box holds
    PillowImage.fromarray(grey).save(tmp_path / "1.png")
    pixels = np.asarray(offset_sheet(with_raw([13, 12, 50, 25]), folders, "a"))
    pixels = pixels[:-30]  # without the legend
    middle = int(np.flatnonzero((pixels[100] == 255).all(axis=1))[6])
    left, right = pixels[:, :middle], pixels[:, middle + 6 :]
    as_read, as_stored = outline(left, PALETTE[0]), outline(right, PALETTE[6])
    assert as_stored[1] - as_read[1] == 2 * 8
    assert as_stored[0] - (as_read[0] - 6) == 3 * 8
    bright = outline(left, (200, 200, 200))
    assert (bright[0] - as_read[0], bright[1] - as_read[1]) == (2, 2), "the outline is around it"


def test_an_image_that_became_smaller_is_shown_all_the_same(folders, tmp_path):
    PillowImage.new("RGB", (4, 4)).save(tmp_path / "1.png")
    assert offset_sheet(with_raw(MOVED), folders, "a") is not None


def test_so_many_boxes_are_shown(folders):
    sheets = [offset_sheet(with_raw(*[MOVED] * 5), folders, "a", count) for count in (1, 3, 4, 9)]
    widths, heights = zip(*(sheet.size for sheet in sheets), strict=True)
    assert widths[0] < widths[1] == widths[2] == widths[3]
    assert heights[0] == heights[1] < heights[2] == heights[3]


def test_the_demo_shows_its_offset(tiny_demo):
    saved = load_dataset(tiny_demo, "demo")
    folders = {name: open_images(location) for name, location in saved.locations.items()}
    sheet = offset_sheet(saved.dataset, folders, "search")
    assert has(sheet, PALETTE[0])
    assert has(sheet, PALETTE[6])
    assert offset_sheet(saved.dataset, folders, "street") is None
