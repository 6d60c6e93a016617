"""Intervals of AP: with weights of 1 pycocotools' numbers, else those of the images drawn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_score import ENGINES, one_object, random_case

from relaydet.evaluation.records import Detections, Truth, truth_of
from relaydet.evaluation.results import detections_of
from relaydet.evaluation.score import score
from relaydet.evaluation.significance import MEASURES, bootstrap, match_once

FOUND = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9}


def case(seed: int, categories: int = 2) -> tuple[Truth, Detections]:
    ground_truth, detections = random_case(seed, categories)
    truth = truth_of(ground_truth)
    return truth, detections_of(detections, truth)


def repeated(truth: Truth, found: Detections, weight_M) -> tuple[Truth, Detections]:
    """A dataset in which each image is there as often as it weighs."""
    rows = np.repeat(np.arange(len(weight_M)), weight_M)
    places = [np.flatnonzero(truth.image_N == row) for row in rows]
    said = [np.flatnonzero(found.image_D == row) for row in rows]
    place_N = np.concatenate(places) if places else np.zeros(0, int)
    place_D = np.concatenate(said) if said else np.zeros(0, int)
    again = replace(
        truth,
        image_ids=list(range(1, len(rows) + 1)),
        sides_M2=truth.sides_M2[rows],
        sources=[truth.sources[row] for row in rows],
        file_names=[truth.file_names[row] for row in rows],
        ids=list(range(1, len(place_N) + 1)),
        image_N=np.repeat(np.arange(len(rows)), [len(p) for p in places]),
        category_N=truth.category_N[place_N],
        boxes_N4=truth.boxes_N4[place_N],
        area_N=truth.area_N[place_N],
        crowd_N=truth.crowd_N[place_N],
    )
    return again, Detections(
        np.repeat(np.arange(len(rows)), [len(p) for p in said]),
        found.category_D[place_D],
        found.boxes_D4[place_D],
        found.score_D[place_D],
    )


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("seed", range(6))
def test_with_weights_of_1_the_numbers_are_pycocotools_own(seed, engine):
    truth, found = case(seed)
    reference = score(truth, found, "pycocotools")
    for area, a in (("all", 0), ("small", 1)):
        matched = match_once(engine, truth, found, area)
        precision, recall = matched.arrays(np.ones(len(truth.image_ids)), 10)
        np.testing.assert_array_equal(precision, reference.precision_TRKAM[..., a, 2])
        np.testing.assert_array_equal(recall, reference.recall_TKAM[..., a, 2])
    intervals = bootstrap(truth, {"it": found}, draws=2, engine=engine).intervals["it"]
    assert intervals, "there are measures"
    for measure, interval in intervals.items():
        assert interval.value == reference.metrics[measure]


@pytest.mark.parametrize("seed", range(8))
def test_an_image_that_weighs_twice_is_as_if_it_were_there_twice(seed):
    truth, tied = case(seed)
    untied_D = tied.score_D + np.random.default_rng(seed).permutation(len(tied)) * 1e-6
    found = replace(tied, score_D=untied_D)
    weight_M = np.random.default_rng(seed).multinomial(8, np.full(8, 1 / 8))
    reference = score(*repeated(truth, found, weight_M), "pycocotools")
    matched = match_once("pycocotools", truth, found)
    precision, recall = matched.arrays(weight_M.astype(float), 10)
    np.testing.assert_array_equal(precision, reference.precision_TRKAM[..., 0, 2])
    np.testing.assert_array_equal(recall, reference.recall_TKAM[..., 0, 2])


def test_the_same_seed_gives_the_same_intervals_and_another_others():
    truth, found = case(1)
    first, again, other = (bootstrap(truth, {"a": found}, draws=50, seed=s) for s in (3, 3, 4))
    assert first == again
    assert first != other
    assert (first.draws, first.images) == (50, 8)


def many(images: int, seed: int, quality: float) -> tuple[Truth, Detections]:
    """One object on each image, found with a chance; and a false alarm on every second one."""
    rng = np.random.default_rng(seed)
    truth = truth_of(
        {
            "images": [{"id": i} for i in range(1, images + 1)],
            "annotations": [{**one_object()["annotations"][0], "id": i, "image_id": i}
                            for i in range(1, images + 1)],
            "categories": one_object()["categories"],
        }
    )  # fmt: skip
    found = [
        {**FOUND, "image_id": i, "score": float(rng.uniform(0.3, 1))}
        for i in range(1, images + 1)
        if rng.random() < quality
    ]
    wrong = [
        {**FOUND, "image_id": i, "bbox": [60, 60, 30, 30], "score": float(rng.uniform(0, 0.7))}
        for i in range(1, images + 1, 2)
    ]
    return truth, detections_of(found + wrong, truth)


def test_verdicts():
    truth, good = many(200, 0, 0.9)
    _, bad = many(200, 1, 0.6)
    _, alike = many(200, 2, 0.89)
    result = bootstrap(truth, {"good": good, "bad": bad, "alike": alike}, ["AP50"], draws=300)
    verdicts = {(d.first, d.second): d.verdict for d in result.differences}
    assert verdicts == {
        ("good", "bad"): "worse",
        ("good", "alike"): "cannot tell",
        ("bad", "alike"): "better",
    }
    (worse,) = [d for d in result.differences if (d.first, d.second) == ("good", "bad")]
    assert worse.delta.low < worse.delta.value < worse.delta.high < 0
    gap = result.intervals["bad"]["AP50"].value - result.intervals["good"]["AP50"].value
    assert worse.delta.value == gap
    assert str(result.intervals["bad"]["AP50"]).count(".") == 3


def test_a_detector_against_itself_cannot_be_told_apart():
    truth, found = case(2)
    for difference in bootstrap(truth, {"a": found, "b": found}, draws=20).differences:
        assert (difference.delta.low, difference.delta.value, difference.delta.high) == (0, 0, 0)
        assert difference.verdict == "cannot tell"


@pytest.mark.parametrize(
    ("ground_truth", "detections", "measures"),
    [
        pytest.param(one_object(), [], {"AP": 0, "AP50": 0, "AR100": 0}, id="nothing detected"),
        pytest.param(one_object(annotations=[]), [FOUND], {}, id="no ground truth"),
        pytest.param(one_object(images=[], annotations=[]), [], {}, id="no images"),
        pytest.param(one_object(categories=[], annotations=[]), [], {}, id="no categories"),
        pytest.param(one_object(), [FOUND], {"AP": 1, "AP50": 1, "AR100": 1}, id="found"),
    ],
)
def test_nothing_there(ground_truth, detections, measures):
    truth = truth_of(ground_truth)
    result = bootstrap(truth, {"it": detections_of(detections, truth)}, draws=3)
    values = {name: interval.value for name, interval in result.intervals["it"].items()}
    assert values == pytest.approx(measures)
    assert set(measures) <= set(MEASURES)


@pytest.mark.slow
def test_95_of_100_intervals_hold_the_true_value():
    """Samples of 400 images from a world whose numbers are known: those of very many images."""
    everything, repeats, taken = 40_000, 500, 400
    world, detectors = world_of(everything)
    true = {name: score(world, found).metrics["AP50"] for name, found in detectors.items()}
    generator, inside = np.random.default_rng(0), {"AP50": 0, "difference": 0}
    for repeat in range(repeats):
        rows = np.sort(generator.choice(everything, taken, replace=False))
        some = {name: found.of_images(rows, everything) for name, found in detectors.items()}
        result = bootstrap(world.of_images(rows), some, ["AP50"], draws=400, seed=repeat)
        first, (difference,) = result.intervals["first"]["AP50"], result.differences
        inside["AP50"] += first.low <= true["first"] <= first.high
        gain = true["second"] - true["first"]
        inside["difference"] += difference.delta.low <= gain <= difference.delta.high
    shares = {name: count / repeats for name, count in inside.items()}
    assert all(0.93 <= share <= 0.97 for share in shares.values()), shares


def world_of(images: int) -> tuple[Truth, dict[str, Detections]]:
    """Two detectors, the second a little better; how hard an image is, is the same for both."""
    rng = np.random.default_rng(0)
    annotations, detections = [], {"first": [], "second": []}
    for image in range(1, images + 1):
        hard = rng.beta(2, 2)
        for place in range(rng.integers(1, 6)):
            box = [50.0 * place, 10.0, 40.0, 40.0]
            annotations.append({**one_object()["annotations"][0], "bbox": box})
            annotations[-1].update(id=len(annotations), image_id=image)
            seen = 0.7 * rng.random()
            for found, share in zip(detections.values(), (1.0, 0.9), strict=True):
                if seen + 0.3 * rng.random() > share * hard:
                    found.append({**FOUND, "image_id": image, "bbox": box, "score": rng.beta(4, 2)})
        for found in detections.values():
            for place in range(rng.poisson(1.5 * hard)):
                box = [50.0 * place, 80.0, 40.0, 40.0]
                found.append({**FOUND, "image_id": image, "bbox": box, "score": rng.beta(2, 3)})
    truth = truth_of({**one_object(images=[{"id": i} for i in range(1, images + 1)]),
                      "annotations": annotations})  # fmt: skip
    return truth, {name: detections_of(found, truth) for name, found in detections.items()}
