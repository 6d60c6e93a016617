"""Every error is of one kind, and mending it gains what COCO says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_score import FOUND, one_object, random_case

from relaydet.evaluation.assignment import assign
from relaydet.evaluation.error_analysis import (
    KINDS,
    _ap50,
    false_alarms,
    found_by,
    overlaps,
    split_errors,
)
from relaydet.evaluation.records import detections_of, truth_of
from relaydet.evaluation.score import score

OBJECT = one_object()["annotations"][0]
TWO = [{"id": 1, "name": "person"}, {"id": 2, "name": "car"}]
IMAGE = [{"id": 1, "width": 200, "height": 200}]


def scene(*objects, found):
    """Ground truth with these objects on one image, what was detected, and the assignment."""
    annotations = [{**OBJECT, "id": i, **o} for i, o in enumerate(objects, start=1)]
    truth = truth_of(one_object(images=IMAGE, annotations=annotations, categories=TWO))
    detections = detections_of([{**FOUND, **d} for d in found], truth)
    return truth, detections, assign(truth, detections)


HALF = {"bbox": [10, 10, 40, 16]}  # IoU 0.4
FAR = {"bbox": [120, 120, 30, 30]}


@pytest.mark.parametrize(
    ("found", "kinds", "missed"),
    [
        pytest.param([{}], [None], 0, id="right"),
        pytest.param([HALF], ["localisation"], 0, id="badly placed"),
        pytest.param([{"category_id": 2}], ["class"], 0, id="taken for a car"),
        pytest.param([{"category_id": 2, **HALF}], ["both"], 1, id="badly placed and for a car"),
        pytest.param([{}, {"score": 0.5}], [None, "duplicate"], 0, id="twice"),
        pytest.param([FAR], ["background"], 1, id="far away"),
        pytest.param([], [], 1, id="nothing"),
    ],
)
def test_kinds(found, kinds, missed):
    truth, detections, assignment = scene({}, found=found)
    split = split_errors(truth, detections, assignment)
    assert [KINDS[kind] if kind >= 0 else None for kind in split.kind_D] == kinds
    assert split.missed_N.tolist() == [bool(missed)]
    assert split.counts["missed"] == missed


@pytest.mark.parametrize(
    ("objects", "found", "kind", "gain"),
    [
        pytest.param([{}], [HALF], "localisation", 1.0, id="a box put right"),
        pytest.param([{}], [{"category_id": 2}], "class", 1.0, id="a class put right"),
        pytest.param(
            [{}], [{"score": 0.5}, {**FAR, "score": 0.9}], "background", 0.5, id="an alarm dropped"
        ),
        pytest.param(
            [{}, {"bbox": [60, 60, 40, 40]}],
            [{}, {"score": 0.8}, {"bbox": [60, 60, 40, 40], "score": 0.5}],
            "duplicate",
            (1 - 2 / 3) * 50 / 101,
            id="a second one dropped",
        ),
        pytest.param(
            [{}, {"bbox": [60, 60, 40, 40]}], [{}], "missed", 1 - 51 / 101, id="a missed one"
        ),
    ],
)
def test_what_mending_gains(objects, found, kind, gain):
    split = split_errors(*scene(*objects, found=found))
    assert split.gains[kind] == pytest.approx(gain, abs=1e-9)
    others = {name: value for name, value in split.gains.items() if name != kind}
    assert others == pytest.approx(dict.fromkeys(others, 0.0), abs=1e-9)


def test_of_two_bad_boxes_one_is_put_right_and_one_dropped():
    split = split_errors(*scene({}, found=[HALF, {**HALF, "score": 0.95}]))
    assert split.counts["localisation"] == 2
    assert split.gains["localisation"] == pytest.approx(1.0)


def test_what_lies_on_a_crowd_is_no_error():
    crowd = {"iscrowd": 1, "bbox": [100, 100, 80, 80]}
    split = split_errors(*scene({}, crowd, found=[{}, FAR]))
    assert sum(split.counts.values()) == 0


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10_000))
def test_the_counts_add_up(seed):
    ground_truth, detections = random_case(seed, categories=1 + seed % 3)
    truth = truth_of(ground_truth)
    found = detections_of(detections, truth)
    assignment = assign(truth, found)
    split = split_errors(truth, found, assignment)
    errors = sum(count for kind, count in split.counts.items() if kind != "missed")
    assert errors == assignment.wrong_D.sum()
    assert not (split.missed_N & assignment.found_N(truth, found, 0)).any()
    assert set(split.gains) == set(KINDS)
    right, counts = assignment.right_D, assignment.counts_D
    plain = _ap50(truth, found, right, counts, found.category_D)
    reference = score(truth, found, "pycocotools").metrics["AP50"]
    assert plain == pytest.approx(max(reference, 0), abs=1e-12)


def test_found_by_one_both_or_neither():
    sides = (10, 10, 50, 200)
    objects = [{"bbox": [0, 0, s, s], "area": s * s} for s in sides] + [{"iscrowd": 1}]
    truth, *_ = scene(*objects, found=[])
    first = np.array([True, True, False, False, True])
    second = np.array([True, False, True, False, True])
    result = found_by(truth, first, second)
    assert result.counts["all"] == {"both": 1, "first": 1, "second": 1, "neither": 1}
    assert result.counts["small"] == {"both": 1, "first": 1, "second": 0, "neither": 0}
    assert result.counts["medium"] == {"both": 0, "first": 0, "second": 1, "neither": 0}
    assert result.counts["large"] == {"both": 0, "first": 0, "second": 0, "neither": 1}
    assert not result.first_N[-1], "a crowd is found by nobody"


@pytest.mark.parametrize(
    ("change", "likely"),
    [
        pytest.param({}, True, id="sure, alone, and as large as people are"),
        pytest.param({"score": 0.7}, False, id="not sure"),
        pytest.param({"bbox": [30, 30, 40, 40]}, False, id="on an object"),
        pytest.param({"bbox": [100, 100, 3, 3]}, False, id="smaller than any person"),
        pytest.param({"bbox": [60, 60, 140, 140]}, False, id="larger than any person"),
        pytest.param({"category_id": 2}, False, id="a car, of which there is none"),
    ],
)
def test_which_false_alarms_may_be_objects_without_a_label(change, likely):
    objects = [{}, {"bbox": [10, 60, 20, 20]}]
    truth, found, assignment = scene(
        *objects, found=[{"bbox": [120, 120, 30, 30], "score": 0.97, **change}]
    )
    (alarm,) = false_alarms(truth, found, assignment)
    assert alarm.likely_unlabelled is likely


def test_false_alarms_come_by_score():
    given = [{**FAR, "score": s} for s in (0.2, 0.9, 0.5)]
    truth, found, assignment = scene({}, found=[{}, *given])
    alarms = false_alarms(truth, found, assignment, count=2)
    assert [alarm.score for alarm in alarms] == [0.9, 0.5]
    assert [alarm.place for alarm in alarms] == [2, 3]
    assert false_alarms(*scene({}, found=[])) == []


def test_overlaps():
    first = np.array([[0, 0, 10, 10], [5, 5, 0, 0]], float)
    second = np.array([[0, 0, 10, 10], [5, 0, 10, 10], [20, 20, 5, 5], [0, 0, 0, 0]], float)
    assert overlaps(first, second).tolist() == [[1, 1 / 3, 0, 0], [0, 0, 0, 0]]
