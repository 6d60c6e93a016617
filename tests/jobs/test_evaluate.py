import json
import shutil
from dataclasses import replace

import msgspec
import pytest

from relaydet.config import EvaluateConfig, MergeConfig, TrainConfig
from relaydet.data.demo import write_demo
from relaydet.errors import RelayError
from relaydet.jobs.evaluate import evaluate
from relaydet.jobs.merge import merge
from relaydet.jobs.train import train


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """A store with two datasets of one and two sources, and a run trained for a moment."""
    folder = tmp_path_factory.mktemp("store")
    street, search, inhouse = write_demo(folder / "scenes", sizes=(8, 4, 4))
    for name, sources in {"both": (street, search), "heldout": (inhouse,)}.items():
        merge(MergeConfig(name, sources, ("person",), str(folder)), say=quiet)
    merge(MergeConfig("figures", (street,), ("person=figure",), str(folder)), say=quiet)
    config = TrainConfig("one", "both", store=str(folder), model="small", epochs=1, image_size=64)
    train(config, say=quiet)
    return folder


def write_beside(store, name: str, given) -> None:
    """Another dataset of the images of `both`."""
    folder = store / "datasets" / name
    folder.mkdir()
    (folder / "annotations.json").write_text(json.dumps(given))
    for beside in ("images.json", "report.json"):
        kept = store / "datasets/both" / beside
        if kept.exists():
            (folder / beside).write_bytes(kept.read_bytes())


@pytest.fixture
def config(store):
    return EvaluateConfig(runs=("one",), dataset=("both",), store=str(store), report="r", draws=20)


def test_files_agree_with_each_other_and_with_pycocotools(store, config):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    result = evaluate(config, say=quiet)
    folder = store / "runs/one/evaluations/both"
    metrics = json.loads((folder / "metrics.json").read_text())
    truth = COCO(str(store / "datasets/both/annotations.json"))
    reference = COCOeval(truth, truth.loadRes(str(folder / "detections.json")), "bbox")
    reference.evaluate()
    reference.accumulate()
    reference.summarize()
    assert [metrics[name] for name in result.runs[0].scores.metrics] == pytest.approx(
        list(reference.stats), abs=1e-12
    )
    assert set(metrics["per_source"]) == {"street", "search"}
    assert set(metrics["per_category"]) == {"person"}
    assert metrics["counts"]["images"] == len(truth.imgs)
    model = json.loads((store / "runs/one/model.json").read_text())
    assert model["ap"]["both"]["AP50"] == metrics["AP50"]


def test_a_second_call_takes_the_detections_that_are_there(config):
    evaluate(config, say=quiet)
    said = []
    evaluate(config, say=said.append)
    assert "are there already" in said[0]


def test_report_is_one_file_with_the_table_and_the_pictures(store, config):
    result = evaluate(replace(config, report="page"), say=quiet)
    page = (store / "comparisons/page/report.html").read_text()
    assert page.count("data:image/") == len(result.pictures)
    assert "<td>one</td>" in page
    assert "http" not in page.replace("<!doctype html>", "")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"runs": ("none",)}, "no exported model"),
        ({"runs": ()}, "RUNS is empty"),
        ({"runs": ("one", "one")}, "'one' is there twice"),
        ({"runs": ("gone.json",)}, "gone.json cannot be read"),
        ({"dataset": ()}, "DATASET is empty"),
        ({"draws": -1}, "DRAWS -1"),
        ({"dataset": ("none",)}, "there is no dataset"),
        ({"dataset": ("figures",)}, "nothing to compare"),
    ],
)
def test_mistakes(config, changes, message):
    with pytest.raises(RelayError, match=message):
        evaluate(replace(config, **changes), say=quiet)


def test_no_detections_at_all_give_zero(store, config):
    evaluate(config, say=quiet)
    folder = store / "runs/one/evaluations/both"
    kept = (folder / "detections.json").read_bytes()
    (folder / "detections.json").write_bytes(msgspec.json.encode([]))
    try:
        result = evaluate(config, say=quiet)
    finally:
        (folder / "detections.json").write_bytes(kept)
    assert result.runs[0].scores.metrics["AP50"] == 0


def test_detectors_from_anywhere_on_several_datasets(store, config, tmp_path):
    evaluate(config, say=quiet)
    theirs = tmp_path / "theirs.json"
    kept = json.loads((store / "runs/one/evaluations/both/detections.json").read_text())
    known = {image["id"] for image in json.loads(
        (store / "datasets/heldout/annotations.json").read_text())["images"]}  # fmt: skip
    theirs.write_text(json.dumps([d for d in kept if d["image_id"] in known]))
    several = replace(config, runs=("one", str(theirs)), dataset=("both", "heldout"), report="many")
    result = evaluate(several, say=quiet)
    assert [(on.dataset, [run.run for run in on.runs]) for on in result.datasets] == [
        ("both", ["one", "theirs"]),
        ("heldout", ["one", "theirs"]),
    ]
    comparison = json.loads((store / "comparisons/many/comparison.json").read_text())
    assert list(comparison["datasets"]) == ["both", "heldout"]
    on_both = comparison["datasets"]["both"]
    assert set(on_both["runs"]) == {"one", "theirs"}
    assert {d["verdict"] for d in on_both["differences"]} <= {"better", "worse", "cannot tell"}
    assert on_both["intervals"]["one"]["AP50"]["value"] == on_both["runs"]["one"]["AP50"]
    points = on_both["analyses"]["one"]["operating_points"]
    assert [point["score"] for point in points][:2] == [0.05, 0.1]
    recalls = [point["recall"] for point in points]
    assert recalls == sorted(recalls, reverse=True)
    assert len(on_both["found_by"]) == 1
    page = (store / "comparisons/many/report.html").read_text()
    assert page.count("<section>") == 2
    assert "On heldout:" in result.table
    assert not (store / "runs/theirs").exists()


def test_results_of_another_dataset_are_refused(store, config):
    evaluate(config, say=quiet)
    given = str(store / "runs/one/evaluations/both/detections.json")
    with pytest.raises(RelayError, match="made on another dataset than 'heldout'"):
        evaluate(replace(config, runs=(given,), dataset=("heldout",)), say=quiet)


def test_without_draws_there_are_no_intervals(config):
    result = evaluate(replace(config, draws=0), say=quiet)
    assert result.datasets[0].significance is None


def test_verify_is_told(config):
    result = evaluate(replace(config, verify=True, draws=0), say=quiet)
    assert "verified against pycocotools" in result.runs[0].metrics["engine"]


def test_categories_that_only_one_side_has_are_told(store, config):
    """A detector of persons on a dataset of persons and cars."""
    given = json.loads((store / "datasets/both/annotations.json").read_text())
    given["categories"].append({"id": 2, "name": "car"})
    write_beside(store, "cars", given)
    said = []
    result = evaluate(replace(config, dataset=("cars",)), said.append)
    assert any("it does not know car, which count as 0" in line for line in said)
    metrics = result.runs[0].metrics
    assert set(metrics["per_category"]) == {"person", "car"}
    assert metrics["per_category"]["car"]["AP"] == -1, "there is none in it"
    assert metrics["unmatched_categories"]


def test_objects_without_a_relative_size_are_counted(store, config):
    given = json.loads((store / "datasets/both/annotations.json").read_text())
    unknown = given["images"][0]
    unknown["width"] = 0
    objects = sum(a["image_id"] == unknown["id"] for a in given["annotations"])
    write_beside(store, "unsized", given)
    result = evaluate(replace(config, dataset=("unsized",)), say=quiet)
    assert f" {objects} objects are left out" in result.pictures["sizes"].caption


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"seed": 1}, True),
        ({"seed": 1, "run": "b", "device": "cuda", "store": "elsewhere"}, True),
        ({"seed": 1, "epochs": 2}, False),
        ({"image_size": 96}, False),
        ({}, False),
    ],
)
def test_runs_that_differ_in_their_seed_alone_are_named(store, tmp_path, changes, told):
    """The interval between them is of other images; it knows nothing of seeds."""
    here = tmp_path / "store"
    shutil.copytree(store, here)
    shutil.copytree(here / "runs/one", here / "runs/two")
    facts = json.loads((here / "runs/two/model.json").read_text())
    facts["config"] |= changes
    (here / "runs/two/model.json").write_text(json.dumps(facts))
    config = EvaluateConfig(("one", "two"), ("heldout",), str(here), report="both", draws=50)
    said = []
    evaluate(config, said.append)
    report = (here / "comparisons/both/report.html").read_text()
    sentence = "one and two: differ in SEED alone, and the intervals know nothing of"
    assert (sentence in said[-1]) is told
    assert (sentence in report) is told
    assert "the first is" not in said[-1]
    assert "verdict" in said[-1]
