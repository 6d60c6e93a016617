"""Which detection found which object, and what can be said at any score."""

from __future__ import annotations

import contextlib
import io
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval
from test_score import FAST, FOUND, one_object, random_case

from relaydet.evaluation.assignment import (
    assign,
    best_operating_point,
    calibration,
    operating_point,
    recall_by_size,
)
from relaydet.evaluation.records import truth_of
from relaydet.evaluation.results import detections_of


def case(seed: int):
    ground_truth, detections = random_case(seed)
    truth = truth_of(ground_truth)
    return truth, detections_of(detections, truth), ground_truth, detections


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("seed", range(6))
def test_every_engine_assigns_alike(seed, engine):
    truth, found, *_ = case(seed)
    ours, reference = assign(truth, found, engine), assign(truth, found, "pycocotools")
    np.testing.assert_array_equal(ours.object_D, reference.object_D)
    np.testing.assert_array_equal(ours.counts_D, reference.counts_D)
    assert ours.right_D.any()
    assert ours.wrong_D.any()


@pytest.mark.parametrize("seed", range(6))
def test_it_is_what_pycocotools_matches_at_any_score(seed):
    """Leaving out what scores less changes nothing above, and recall is pycocotools' own."""
    truth, found, ground_truth, detections = case(seed)
    assignment = assign(truth, found)
    for least in (0.0, 0.3, 0.5, 0.8):
        kept = [dict(d) for d in detections if d["score"] >= least]
        with contextlib.redirect_stdout(io.StringIO()):
            coco = COCO()
            coco.dataset = ground_truth
            coco.createIndex()
            evaluation = COCOeval(coco, coco.loadRes(kept), "bbox")
            evaluation.params.areaRng, evaluation.params.areaRngLbl = [[0, 1e10]], ["all"]
            evaluation.params.iouThrs = np.array([0.5])
            evaluation.evaluate()
        entries = [entry for entry in evaluation.evalImgs if entry]
        right = sum(np.count_nonzero((e["dtMatches"] > 0) & (e["dtIgnore"] == 0)) for e in entries)
        wrong = sum(np.count_nonzero((e["dtMatches"] == 0) & (e["dtIgnore"] == 0)) for e in entries)
        point = operating_point(truth, found, assignment, least)
        assert (point.right, point.wrong) == (right, wrong)
        assert point.right == assignment.found_N(truth, found, least).sum()


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000))
def test_the_best_score_is_the_best_of_all(seed):
    truth, found, *_ = case(seed)
    assignment = assign(truth, found)
    best = best_operating_point(truth, found, assignment)
    tried = [operating_point(truth, found, assignment, s).f1 for s in np.unique(found.score_D)]
    assert best.f1 == max([*tried, 0.0])
    if best.right:
        harmonic = 2 / (1 / best.precision + 1 / best.recall)
        assert best.f1 == pytest.approx(harmonic)


def two_sizes():
    """Two objects of 10 and 40 of 100 pixels, and one on an image whose size is not told."""
    boxes = [(1, [0, 0, 10, 10]), (1, [50, 50, 40, 40]), (2, [0, 0, 10, 10])]
    annotations = [
        {"id": i, "image_id": image, "category_id": 1, "bbox": box, "area": box[2] * box[3]}
        for i, (image, box) in enumerate(boxes, start=1)
    ]
    images = [{"id": 1, "width": 100, "height": 100}, {"id": 2}]
    return truth_of(one_object(images=images, annotations=annotations))


def test_recall_by_relative_size():
    truth = two_sizes()
    bins = recall_by_size(truth, np.array([True, False, True]), [0, 0.05, 0.2, 0.3])
    assert [(b.low, b.high, b.objects, b.found) for b in bins] == [
        (0, 0.05, 0, 0),
        (0.05, 0.2, 1, 1),
        (0.2, 0.3, 1, 0),
    ]
    assert [b.recall for b in bins[1:]] == [1, 0]
    assert math.isnan(bins[0].recall)


def test_calibration_by_hand():
    truth = truth_of(one_object())
    wrong = {**FOUND, "bbox": [60, 60, 20, 20]}
    given = [{**FOUND, "score": 0.82}, {**wrong, "score": 0.88}, {**wrong, "score": 0.1}]
    found = detections_of(given, truth)
    result = calibration(found, assign(truth, found))
    assert result.count_B == (0, 1, 0, 0, 0, 0, 0, 0, 2, 0)
    assert result.mean_score_B[8] == pytest.approx(0.85)
    assert result.share_right_B[8] == 0.5
    assert result.error == pytest.approx((0.1 * 1 + 0.35 * 2) / 3)


@pytest.mark.parametrize(
    ("truth", "detections"),
    [(one_object(), []), (one_object(annotations=[]), [FOUND]), (one_object(annotations=[]), [])],
    ids=["nothing detected", "no objects", "nothing"],
)
def test_nothing_there(truth, detections):
    truth = truth_of(truth)
    found = detections_of(detections, truth)
    assignment = assign(truth, found)
    point = best_operating_point(truth, found, assignment)
    assert (point.right, point.precision, point.recall, point.f1) == (0, 0, 0, 0)
    assert calibration(found, assignment).error == pytest.approx(0.9 * len(found))
    assert sum(b.objects for b in recall_by_size(truth, np.zeros(len(truth.ids), bool))) == len(
        truth.ids
    )


def test_scores_beyond_0_and_1_are_in_the_outer_bins():
    truth = truth_of(one_object())
    found = detections_of([{**FOUND, "score": 7}, {**FOUND, "score": -2}], truth)
    counts = calibration(found, assign(truth, found)).count_B
    assert (counts[0], counts[-1]) == (1, 1)
