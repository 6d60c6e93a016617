import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image

from relaydet.config import MergeConfig, SourceConfig
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
    with pytest.raises(RelayError, match="leaves no image: HELD_OUT has them all"):
        merge(replace(config, duplicates="drop"), say=quiet)


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


@pytest.mark.parametrize(
    "change",
    [
        {"dataset": "held"},
        {"dataset": "he", "split": ("ld=0.5",), "held_out": ("he_ld",)},
        {"dataset": "d", "sources": "demo", "split": ("heldout=0.5",), "held_out": ()},
    ],
    ids=["the dataset", "a part of it", "the demo's own"],
)
def test_a_held_out_set_is_never_written_over(tmp_path, change):
    config = MergeConfig(held_out=("held",), store=str(tmp_path / "store"))
    with pytest.raises(RelayError, match=r"HELD_OUT: .* this merge writes"):
        merge(replace(config, **change), say=quiet)
    assert not (tmp_path / "store").exists()


def test_a_source_without_the_categories_is_left_out(sources, config):
    walkers = replace(sources[0], categories=("person=walker",))
    config = replace(config, sources=(walkers, sources[1]), categories=("walker",))
    result = merge(config, say=quiet)
    assert [(f.source, f.severity) for f in result.findings if f.code == "source-empty"] == [
        ("search", "warning")
    ]
    assert list(result.images) == ["street"]
    assert {image.source for image in result.dataset.images} == {"street"}


def test_a_held_out_set_may_lack_a_source_and_its_images_be_elsewhere(twice, tmp_path):
    street, copy = twice
    merge(MergeConfig("held", (street,), ("person",), str(tmp_path)), say=quiet)
    annotations = tmp_path / "datasets/held/annotations.json"
    file = json.loads(annotations.read_text())
    file["info"]["sources"]["street"]["images"] = "/nowhere"
    file["info"]["sources"]["empty"] = {"images": "/nowhere/either"}
    annotations.write_text(json.dumps(file))
    config = MergeConfig(
        "train",
        (replace(copy, name="mine"),),
        ("person",),
        str(tmp_path),
        held_out=("held",),
        images=(f"street={street.images}",),
    )
    assert "image-leaked" in codes(merge(config, say=quiet))


def test_held_out_images_that_cannot_be_compared_are_named(twice, tmp_path):
    street, copy = twice
    merge(MergeConfig("held", (copy,), ("person",), str(tmp_path)), say=quiet)
    first = json.loads((tmp_path / "datasets/held/annotations.json").read_text())["images"][0]
    (Path(copy.images) / first["file_name"].split("/", 1)[1]).unlink()
    config = MergeConfig("train", (street,), ("person",), str(tmp_path), held_out=("held",))
    found = [f for f in merge(config, say=quiet).findings if f.code == "image-missing"]
    assert [(f.source, f.action) for f in found] == [("held: copy", "not compared")]


def test_of_two_copies_the_one_with_boxes_stays(tmp_path):
    """The copy that comes first loses its only box, and must not take the other with it."""
    Image.effect_noise((60, 40), 50).save(tmp_path / "a.png")
    sources = []
    for name, width in (("p", 0), ("q", 9)):
        file = {
            "images": [{"id": 1, "file_name": "a.png", "width": 60, "height": 40}],
            "annotations": [
                {"id": 1, "image_id": 1, "category_id": 1, "bbox": [1, 2, width, 4], "area": 9}
            ],
            "categories": [{"id": 1, "name": "person"}],
        }
        (tmp_path / f"{name}.json").write_text(json.dumps(file))
        sources.append(SourceConfig(name, "coco", str(tmp_path / f"{name}.json"), str(tmp_path)))
    config = MergeConfig("d", tuple(sources), ("person",), str(tmp_path / "s"), duplicates="drop")
    assert [i.source for i in merge(config, say=quiet).dataset.images] == ["q"]


def test_an_image_that_only_breaks_when_decoded_does_not_stop_the_merge(twice, tmp_path):
    _, copy = twice
    for path in Path(copy.images).iterdir():
        Image.open(path).save(path.with_suffix(".png"))
        data = bytearray(path.with_suffix(".png").read_bytes())
        middle = len(data) // 2
        data[middle : middle + 200] = bytes(200)
        path.write_bytes(data)
    result = merge(MergeConfig("d", (copy,), ("person",), str(tmp_path / "s")), say=quiet)
    assert "samples_copy" in result.pictures


@pytest.mark.parametrize("name", ["a/b", "..", "n" * 101, "nul\0"])
def test_a_source_name_that_cannot_be_a_folder(config, sources, tmp_path, name):
    with pytest.raises(RelayError, match="SOURCES: name"):
        merge(replace(config, sources=(replace(sources[0], name=name),)), say=quiet)
    assert not (tmp_path / "store").exists()


def test_an_earlier_dataset_beside_a_whole_split_is_named(config):
    merge(config, say=quiet)
    result = merge(replace(config, split=("train=0.5", "val=0.5")), say=quiet)
    assert "dataset-older" in codes(result)
    assert set(result.written) == {"people_train", "people_val"}


@pytest.mark.parametrize("seed", [-1, 2**63, 2**70])
def test_a_seed_that_is_none(config, seed):
    with pytest.raises(RelayError, match="SEED"):
        merge(replace(config, seed=seed, max_images=2), say=quiet)
