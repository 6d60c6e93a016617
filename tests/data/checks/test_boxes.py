"""Boxes that are none, reach out, are there twice, or have an unlikely size."""

from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw

from relaydet.data.checks.boxes import check_boxes
from relaydet.data.checks.structure import check_structure
from relaydet.data.checks.summing import MOST_FINDINGS
from relaydet.data.dataset import Annotation, Category, Dataset, Image, extra_fields, set_extra
from relaydet.data.formats import read_source

NAN, INF = float("nan"), float("inf")
CLAMPING = {"box-clamped", "box-outside", "box-empty"}

PERSON = Category(1, "person")


def image(id=1, name="a.png", width=100, height=80) -> Image:
    return Image(id, name, width, height)


def annotation(id=1, image_id=1, category_id=1, bbox=(1.0, 2.0, 3.0, 4.0), area=12.0, crowd=0):
    return Annotation(id, image_id, category_id, bbox, area, crowd)


def dataset(images=None, annotations=None, categories=None) -> Dataset:
    return Dataset(images or [image()], annotations or [annotation()], categories or [PERSON])


@pytest.mark.parametrize(
    ("bbox", "expected", "code"),
    [
        ((0.0, 0.0, 100.0, 80.0), (0.0, 0.0, 100.0, 80.0), None),
        ((0.1, 0.2, 99.9, 79.80000000000001), (0.1, 0.2, 99.9, 79.80000000000001), None),
        ((-10.0, 5.5, 30.0, 0.1), (0.0, 5.5, 20.0, 0.1), "box-clamped"),
        ((90.0, 70.0, 30.0, 30.0), (90.0, 70.0, 10.0, 10.0), "box-clamped"),
        ((-5.0, -5.0, 500.0, 500.0), (0.0, 0.0, 100.0, 80.0), "box-clamped"),
        ((200.0, 5.0, 3.0, 3.0), None, "box-outside"),
        ((-3.0, 5.0, 3.0, 3.0), None, "box-outside"),
        ((1.0, 2.0, 3.0, 0.0), None, "box-empty"),  # as in COCO train2017, annotation 918
        ((1.0, 2.0, -3.0, 4.0), None, "box-empty"),
        ((1.0, NAN, 3.0, 4.0), None, "box-empty"),
        ((1.0, 2.0, INF, 4.0), None, "box-empty"),
        ((1e308, 2.0, 1e308, 4.0), None, "box-empty"),
    ],
)
def test_boxes(bbox, expected, code):
    given = dataset(annotations=[annotation(bbox=bbox), annotation(2)])
    checked, findings = check_boxes(given, "src")
    clamping = [f.code for f in findings if f.code in CLAMPING]
    assert clamping == ([code] if code else [])
    assert [a.bbox for a in checked.annotations[:-1]] == ([expected] if expected else [])
    assert checked.annotations[-1] is given.annotations[1]
    if code == "box-clamped":
        assert extra_fields(checked.annotations[0]) == {"raw_bbox": list(bbox)}
        assert checked.annotations[0].area == 12.0
        assert extra_fields(given.annotations[0]) == {}
        assert (findings[0].image, findings[0].annotation) == ("a.png", 1)


def test_the_raw_box_of_the_source_is_not_replaced():
    reaching_out = annotation(bbox=(-1.0, 2.0, 3.0, 4.0))
    set_extra(reaching_out, raw_bbox=[0, 3, 3, 4])
    checked, _ = check_boxes(dataset(annotations=[reaching_out]), "src")
    assert extra_fields(checked.annotations[0]) == {"raw_bbox": [0, 3, 3, 4]}


def test_images_of_unknown_size_do_not_clamp():
    checked, findings = check_boxes(dataset([image(width=0)]), "src")
    assert (len(checked.annotations), findings) == (1, [])


BOX = (10.0, 10.0, 20.0, 30.0)


def with_mask(record: Annotation) -> Annotation:
    record.segmentation = Raw(b"[[1,2,3,4,5,6]]")
    return record


def with_pid(record: Annotation) -> Annotation:
    set_extra(record, pid=4)
    return record


def odd(annotations, **settings) -> tuple[list[int], list[tuple[str, int]]]:
    """Ids that stay, and the code and annotation of each finding; in two images."""
    data = dataset([image(), image(2, "b.png")], annotations, [PERSON, Category(2, "car")])
    checked, findings = check_boxes(data, "src", **settings)
    return [a.id for a in checked.annotations], [(f.code, f.annotation) for f in findings]


@pytest.mark.parametrize(
    ("second", "twice", "wholly"),
    [
        (annotation(2, bbox=BOX), True, True),
        # What another annotation knows besides would be lost.
        (annotation(2, bbox=BOX, area=599.0), True, False),
        (with_mask(annotation(2, bbox=BOX)), True, False),
        (with_pid(annotation(2, bbox=BOX)), True, False),
        (annotation(2, image_id=2, bbox=BOX), False, False),
        (annotation(2, category_id=2, bbox=BOX), False, False),
        (annotation(2, bbox=BOX, crowd=1), False, False),
        (annotation(2, bbox=(10.0, 10.0, 20.0, 30.000000000000004)), False, False),
        (annotation(2, bbox=(10.0, 10.0, 30.0, 20.0)), False, False),
    ],
)
def test_a_box_that_is_there_twice(second, twice, wholly):
    boxes = [annotation(bbox=BOX), second]
    found = [("box-duplicate", 2)] if twice else []
    assert odd(boxes) == ([1, 2], found)
    assert odd(boxes, drop_duplicates=True) == ([1] if wholly else [1, 2], found)


def test_of_many_equal_boxes_the_first_stays():
    boxes = [annotation(number, bbox=(0.0, -0.0, 9.0, 9.0)) for number in (1, 2, 3)]
    boxes[1] = annotation(2, bbox=(-0.0, 0.0, 9.0, 9.0))
    assert odd(boxes, drop_duplicates=True)[0] == [1]


def test_boxes_that_are_dropped_anyway_are_not_duplicates():
    outside = [annotation(number, bbox=(500.0, 0.0, 9.0, 9.0)) for number in (1, 2)]
    assert odd(outside)[1] == [("box-outside", 1), ("box-outside", 2)]


def test_ids_of_images_may_be_text_or_huge():
    for one, other in (("a", "b"), (10**15, -1), (3, -1), ("1", 1)):
        data = dataset(
            [image(one, width=50), image(other, "b.png")],
            [annotation(1, one, bbox=(30.0, 5.0, 40.0, 5.0), area=1.0)],
        )
        checked, _ = check_boxes(data, "src")
        assert checked.annotations[0].bbox == (30.0, 5.0, 20.0, 5.0)


@pytest.mark.parametrize(
    ("bbox", "area", "crowd", "codes"),
    [
        (BOX, 600.0, 0, []),
        (BOX, 606.0, 0, []),  # rounded
        (BOX, 606.1, 0, ["area-mismatch"]),
        (BOX, 0.0, 0, ["area-mismatch"]),
        (BOX, -1.0, 0, ["area-mismatch"]),
        (BOX, NAN, 0, ["area-mismatch"]),
        (BOX, 0.0, 1, []),
        ((5.0, 5.0, 2.0, 2.0), 4.0, 0, []),
        ((5.0, 5.0, 1.99, 2.0), 3.0, 0, ["box-tiny"]),
        ((5.0, 5.0, 60.0, 3.0), 90.0, 0, []),
        ((5.0, 5.0, 60.1, 3.0), 90.0, 0, ["box-thin"]),
        ((5.0, 5.0, 3.0, 60.1), 90.0, 0, ["box-thin"]),
        ((98.5, 5.0, 30.0, 31.0), 90.0, 0, ["box-clamped", "box-tiny", "box-thin"]),
        ((0.0, 0.0, 99.0, 80.0), 90.0, 0, []),
        ((0.0, 0.0, 99.1, 80.0), 90.0, 0, ["box-whole-image"]),
        ((-9.0, -9.0, 999.0, 999.0), 90.0, 0, ["box-clamped", "box-whole-image"]),
        ((0.0, 0.0, 100.0, 80.0), 90.0, 1, []),
    ],
)
def test_unlikely_sizes_are_told_and_kept(bbox, area, crowd, codes):
    kept, found = odd([annotation(bbox=bbox, area=area, crowd=crowd)])
    assert (kept, [code for code, _ in found]) == ([1], codes)


def test_no_box_is_the_whole_of_an_image_of_unknown_size():
    data = dataset([image(width=0)], [annotation(bbox=(0.0, 0.0, 900.0, 80.0))])
    assert check_boxes(data, "src")[1] == []


def test_too_many_findings_are_summed_up():
    count = MOST_FINDINGS + 7
    tiny = [annotation(i, bbox=(float(i % 90), i / 100, 1.0, 1.0), area=1.0) for i in range(count)]
    checked, findings = check_boxes(dataset(annotations=tiny), "src")
    assert len(checked.annotations) == count
    assert len(findings) == MOST_FINDINGS + 1
    assert "7 more are box-tiny" in findings[-1].message
    assert (findings[-1].image, findings[-1].annotation) == (None, None)


numbers = st.floats(allow_nan=True, allow_infinity=True) | st.floats(-200, 200)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(numbers, numbers, numbers, numbers, numbers, st.integers(0, 1))),
    st.booleans(),
)
def test_whatever_the_numbers_every_box_left_lies_in_its_image(rows, drop):
    boxes = [
        annotation(number, bbox=row[:4], area=row[4], crowd=row[5])
        for number, row in enumerate(rows)
    ]
    once, _ = check_boxes(Dataset([image()], boxes, [PERSON]), "src", drop)
    for a in once.annotations:
        x, y, width, height = a.bbox
        assert x >= 0
        assert y >= 0
        assert width > 0
        assert height > 0
        assert x + width <= 100 + 1e-5
        assert y + height <= 80 + 1e-5
        assert math.isfinite(x + y + width + height)
    again, findings = check_boxes(once, "src")
    assert again.annotations == once.annotations or any(math.isnan(row[4]) for row in rows)
    assert not CLAMPING & {f.code for f in findings}


@pytest.mark.parametrize(
    ("folder", "split"), [("coco128", "train2017"), ("coco_mini", "train2017")]
)
def test_few_boxes_of_real_photos_are_odd(real_source, folder, split):
    source = real_source(folder, split)
    sound, of_structure = check_structure(read_source(source)[0], source.name)
    checked, findings = check_boxes(sound, source.name)
    assert of_structure == []
    assert len(checked.annotations) == len(sound.annotations)
    assert {f.severity for f in findings if f.code != "box-clamped"} <= {"info"}
    assert len(findings) < 0.05 * len(sound.annotations)
