"""Every error is of one kind, and mending it gains what COCO says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools import mask
from test_score import FOUND, one_object, random_case

from relaydet.evaluation.assignment import assign
from relaydet.evaluation.error_analysis import (
    KINDS,
    SIZES,
    _ap50,
    false_alarms,
    found_by,
    overlaps,
    split_errors,
)
from relaydet.evaluation.records import truth_of
from relaydet.evaluation.results import detections_of
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


@pytest.mark.parametrize(
    ("second", "kind"),
    [(HALF, "localisation"), ({"category_id": 2}, "class")],
    ids=["badly placed", "taken for a car"],
)
def test_beside_a_right_one_the_wrong_one_is_dropped(second, kind):
    """To make it right too would find an object twice, in place of the one that is missed."""
    objects = [{}, {"bbox": [150, 150, 40, 40]}]
    split = split_errors(*scene(*objects, found=[{"score": 0.95}, {**second, "score": 0.5}]))
    assert split.counts[kind] == 1
    assert split.gains[kind] == 0


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
    assert assignment.right_D.sum() + errors == assignment.counts_D.sum()
    seen_N = assignment.found_N(truth, found, 0)
    assert not (split.missed_N & seen_N).any()
    sides = found_by(truth, seen_N, split.missed_N).counts
    objects = int((~truth.crowd_N).sum())
    assert sum(sides["all"].values()) == objects
    assert sum(sum(sides[size].values()) for size in SIZES) == objects
    assert set(split.gains) == set(KINDS)
    right, counts = assignment.right_D, assignment.counts_D
    plain = _ap50(truth, found, right, counts, found.category_D)
    reference = score(truth, found, "pycocotools").metrics["AP50"]
    assert plain == pytest.approx(max(reference, 0), abs=1e-12)


def plain_kinds(truth, found, assignment):
    """TIDE's rules, one detection at a time; and the objects that none of them explains."""
    kinds, explained = [], set()
    for place in range(len(found)):
        if not assignment.wrong_D[place]:
            kinds.append(None)
            continue
        rows = np.flatnonzero((truth.image_N == found.image_D[place]) & ~truth.crowd_N).tolist()
        boxes = [found.boxes_D4[[place]], truth.boxes_N4[rows]]
        ious = mask.iou(*boxes, [0] * len(rows))[0].tolist() if rows else []
        same = [truth.category_N[n] == found.category_D[place] for n in rows]
        own = max([(iou, -n) for iou, n, s in zip(ious, rows, same, strict=True) if s] or [(0, 1)])
        other = max(
            [(iou, -n) for iou, n, s in zip(ious, rows, same, strict=True) if not s] or [(0, 1)]
        )
        if 0.1 <= own[0] < 0.5:
            kinds.append("localisation")
            explained.add(-own[1])
        elif other[0] >= 0.5:
            kinds.append("class")
            explained.add(-other[1])
        elif own[0] >= 0.5:
            kinds.append("duplicate")
        else:
            kinds.append("background" if max(own[0], other[0]) <= 0.1 else "both")
    return kinds, explained


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000))
def test_the_kinds_are_those_of_the_rules_taken_one_by_one(seed):
    """Random cases with many boxes that are moved, and many of another class."""
    ground_truth, detections = random_case(seed, categories=1 + seed % 3)
    rng = np.random.default_rng(seed)
    for detection in list(detections):
        x, y, w, h = detection["bbox"]
        right, down = rng.uniform(-0.6, 0.6, 2)
        moved = {"bbox": [x + right * w, y + down * h, w, h], "score": float(rng.random())}
        other = {"category_id": int(rng.integers(1, 3 + seed % 3))}
        detections.append({**detection, **moved, **(other if rng.random() < 0.5 else {})})
    truth = truth_of(ground_truth)
    found = detections_of(detections, truth)
    assignment = assign(truth, found)
    split = split_errors(truth, found, assignment)
    kinds, explained = plain_kinds(truth, found, assignment)
    assert [KINDS[kind] if kind >= 0 else None for kind in split.kind_D] == kinds
    seen_N = assignment.found_N(truth, found, 0)
    for n in range(len(truth.ids)):
        assert split.missed_N[n] == (not truth.crowd_N[n] and not seen_N[n] and n not in explained)


@pytest.mark.parametrize(
    ("found", "gains"),
    [
        pytest.param(
            [HALF, {"category_id": 2, "score": 0.5}],
            {"localisation": 1.0, "class": 0.5},
            id="badly placed scores more",
        ),
        pytest.param(
            [{**HALF, "score": 0.5}, {"category_id": 2}],
            {"localisation": 1.0, "class": 1.0},
            id="taken for a car scores more",
        ),
    ],
)
def test_each_kind_is_mended_as_if_there_were_no_other(found, gains):
    """TIDE would mend the one with the higher score alone, whichever kind is asked for."""
    split = split_errors(*scene({}, found=found))
    assert {kind: gain for kind, gain in split.gains.items() if gain} == pytest.approx(gains)


@pytest.mark.parametrize(
    ("objects", "found", "counts"),
    [
        pytest.param([], [], {}, id="nothing"),
        pytest.param([{}], [], {"missed": 1}, id="nothing detected"),
        pytest.param([], [{}], {"background": 1}, id="no objects"),
        pytest.param([{"iscrowd": 1}], [], {}, id="a crowd only"),
        pytest.param([{"iscrowd": 1}], [{}, FAR], {"background": 1}, id="a crowd and two boxes"),
    ],
)
def test_with_little_there(objects, found, counts):
    split = split_errors(*scene(*objects, found=found))
    assert {kind: count for kind, count in split.counts.items() if count} == counts
    assert set(split.gains.values()) == {0.0}


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


@pytest.mark.parametrize(
    ("x", "likely"),
    [
        pytest.param(147, False, id="two fifths of it on a crowd"),
        pytest.param(158, True, id="a fifteenth of it"),
    ],
)
def test_beside_a_crowd_a_false_alarm_is_likely_one_of_it(x, likely):
    """It lies too little on the crowd to count for nothing."""
    objects = [{}, {"bbox": [10, 60, 20, 20]}, {"iscrowd": 1, "bbox": [100, 100, 60, 60]}]
    truth, found, assignment = scene(*objects, found=[{"bbox": [x, 120, 30, 30], "score": 0.97}])
    (alarm,) = false_alarms(truth, found, assignment)
    assert alarm.overlap == 0, "a crowd is no object"
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
