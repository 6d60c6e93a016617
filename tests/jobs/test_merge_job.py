import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from relaydet.config import MergeConfig
from relaydet.data.demo import write_demo
from relaydet.errors import RelayError
from relaydet.jobs.merge import merge


def quiet(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    return write_demo(tmp_path_factory.mktemp("scenes"), sizes=(8, 4, 2))


@pytest.fixture
def config(sources, tmp_path):
    street, search, _ = sources
    return MergeConfig("people", (street, search), ("person",), str(tmp_path / "store"))


def test_writes_a_dataset_a_report_and_pictures(config, tmp_path):
    result = merge(config, say=quiet)
    folder = tmp_path / "store/datasets/people"
    data = json.loads((folder / "annotations.json").read_text())
    report = json.loads((folder / "report.json").read_text())
    assert [i["id"] for i in data["images"]] == list(range(1, len(data["images"]) + 1))
    assert report["merged"]["images"] == len(data["images"])
    assert {i["source"] for i in data["images"]} == {"street", "search"} == set(report["sources"])
    assert {f["code"] for f in report["findings"]} == {f.code for f in result.findings}
    assert any(f["code"] == "box-empty" for f in report["findings"])
    pictures = ("samples_street", "samples_search", "offset_search", "distributions", "centres")
    for name in pictures:
        with Image.open(folder / f"{name}.png") as picture:
            assert picture.width > 200


def test_the_same_input_gives_the_same_bytes(config, tmp_path):
    written = []
    for name in ("a", "b"):
        merge(replace(config, store=str(tmp_path / name)), say=quiet)
        written.append((tmp_path / name / "datasets/people/annotations.json").read_bytes())
    assert written[0] == written[1]


def test_a_failed_merge_leaves_what_was_there(config, sources, tmp_path):
    merge(config, say=quiet)
    annotations = tmp_path / "store/datasets/people/annotations.json"
    before = annotations.read_bytes()
    broken = replace(sources[0], annotations=str(tmp_path / "missing.json"))
    with pytest.raises(RelayError, match=r"missing\.json"):
        merge(replace(config, sources=(sources[1], broken)), say=quiet)
    assert annotations.read_bytes() == before
    assert {path.name for path in annotations.parent.parent.iterdir()} == {"people"}


def test_a_source_inside_the_store_is_recorded_relative_to_it(tmp_path):
    street, _, _ = write_demo(tmp_path / "store/scenes", sizes=(3, 1, 1))
    result = merge(MergeConfig("d", (street,), (), str(tmp_path / "store")), say=quiet)
    assert result.dataset.info["sources"]["street"]["images"] == "scenes/street/images"


def written(folder) -> list[dict]:
    return json.loads((folder / "annotations.json").read_text())["images"]


@pytest.fixture
def twice(sources, tmp_path):
    """The street set, and a copy of it elsewhere, under another name."""
    street = sources[0]
    copy = tmp_path / "copy"
    shutil.copytree(Path(street.images).parent, copy)
    return street, replace(
        street, name="copy", annotations=str(copy / "annotations.json"), images=str(copy / "images")
    )


def codes(result) -> set[str]:
    return {finding.code for finding in result.findings}


def test_the_same_images_in_two_sources_are_named(twice, tmp_path):
    config = MergeConfig("people", twice, ("person",), str(tmp_path / "store"))
    kept = merge(config, say=quiet)
    found = [f for f in kept.findings if f.code == "image-in-two-sources"]
    assert len(found) == len(kept.dataset.images) / 2
    assert {f.source for f in found} == {"copy"}
    assert all(f"copy/{f.image}" in f.message and f"street/{f.image}" in f.message for f in found)
    dropped = merge(replace(config, duplicates="drop"), say=quiet)
    assert {image.source for image in dropped.dataset.images} == {"street"}


def test_a_split_separates_no_duplicates(twice, tmp_path):
    config = MergeConfig("p", twice, ("person",), str(tmp_path), split=("val=0.5",), seed=3)
    result = merge(config, say=quiet)
    assert set(result.written) == {"p", "p_val"}
    names = [
        {image["file_name"].split("/")[1] for image in written(tmp_path / "datasets" / name)}
        for name in ("p", "p_val")
    ]
    assert names[0]
    assert names[1]
    assert not names[0] & names[1]


def test_images_of_a_held_out_set_are_an_error(twice, tmp_path):
    street, copy = twice
    merge(MergeConfig("held", (street,), ("person",), str(tmp_path)), say=quiet)
    config = MergeConfig("train", (copy,), ("person",), str(tmp_path), held_out=("held",))
    leaks = [f for f in merge(config, say=quiet).findings if f.code == "image-leaked"]
    assert leaks
    assert {f.severity for f in leaks} == {"error"}
    with pytest.raises(RelayError, match=r"'strict' is not written.*image-leaked.*without STRICT"):
        merge(replace(config, dataset="strict", strict=True), say=quiet)
    assert not (tmp_path / "datasets/strict").exists()
    with pytest.raises(RelayError, match="the dataset itself"):
        merge(replace(config, dataset="held"), say=quiet)


def test_formats_beside_coco_come_and_go(config, tmp_path):
    folder = tmp_path / "store/datasets/people"
    merge(replace(config, formats=("yolo", "voc")), say=quiet)
    assert len(list((folder / "yolo/labels").rglob("*.txt"))) == len(written(folder))
    assert len(list((folder / "voc/Annotations").rglob("*.xml"))) == len(written(folder))
    merge(config, say=quiet)
    assert not (folder / "yolo").exists()
    with pytest.raises(RelayError, match="FORMATS"):
        merge(replace(config, dataset="other", formats=("yolo", "tfrecord")), say=quiet)
    assert not (tmp_path / "store/datasets/other").exists()


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"include": ("search",)}, {"search"}),
        ({"exclude": ("search",)}, {"street"}),
        ({"max_images": 2}, {"search", "street"}),
    ],
)
def test_part_of_the_sources(config, tmp_path, change, expected):
    result = merge(replace(config, **change), say=quiet)
    assert {image.source for image in result.dataset.images} == expected
    if "max_images" in change:
        assert len(result.dataset.images) <= 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            {"include": ("nobody",)},
            "no source 'nobody'; there are street, search",
        ),
        ({"exclude": ("search", "street")}, "leave no source"),
        ({"images": ("nobody=x",)}, "IMAGES: there is no source 'nobody'"),
        ({"images": ("street=nowhere",)}, "nowhere"),
        ({"split": ("val=2",)}, "SPLIT"),
        ({"held_out": ("nothing",)}, "there is no dataset 'nothing'"),
        ({"sources": ("coco2071",)}, "coco2071"),
        ({"max_images": 0}, "max_images"),
        ({"categories": ("pirson",)}, "did you mean person"),
    ],
)
def test_mistakes_write_nothing(config, tmp_path, change, message):
    with pytest.raises(RelayError, match=message):
        merge(replace(config, **change), say=quiet)
    assert not (tmp_path / "store").exists()


def test_images_may_be_elsewhere_on_this_machine(sources, tmp_path):
    street = sources[0]
    moved = shutil.copytree(street.images, tmp_path / "moved")
    gone = replace(street, images="/nowhere/photos")
    config = MergeConfig("p", (gone,), ("person",), str(tmp_path), images=(f"street={moved}",))
    result = merge(config, say=quiet)
    # What others read is where the source says its images are.
    assert result.dataset.info["sources"]["street"]["images"] == "/nowhere/photos"


def test_what_became_of_each_category_is_said(config):
    result = merge(replace(config, categories=("person=human", "car=", "*")), say=quiet)
    assert [c.name for c in result.dataset.categories] == ["human", "lamp"]
    assert "left out: car" in str(result)
    assert "-> human" in str(result)
