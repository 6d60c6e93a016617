"""Which detections are right at one score threshold: cases drawn on a line of squares."""

from __future__ import annotations

import pytest

from relaydet.evaluation.matching import match


def truth(x: float, category: int = 1, crowd: int = 0, width: float = 10):
    return {"bbox": [x, 0, width, 10], "category_id": category, "iscrowd": crowd}


def found(x: float, score: float = 0.9, category: int = 1, width: float = 10):
    return {"bbox": [x, 0, width, 10], "category_id": category, "score": score}


@pytest.mark.parametrize(
    ("truths", "detections", "right", "wrong", "missed"),
    [
        pytest.param([], [], [], [], [], id="nothing"),
        pytest.param([truth(0)], [found(0)], [0], [], [], id="found"),
        pytest.param([truth(0)], [], [], [], [0], id="missed"),
        pytest.param([], [found(0)], [], [0], [], id="nothing was there"),
        pytest.param([truth(0)], [found(3)], [0], [], [], id="IoU 7/13 is enough"),
        pytest.param([truth(0)], [found(4)], [], [0], [0], id="IoU 6/14 is not"),
        pytest.param([truth(0, width=5)], [found(0)], [0], [], [], id="IoU of exactly a half"),
        pytest.param([truth(0)], [found(0, category=2)], [], [0], [0], id="other category"),
        pytest.param([truth(0)], [found(0, 0.49)], [], [], [0], id="below the score"),
        pytest.param([truth(0)], [found(0, 0.5)], [0], [], [], id="score on the threshold"),
        pytest.param([truth(0)], [found(0, 0.6), found(0, 0.8)], [1], [0], [], id="duplicate"),
        pytest.param(
            [truth(0), truth(2)], [found(2, 0.9), found(1, 0.8)], [0, 1], [], [], id="best free one"
        ),
        pytest.param([truth(0, crowd=1)], [found(0)], [], [], [], id="on a crowd: neither"),
        pytest.param(
            [truth(0, crowd=1, width=100)],
            [found(20), found(50)],
            *([], [], []),
            id="a crowd takes several, by the detection's own area",
        ),
        pytest.param(
            [truth(0, crowd=1), truth(0)], [found(0)], [0], [], [], id="an object before a crowd"
        ),
        pytest.param(
            [truth(0), truth(50), truth(80)],
            [found(50, 0.7), found(30, 0.6), found(0, 0.8)],
            *([2, 0], [1], [2]),
            id="all together",
        ),
    ],
)
def test_matches(truths, detections, right, wrong, missed):
    matches = match(truths, detections)
    assert matches.right == [detections[i] for i in right]
    assert matches.wrong == [detections[i] for i in wrong]
    assert matches.missed == [truths[i] for i in missed]


@pytest.mark.parametrize(
    ("options", "counts"),
    [
        ({"min_score": 0.95}, (0, 0, 1)),
        ({"min_iou": 0.6}, (0, 1, 1)),
        ({"min_iou": 0.3}, (1, 0, 0)),
    ],
    ids=str,
)
def test_thresholds(options, counts):
    matches = match([truth(0)], [found(3)], **options)
    assert (len(matches.right), len(matches.wrong), len(matches.missed)) == counts
