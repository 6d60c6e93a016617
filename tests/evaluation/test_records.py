"""Ground truth and detections as arrays: the same from any form, and odd things told."""

from __future__ import annotations

import json
import re

import numpy as np
import pytest

from relaydet.errors import RelayError
from relaydet.evaluation.records import truth_of
from relaydet.evaluation.results import detections_of

TRUTH = {
    "images": [
        {"id": 7, "width": 100, "height": 50, "source": "b", "file_name": "b/7.jpg"},
        {"id": 3, "width": 64, "height": 64, "source": "a", "file_name": "a/3.jpg"},
    ],
    "annotations": [
        {"id": 1, "image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4], "area": 12, "iscrowd": 1},
        {"id": 2, "image_id": 3, "category_id": 5, "bbox": [5, 6, 7, 8], "area": 56.5},
        {"id": 3, "image_id": 8, "category_id": 5, "bbox": [0, 0, 1, 1], "area": 1},
        {"id": 4, "image_id": 3, "category_id": 6, "bbox": [0, 0, 1, 1], "area": 1},
    ],
    "categories": [{"id": 9, "name": "car"}, {"id": 5, "name": "person"}],
}
FOUND = [
    {"image_id": 7, "category_id": 9, "bbox": [1, 2, 3, 4], "score": 0.25},
    {"image_id": 3, "category_id": 5, "bbox": [5.5, 6, 7, 8], "score": 1},
]


def as_bytes(value) -> bytes:
    return json.dumps(value).encode()


@pytest.mark.parametrize("given", [TRUTH, as_bytes(TRUTH)], ids=["a dict", "bytes"])
def test_rows_follow_the_ids(given):
    truth = truth_of(given)
    assert (truth.image_ids, truth.category_ids) == ([3, 7], [5, 9])
    assert (truth.sources, truth.file_names) == (["a", "b"], ["a/3.jpg", "b/7.jpg"])
    assert truth.category_names == ["person", "car"]
    assert truth.sides_M2.tolist() == [[64, 64], [100, 50]]
    assert (truth.image_N.tolist(), truth.category_N.tolist()) == ([1, 0], [1, 0])
    assert truth.boxes_N4.tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert (truth.area_N.tolist(), truth.crowd_N.tolist()) == ([12, 56.5], [True, False])
    assert truth.ids == [1, 2], "what is of no listed image or category counts for nothing"


@pytest.mark.parametrize(
    "given",
    [
        FOUND,
        as_bytes(FOUND),
        [{**d, "image_id": float(d["image_id"])} for d in FOUND],
        [{**d, "bbox": np.array(d["bbox"]), "score": np.float32(d["score"])} for d in FOUND],
        [{**d, "area": 3, "segmentation": None} for d in FOUND],
    ],
    ids=["dicts", "bytes", "ids with a point", "numpy", "more keys"],
)
def test_the_same_detections_from_any_form(given):
    found = detections_of(given, truth_of(TRUTH))
    assert (found.image_D.tolist(), found.category_D.tolist()) == ([1, 0], [1, 0])
    assert found.boxes_D4.tolist() == [[1, 2, 3, 4], [5.5, 6, 7, 8]]
    assert found.score_D.tolist() == [0.25, 1]
    assert found.findings == ()


@pytest.mark.parametrize(
    "extra",
    [{}, {"note": '"}, {"'}, {"by": {"model": "b"}, "also": 1}, {"points": [{"x": 1}, {"x": 2}]}],
    ids=["plain", "text that looks like an end", "a record inside", "a list of records inside"],
)
@pytest.mark.parametrize("indent", [None, 1])
def test_a_long_file_is_read_as_a_short_one(extra, indent):
    rng = np.random.default_rng(0)
    results = [
        {
            "image_id": (7, 3)[d % 2],
            "bbox": box,
            "category_id": (9, 5)[d % 3 % 2],
            **extra,
            "score": s,
        }
        for d, (*box, s) in enumerate(rng.random((9_000, 5)).tolist())
    ]
    text = json.dumps(results, indent=indent).encode()
    assert len(text) > 1_000_000
    truth = truth_of(TRUTH)
    whole, read = detections_of(results, truth), detections_of(text, truth)
    for field in ("image_D", "category_D", "boxes_D4", "score_D"):
        np.testing.assert_array_equal(getattr(read, field), getattr(whole, field))


@pytest.mark.parametrize("missing", [1, 2, 30])
def test_a_long_file_that_is_cut_off(missing):
    text = as_bytes(FOUND * 9_000)[:-missing]
    with pytest.raises(RelayError, match="not valid JSON"):
        detections_of(text, truth_of(TRUTH))


def test_ids_may_be_words():
    images = [{"id": "b"}, {"id": "a"}]
    annotation = {"id": 1, "image_id": "b", "category_id": 1, "bbox": [0, 0, 1, 1], "area": 1}
    categories = [{"id": 1, "name": "x"}]
    truth = truth_of({"images": images, "annotations": [annotation], "categories": categories})
    assert (truth.image_ids, truth.image_N.tolist()) == (["a", "b"], [1])


def test_a_part_of_the_images():
    truth = truth_of(TRUTH)
    part = truth.of_images(np.array([1]))
    assert (part.image_ids, part.sources, part.ids) == ([7], ["b"], [1])
    assert part.image_N.tolist() == [0]
    found = detections_of(FOUND, truth).of_images(np.array([1]), 2)
    assert (found.image_D.tolist(), found.score_D.tolist()) == ([0], [0.25])


@pytest.mark.parametrize(
    ("change", "finding"),
    [
        pytest.param({"category_id": 77}, r"1 detections are of categories .* \(id 77\)", id="77"),
        pytest.param({"score": 7.5}, r"1 scores are not between 0 and 1 \(0.25 to 7.5\)", id="7.5"),
        pytest.param({"score": -1}, r"1 scores are not .* \(-1 to 0.25\)", id="-1"),
    ],
)
def test_what_is_odd_is_counted_and_no_reason_to_stop(change, finding):
    found = detections_of([FOUND[0], {**FOUND[1], **change}], truth_of(TRUTH))
    (told,) = found.findings
    assert re.match(finding, told)
    assert len(found) == (1 if "category_id" in change else 2)


def changed(**change):
    return [FOUND[0], {**FOUND[1], **change}]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(changed(bbox=[1, 2, -3, 4]), "Detection 1 has a negative side", id="negative"),
        pytest.param(changed(bbox=[1, 2, 1e999, 4]), "1 has a box .* no number", id="infinite"),
        pytest.param(changed(score=float("nan")), "1 has a box or score", id="score NaN"),
        pytest.param(changed(image_id=8), "Detection 1 is of image 8", id="another image"),
        pytest.param(as_bytes(changed(score=float("nan"))), "1 has a box or score", id="NaN"),
        pytest.param(b"[{]", "not valid JSON", id="no JSON"),
        pytest.param(b"{}", "no list", id="an object"),
        pytest.param(b'"person"', "no list", id="a word"),
        pytest.param(b"[" * 200_000, "not valid JSON", id="deep"),
        pytest.param(b'[{"image_id": "\xff"}]', "not valid JSON", id="no UTF-8"),
        pytest.param(changed(image_id=[7]), "Detection 1 is not a COCO result", id="id a list"),
        pytest.param(changed(category_id={}), "Detection 1 is not a COCO result", id="id a dict"),
        pytest.param(changed(image_id=10**400), "Detection 1 is of image 10+ \\.\\.\\.", id="long"),
        pytest.param(changed(score=[1]), "Detection 1 is not a COCO result", id="score a list"),
        pytest.param(changed(score=10**400), "Detection 1 is not a COCO result", id="score long"),
        pytest.param(changed(bbox="1234"), "Detection 1 is not a COCO result", id="bbox a text"),
        pytest.param(changed(bbox=[1] * 99), "1 has a box .* 1, 1.* \\.\\.\\.\\.$", id="99 sides"),
        pytest.param([7], "Detection 0 is not a COCO result", id="a number"),
    ],
)
def test_detections_that_cannot_be_used(given, message):
    with pytest.raises(RelayError, match=message):
        detections_of(given, truth_of(TRUTH))


def test_the_file_is_named():
    with pytest.raises(RelayError, match=r"^mine\.json: Detection 1 is of image 8"):
        detections_of(changed(image_id=8), truth_of(TRUTH), "mine.json")


LONG = 10**400


@pytest.mark.parametrize(
    ("section", "change", "message"),
    [
        ("annotations", {"bbox": [0, 0, float("inf"), 1]}, "annotation 2 has a bbox .* not finite"),
        ("annotations", {"area": float("nan")}, "annotation 2 has a bbox or area .* not finite"),
        ("annotations", {"bbox": [0, 0, -2, 1]}, "annotation 2 has a bbox with a negative side"),
        ("annotations", {"bbox": [0, 0, 1]}, r"annotations\[1\] has bbox \[0, 0, 1\]"),
        ("annotations", {"bbox": [0, 0, LONG, 1]}, r"annotations\[1\] has bbox \[0, 0, 10+"),
        ("annotations", {"bbox": "1234"}, r"annotations\[1\] has bbox '1234', .* four numbers"),
        ("annotations", {"area": [4]}, r"annotations\[1\] has area \[4\], which is not a number"),
        ("annotations", {"area": LONG}, r"annotations\[1\] has area 10+ \.\.\., .* not a number"),
        ("annotations", {"id": None}, r"annotations\[1\] has id None"),
        ("annotations", {"image_id": [3]}, r"annotations\[1\] has image_id \[3\]"),
        ("annotations", {"category_id": {}}, r"annotations\[1\] has category_id {}"),
        ("annotations", {"iscrowd": "0"}, r"annotations\[1\] has iscrowd '0', .* not 0 or 1"),
        ("annotations", {"iscrowd": [1]}, r"annotations\[1\] has iscrowd \[1\]"),
        ("images", {"id": "x"}, "images have ids of several kinds"),
        ("images", {"id": [1]}, r"images\[1\] has id \[1\]"),
        ("images", {"id": 0.5}, r"images\[1\] has id 0.5"),
        ("images", {"id": 2**63}, "images.* id 9223372036854775808, which is not a whole number"),
        ("images", {"id": LONG}, r"images.* id 10+ \.\.\., which is not a whole number"),
        ("images", {"width": [64]}, r"images\[1\] has width \[64\], which is not a number"),
        ("images", {"height": LONG}, r"images\[1\] has height 10+ \.\.\."),
        ("images", {"width": -64}, "image 3 has a negative width or height"),
        ("categories", {"name": ["x"]}, r"categories\[1\] has name \['x'\], .* not a text"),
        ("categories", {"name": None}, r"categories\[1\] has name None"),
        ("categories", {"id": [5]}, r"categories\[1\] has id \[5\]"),
    ],
)
@pytest.mark.parametrize("form", [lambda truth: truth, as_bytes], ids=["a dict", "bytes"])
def test_ground_truth_that_cannot_be_used(section, change, message, form):
    records = list(TRUTH[section])
    records[1] = {**records[1], **change}
    with pytest.raises(RelayError, match=f"^g.json: The ground truth's {message}"):
        truth_of(form({**TRUTH, section: records}), "g.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": 3}, "has no list of 'images'"),
        ({"annotations": {}}, "has no list of 'annotations'"),
        ({"categories": ["person"]}, r"has no 'id' in categories\[0\]"),
        ({"images": [{}]}, r"has no 'id' in images\[0\]"),
    ],
)
def test_ground_truth_of_another_form(change, message):
    with pytest.raises(RelayError, match=f"^g.json: The ground truth {message}"):
        truth_of({**TRUTH, **change}, "g.json")


@pytest.mark.parametrize(
    "data", [b"images", b"[" * 200_000, b'{"images": "\xff"}', b"", b'{"a": ' * 200_000]
)
def test_ground_truth_that_is_no_json(data):
    with pytest.raises(RelayError, match=r"g\.json: not valid JSON"):
        truth_of(data, "g.json")


def test_values_that_files_in_the_wild_have_are_taken():
    images = [{**image, "width": None, "source": 5} for image in TRUTH["images"]]
    annotations = [{**a, "iscrowd": None, "id": a["id"] + 0.5} for a in TRUTH["annotations"]]
    categories = [{**category, "name": 3} for category in TRUTH["categories"]]
    truth = truth_of({"images": images, "annotations": annotations, "categories": categories})
    assert truth.sides_M2[:, 0].tolist() == [0, 0]
    assert (truth.sources, truth.category_names) == (["", ""], ["3", "3"])
    assert (truth.ids, truth.crowd_N.tolist()) == ([1.5, 2.5], [False, False])


def test_ids_at_the_ends_of_64_bits_find_their_rows():
    images = [{"id": 1 - 2**63}, {"id": 2**63 - 1}]
    annotations = [{**TRUTH["annotations"][0], "image_id": 2**63 - 1}]
    truth = truth_of({**TRUTH, "images": images, "annotations": annotations})
    assert truth.image_N.tolist() == [1]
