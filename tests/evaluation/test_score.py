"""Every number that leaves the evaluator equals pycocotools'."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from relaydet.errors import RelayError
from relaydet.evaluation import engines
from relaydet.evaluation import score as module
from relaydet.evaluation.score import score, score_per_source

HAS_HOTCOCO = importlib.util.find_spec("hotcoco") is not None
needs_hotcoco = pytest.mark.skipif(not HAS_HOTCOCO, reason="hotcoco (extra `fast`) is not here")
needs_faster = pytest.mark.skipif(
    importlib.util.find_spec("faster_coco_eval") is None, reason="faster-coco-eval is not here"
)
FAST = (
    pytest.param("hotcoco", marks=needs_hotcoco),
    pytest.param("faster-coco-eval", marks=needs_faster),
)
ENGINES = ("pycocotools", *FAST)
NAMES = ("AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl")


def pycocotools_stats(truth: dict, detections: list[dict]) -> dict[str, float]:
    """The 12 numbers as pycocotools' own demo computes them."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = json.loads(json.dumps(truth))
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(json.loads(json.dumps(detections))), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    return dict(zip(NAMES, evaluation.stats.tolist(), strict=True))


@pytest.fixture(scope="module")
def published(shared):
    files = ("instances_val2014_100.json", "instances_val2014_fakebbox100_results.json")
    return [json.loads(shared("cocoapi_val2014_100", name).read_text()) for name in files]


@pytest.mark.parametrize("engine", ENGINES)
def test_the_published_numbers_of_cocoapi(published, engine):
    found = score(*published, engine).metrics
    assert list(found) == list(NAMES)
    assert found == pytest.approx(pycocotools_stats(*published), abs=1e-12, rel=0)
    precise = {
        "AP": 0.5045806987249628,
        "AP50": 0.6969727247,
        "AP75": 0.5729816670,
        "APs": 0.5856257209,
        "APm": 0.5193996948,
        "APl": 0.5013978986,
    }
    assert {name: found[name] for name in precise} == pytest.approx(precise, abs=1e-9, rel=0)
    # As pycocoEvalDemo.ipynb prints them.
    recalls = {
        "AR1": 0.387,
        "AR10": 0.594,
        "AR100": 0.595,
        "ARs": 0.640,
        "ARm": 0.566,
        "ARl": 0.564,
    }
    assert {name: round(found[name], 3) for name in recalls} == recalls


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("many", [1, 7, 79])
def test_a_part_of_the_categories_at_a_time_gives_the_same_numbers(
    published, engine, many, monkeypatch
):
    """Of 20,000 categories the arrays of all would take gigabytes."""
    whole = score(*published, engine)
    monkeypatch.setattr(module, "MANY", many)
    parts = score(*published, engine, verify=True)
    assert parts.precision_TRKAM.shape[2] == parts.recall_TKAM.shape[1] == 0
    assert parts.metrics == pytest.approx(whole.metrics, abs=1e-12, rel=0)
    assert list(parts.metrics) == list(NAMES)
    assert parts.per_category == whole.per_category
    np.testing.assert_allclose(parts.curve(), whole.curve(), rtol=0, atol=1e-12)
    assert parts.findings == whole.findings


def test_as_many_categories_as_fit_are_in_one_part(published, monkeypatch):
    monkeypatch.setattr(module, "MANY", len(published[0]["categories"]))
    assert score(*published).precision_TRKAM.shape[2] == len(published[0]["categories"])


def test_many_categories_without_any_object(monkeypatch):
    monkeypatch.setattr(module, "MANY", 2)
    categories = [{"id": n, "name": "same"} for n in range(5)]
    found = score({"images": [{"id": 1}], "annotations": [], "categories": categories}, [])
    assert set(found.metrics.values()) == {-1.0}
    assert list(found.per_category) == [f"same (id {n})" for n in range(5)]
    assert found.curve().tolist() == [0.0] * 101


BORDER_AREAS = [31.9**2, 32**2, 32.1**2, 95.9**2, 96**2, 96.1**2]


def random_case(seed: int, categories: int = 3) -> tuple[dict, list[dict]]:
    """Crowds, ties in the scores, empty images, boxes on the area borders, a spare category."""
    rng = np.random.default_rng(seed)
    images = [
        {"id": 10 * i, "width": 400, "height": 300, "source": "ab"[i % 2]} for i in range(1, 9)
    ]
    annotations, detections = [], []
    for image in images:
        for _ in range(rng.integers(0, 12)):
            area = rng.choice([*BORDER_AREAS, rng.uniform(20, 20_000)])
            ratio = rng.choice([0.5, 1.0, 2.0])
            size = np.array([np.sqrt(area * ratio), np.sqrt(area / ratio)])
            box = [*rng.uniform(0, 200, 2).tolist(), *size.tolist()]
            category = int(rng.integers(1, categories + 1))
            crowd = int(rng.random() < 0.15)
            annotation = {
                "id": len(annotations) + 1,
                "image_id": image["id"],
                "category_id": category,
                "bbox": box,
                "area": float(area),
                "iscrowd": crowd,
            }
            if rng.random() < 0.1:
                annotation["ignore"] = 1
            annotations.append(annotation)
            for _ in range(rng.integers(0, 4)):
                moved = np.array(box) + rng.choice([0, 0, 1, 8]) * rng.normal(size=4)
                moved[2:] = np.abs(moved[2:])
                detections.append(
                    {
                        "image_id": image["id"],
                        "bbox": moved.tolist(),
                        "category_id": category if rng.random() < 0.9 else categories + 1,
                        "score": float(rng.choice([0.25, 0.5, 0.5, rng.random()])),
                    }
                )
    named = [{"id": k, "name": f"c{k}"} for k in range(1, categories + 2)]
    order = rng.permutation(len(detections))
    truth = {"images": images, "annotations": annotations, "categories": named}
    return truth, [detections[i] for i in order]


@pytest.mark.parametrize("engine", FAST)
@pytest.mark.parametrize("seed", range(12))
def test_random_cases_equal_pycocotools(seed, engine):
    truth, detections = random_case(seed, categories=1 + seed % 4)
    kept = json.dumps([truth, detections])
    reference = pycocotools_stats(truth, detections)
    assert 0 < reference["AP"] < 1
    ours, fast = (score(truth, detections, name) for name in ("pycocotools", engine))
    assert ours.metrics == reference
    assert fast.metrics == pytest.approx(reference, abs=1e-12, rel=0)
    np.testing.assert_allclose(fast.precision_TRKAM, ours.precision_TRKAM, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fast.recall_TKAM, ours.recall_TKAM, rtol=0, atol=1e-12)
    assert json.dumps([truth, detections]) == kept, "what was given is left as it was"


@pytest.mark.parametrize("engine", ENGINES)
def test_more_detections_than_the_limits(engine):
    rng = np.random.default_rng(0)
    truth, _ = random_case(1, categories=1)
    boxes = [annotation["bbox"] for annotation in truth["annotations"]]
    detections = [
        {"image_id": 20, "category_id": 1, "bbox": boxes[i % len(boxes)], "score": rng.random()}
        for i in range(250)
    ]
    reference = pycocotools_stats(truth, detections)
    assert score(truth, detections, engine).metrics == pytest.approx(reference, abs=1e-12, rel=0)


SIDES = st.sampled_from([0, 1, 10, 20, 31.9, 32, 32.1, 40, 96, 200])
PLACES = st.sampled_from([-5, 0, 0, 5, 10, 20, 3.25])
VALUES = {"score": [0.1, 0.5, 0.5, 0.9], "iscrowd": [0, 0, 1]}
HUGE = 2**53


@st.composite
def cases(draw):
    """Few places, sides and scores: ties, flat boxes and IoUs on a threshold come up often."""
    images = draw(st.integers(1, 4))
    numbers = draw(st.sampled_from([1, HUGE]))  # beyond, a float cannot hold every id

    def records(kind: str, most: int):
        return draw(
            st.lists(
                st.fixed_dictionaries(
                    {
                        "image_id": st.integers(0, images - 1).map(lambda i: numbers + i),
                        "category_id": st.integers(1, 3),
                        "bbox": st.tuples(PLACES, PLACES, SIDES, SIDES).map(list),
                        kind: st.sampled_from(
                            [0.1, 0.5, 0.5, 0.9] if kind == "score" else [0, 0, 1]
                        ),
                    }
                ),
                max_size=most,
            )
        )

    annotations = records("iscrowd", 8)
    for place, annotation in enumerate(annotations):
        area = annotation["bbox"][2] * annotation["bbox"][3]
        annotation.update(id=numbers + place, area=draw(st.sampled_from([area, 32**2, 96**2])))
    truth = {
        "images": [{"id": numbers + i} for i in range(images)],
        "annotations": annotations,
        "categories": [{"id": k, "name": f"c{k}"} for k in (1, 2, 3)],
    }
    return truth, records("score", 12)


@pytest.mark.parametrize("engine", FAST)
@settings(deadline=None, max_examples=150, suppress_health_check=list(HealthCheck))
@given(case=cases())
def test_any_case_equals_pycocotools(case, engine):
    truth, detections = case
    assume(detections)  # pycocotools refuses none
    reference = pycocotools_stats(truth, detections)
    ours, fast = (score(truth, detections, name) for name in ("pycocotools", engine))
    assert ours.metrics == reference
    assert fast.metrics == pytest.approx(reference, abs=1e-12, rel=0)
    np.testing.assert_allclose(fast.precision_TRKAM, ours.precision_TRKAM, rtol=0, atol=1e-12)
    np.testing.assert_allclose(fast.recall_TKAM, ours.recall_TKAM, rtol=0, atol=1e-12)


def one_object(**changes) -> dict:
    """Ground truth of one object of 40 x 40 pixels; sections on demand."""
    return {
        "images": [{"id": 1, "width": 100, "height": 100}],
        "annotations": [
            {
                "id": 1,
                "image_id": 1,
                "category_id": 1,
                "iscrowd": 0,
                "bbox": [10, 10, 40, 40],
                "area": 1600,
            }
        ],
        "categories": [{"id": 1, "name": "person"}],
        **changes,
    }


FOUND = {"image_id": 1, "category_id": 1, "bbox": [10, 10, 40, 40], "score": 0.9}


@pytest.mark.parametrize("engine", ["auto", *ENGINES])
@pytest.mark.parametrize(
    ("truth", "detections", "there", "not_there"),
    [
        pytest.param(one_object(), [FOUND], 1.0, -1.0, id="found"),
        pytest.param(one_object(), [], 0.0, -1.0, id="nothing detected"),
        pytest.param(one_object(annotations=[]), [FOUND], -1.0, -1.0, id="no ground truth"),
        pytest.param(one_object(annotations=[]), [], -1.0, -1.0, id="nothing at all"),
    ],
)
def test_nothing_there_is_told_from_nothing_found(truth, detections, there, not_there, engine):
    found = score(truth, detections, engine)
    absent = {"APs", "APl", "ARs", "ARl"}
    expected = {name: not_there if name in absent else there for name in NAMES}
    assert found.metrics == pytest.approx(expected, abs=1e-12)
    assert found.per_category == {"person": found.metrics}
    assert found.curve() == pytest.approx(np.full(101, max(there, 0.0)), abs=1e-12)


def test_each_category_as_if_it_were_alone():
    truth, detections = random_case(3, categories=3)
    per_category = score(truth, detections).per_category
    assert list(per_category) == ["c1", "c2", "c3", "c4"]
    for category in truth["categories"][:3]:
        alone = {
            **truth,
            "categories": [category],
            "annotations": [a for a in truth["annotations"] if a["category_id"] == category["id"]],
        }
        mine = [d for d in detections if d["category_id"] == category["id"]]
        reference = pycocotools_stats(alone, mine)
        assert per_category[category["name"]] == pytest.approx(reference, abs=1e-12, rel=0)


def test_categories_of_one_name_are_told_apart():
    two = [{"id": 1, "name": "person"}, {"id": 4, "name": "person"}]
    found = score(one_object(categories=two), [FOUND]).per_category
    assert {name: metrics["AP"] for name, metrics in found.items()} == {
        "person (id 1)": pytest.approx(1.0),
        "person (id 4)": -1.0,
    }


def test_each_source_as_if_it_were_alone():
    truth, detections = random_case(5)
    found = score_per_source(truth, detections)
    assert list(found) == ["a", "b"]
    for source, metrics in found.items():
        ids = {image["id"] for image in truth["images"] if image["source"] == source}
        alone = {
            **truth,
            "images": [image for image in truth["images"] if image["id"] in ids],
            "annotations": [a for a in truth["annotations"] if a["image_id"] in ids],
        }
        mine = [d for d in detections if d["image_id"] in ids]
        assert metrics == pytest.approx(pycocotools_stats(alone, mine), abs=1e-12, rel=0)


def with_ids(*ids) -> dict:
    (annotation,) = one_object()["annotations"]
    return one_object(annotations=[{**annotation, "id": i} for i in ids])


@needs_hotcoco
@pytest.mark.parametrize(
    ("truth", "asked", "engine", "reason"),
    [
        (one_object(), "auto", "hotcoco", "ids are clean"),
        (one_object(), "pycocotools", "pycocotools", "asked for"),
        (with_ids(0), "auto", "pycocotools", "not unique and positive"),
        (with_ids(3, 3), "auto", "pycocotools", "not unique and positive"),
        (with_ids(1.5), "auto", "pycocotools", "not unique and positive"),
    ],
    ids=["clean", "asked", "id 0", "ids twice", "id and a half"],
)
def test_the_engine_is_chosen_and_told(truth, asked, engine, reason):
    found = score(truth, [FOUND], asked)
    assert found.engine.startswith(f"{engine} ")
    assert reason in found.engine
    assert found.metrics == pycocotools_stats(truth, [FOUND])


@needs_hotcoco
def test_verify_compares_with_pycocotools(monkeypatch):
    truth, detections = random_case(2)
    assert "verified against pycocotools" in score(truth, detections, verify=True).engine
    load = engines._hotcoco

    def wrong(truth, found):
        rows = np.arange(len(truth.image_ids) - 1)
        return load(truth, found.of_images(rows, len(truth.image_ids)))

    monkeypatch.setattr(engines, "_hotcoco", wrong)
    with pytest.raises(RelayError, match="hotcoco and pycocotools differ"):
        score(truth, detections, verify=True)


def broken(section: str, **changes) -> dict:
    (record,) = one_object()[section]
    kept = {k: v for k, v in {**record, **changes}.items() if v is not None}
    return one_object(**{section: [kept]})


@pytest.mark.parametrize(
    ("truth", "detections", "message"),
    [
        pytest.param({"images": []}, [], "list of 'annotations'", id="no annotations"),
        pytest.param([], [], "list of 'images'", id="ground truth is a list"),
        pytest.param(None, [], "list of 'images'", id="ground truth is null"),
        pytest.param(one_object(images=3), [], "list of 'images'", id="images is a number"),
        pytest.param(broken("images", id=None), [FOUND], "'id'", id="image without id"),
        pytest.param(broken("annotations", area=None), [FOUND], "'area'", id="no area"),
        pytest.param(broken("annotations", bbox=None), [FOUND], "'bbox'", id="no box"),
        pytest.param(broken("annotations", id="a"), [FOUND], "which is not", id="id a word"),
        pytest.param(broken("annotations", bbox=[1, 2]), [FOUND], "which is not", id="half a box"),
        pytest.param(broken("annotations", bbox=7), [FOUND], "which is not", id="box a number"),
        pytest.param(broken("categories", name=None), [FOUND], "'name'", id="no name"),
        pytest.param(one_object(), None, "list", id="detections are null"),
        pytest.param(one_object(), {}, "list", id="detections are an object"),
        pytest.param(one_object(), {"annotations": []}, "list", id="detections are a COCO file"),
        pytest.param(one_object(), [3], "Detection 0", id="a number"),
        pytest.param(one_object(), [FOUND, {"image_id": 1}], "Detection 1.*bbox", id="no bbox"),
        pytest.param(one_object(), [{**FOUND, "score": None}], "Detection 0", id="no score"),
        pytest.param(one_object(), [{**FOUND, "score": "high"}], "Detection 0", id="a word"),
        pytest.param(one_object(), [{**FOUND, "score": float("nan")}], "no number", id="NaN"),
        pytest.param(one_object(), [{**FOUND, "bbox": [1, 2, 3]}], "no number", id="three numbers"),
        pytest.param(one_object(), [{**FOUND, "image_id": 7}], "image 7.*other", id="other set"),
        pytest.param(one_object(), [{**FOUND, "image_id": [1]}], "Detection 0", id="id a list"),
    ],
)
def test_bad_input_is_explained(truth, detections, message):
    with pytest.raises(RelayError, match=message):
        score(truth, detections)


def test_an_unknown_engine_is_explained():
    with pytest.raises(RelayError, match="'fast' is unknown"):
        score(one_object(), [FOUND], "fast")
