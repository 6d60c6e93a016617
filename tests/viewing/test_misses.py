"""Crops of what detectors do differently."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from relaydet.data.loader import evaluation_samples
from relaydet.data.saved import load_dataset, open_sources
from relaydet.evaluation.error_analysis import FalseAlarm
from relaydet.evaluation.records import truth_of
from relaydet.evaluation.results import detections_of
from relaydet.viewing.draw import GREEN, ORANGE, RED, message_tile
from relaydet.viewing.misses import Side, alarms_sheet, misses_sheet


@pytest.fixture(scope="module")
def samples(tiny_demo):
    saved = load_dataset(tiny_demo, "demo_heldout")
    return evaluation_samples(saved.dataset, open_sources(saved))


def truth(samples, boxes):
    image = int(samples.image_ids_M[0])
    annotations = [
        {"id": i, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3]}
        for i, box in enumerate(boxes, start=1)
    ]
    images = [{"id": int(i)} for i in samples.image_ids_M]
    categories = [{"id": 1, "name": "person"}]
    return truth_of({"images": images, "annotations": annotations, "categories": categories})


def side(truth, name, found, score=0.9):
    detections = [
        {
            "image_id": truth.image_ids[0],
            "category_id": 1,
            "bbox": truth.boxes_N4[row].tolist(),
            "score": score,
        }
        for row in found
    ]
    found_N = np.isin(np.arange(len(truth.ids)), found)
    return Side(name, detections_of(detections, truth), found_N, 0.5)


def has(pixels: np.ndarray, colour) -> bool:
    return bool((pixels == colour).all(axis=2).sum() > 50)


def test_a_pair_shows_who_found_an_object(samples):
    data = truth(samples, [[10, 10, 12, 20]])
    sheet = misses_sheet(samples, data, side(data, "a", []), side(data, "b", [0]))
    pixels = np.asarray(sheet)
    left, right = pixels[:, : 6 + 144 + 3], pixels[:, 6 + 144 + 3 :]
    assert has(left, RED)
    assert not has(left, GREEN)
    assert has(right, GREEN)
    assert not has(right, RED)


def test_only_small_objects_that_one_alone_found_are_shown(samples):
    boxes = [[10, 10, 12, 20], [30, 10, 12, 20], [0, 0, 60, 90], [50, 10, 12, 20]]
    data = truth(samples, boxes)
    nothing = np.asarray(message_tile("no small object that only one of them found"))
    same = misses_sheet(samples, data, side(data, "a", [0, 1]), side(data, "b", [0, 1]))
    large = misses_sheet(samples, data, side(data, "a", [2]), side(data, "b", []))
    for sheet in (same, large):
        np.testing.assert_array_equal(np.asarray(sheet), nothing)


@pytest.mark.parametrize(
    ("first", "second", "count", "pairs"),
    [
        pytest.param(range(6), [], 24, 6, id="all that there are"),
        pytest.param(range(6), [], 4, 4, id="not more than asked"),
        pytest.param(range(3), range(3, 6), 4, 4, id="half and half"),
        pytest.param([0], range(1, 6), 4, 4, id="one has fewer"),
        pytest.param(range(1, 6), [0], 4, 4, id="the other has fewer"),
    ],
)
def test_so_many_pairs_are_shown(samples, first, second, count, pairs):
    data = truth(samples, [[4 * i, 5, 8 + i, 9] for i in range(6)])
    sheet = misses_sheet(samples, data, side(data, "a", first), side(data, "b", second), count)
    one = misses_sheet(samples, data, side(data, "a", [0]), side(data, "b", []), 1)
    rows, row = (sheet.height - 6) / (one.height - 6), one.width - 6
    assert rows == -(-pairs // 3)
    assert (sheet.width - 6) / row == min(pairs, 3)


def test_a_crop_at_the_edge_stays_in_the_image(samples):
    height, width = samples.read(0).shape[:2]
    for box in (
        [0, 0, 5, 5],
        [width - 5, height - 5, 5, 5],
        [-3, -3, 10, 10],
        [width + 9, 0, 4, 4],
    ):
        data = truth(samples, [box])
        sheet = misses_sheet(samples, data, side(data, "a", []), side(data, "b", [0]))
        assert sheet.height == 144 + 16 + 12


def alarm(likely: bool, score: float = 0.9) -> FalseAlarm:
    return FalseAlarm(0, 0, (20.0, 20.0, 15.0, 25.0), score, 0, 0.0, likely)


def test_false_alarms_are_drawn_beside_the_labelled_objects(samples):
    data = truth(samples, [[10, 10, 12, 20]])
    pixels = np.asarray(alarms_sheet(samples, data, [alarm(False)]))
    assert has(pixels, ORANGE)
    assert has(pixels, GREEN)
    likely = np.asarray(alarms_sheet(samples, data, [alarm(True)]))
    assert (likely[:22] != pixels[:22]).any(), "the caption says so"
    np.testing.assert_array_equal(likely[22:], pixels[22:])


@pytest.mark.parametrize("wide", [True, False], ids=["wide", "high"])
def test_all_sides_of_a_box_as_long_as_the_image_are_seen(samples, wide):
    height, width = samples.read(0).shape[:2]
    across, middle = min(height, width) // 4, min(height, width) // 3
    box = (4.0, middle, width - 8.0, across) if wide else (middle, 4.0, across, height - 8.0)
    large = FalseAlarm(0, 0, box, 0.9, 0, 0.0, False)
    pixels = np.asarray(alarms_sheet(samples, truth(samples, []), [large]))
    orange = (pixels == ORANGE).all(axis=2)
    sides = orange.sum(axis=0 if wide else 1)  # of the columns, or the rows
    length = np.flatnonzero(sides)
    assert sides[length[0]] > 20, "the near end is a line across, not two ends of lines"
    assert sides[length[-1]] > 20, "so is the far end"
    tile = pixels[22 : 22 + 216, 6 : 6 + 216]
    beyond = [bool((row == 235).all()) for row in (tile[0], tile[-1])]
    assert beyond == [wide, wide], "a wide one has grey above and below"


def test_the_caption_of_a_pair_tells_the_image(samples):
    """Two images with the same pixels beside each other differ in the caption alone."""
    sheets = []
    for offset in (0, 1000):
        data = truth(samples, [[10, 10, 12, 20]])
        moved = replace(data, image_ids=[image + offset for image in data.image_ids])
        images = _Renamed(samples, offset)
        sides = side(moved, "a", []), side(moved, "b", [0])
        sheets.append(np.asarray(misses_sheet(images, moved, *sides)))
    assert (sheets[0][:22] != sheets[1][:22]).any()
    np.testing.assert_array_equal(sheets[0][22:], sheets[1][22:])


def test_the_caption_names_the_category_only_where_there_are_several(samples):
    def caption(*names):
        data = truth(samples, [[10, 10, 12, 20]])
        data = replace(
            data, category_names=list(names), category_ids=list(range(1, 1 + len(names)))
        )
        sheet = misses_sheet(samples, data, side(data, "a", []), side(data, "b", [0]))
        return np.asarray(sheet)[:22]

    np.testing.assert_array_equal(caption("person"), caption("dog"))
    assert (caption("person", "car") != caption("dog", "car")).any()


class _Renamed:
    """The same images under other ids."""

    def __init__(self, samples, offset: int) -> None:
        self.image_ids_M = samples.image_ids_M + offset
        self.read = samples.read


def test_without_false_alarms_it_says_so(samples):
    data = truth(samples, [])
    np.testing.assert_array_equal(
        np.asarray(alarms_sheet(samples, data, [])), np.asarray(message_tile("no false alarm"))
    )
