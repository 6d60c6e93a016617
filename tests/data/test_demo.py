"""The demo set: what is in its files, judged with the programs that read the real ones."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as masks
from pycocotools.coco import COCO
from scipy.io import loadmat

from relaydet.data.demo import write_demo

SIZES = (24, 16, 8)


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    return folder, write_demo(folder, 0, SIZES)


def digests(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
    }


def mat(source, *parts: str) -> np.ndarray:
    path = Path(source.annotations).joinpath(*parts)
    return loadmat(path)[{"Images": "Img"}.get(path.stem, path.stem)]


def search_boxes(source) -> list[tuple[str, np.ndarray, int]]:
    return [
        (image["imname"][0], person["idlocate"], int(person["ishard"][0, 0]))
        for image in mat(source, "Images.mat")[0]
        for person in image["box"][0]
    ]


def relative_sizes(source) -> list[float]:
    if source.format == "cuhk_sysu":
        width, height = Image.open(next(Path(source.images).glob("*.jpg"))).size
        boxes = np.concatenate([box for _, box, _ in search_boxes(source)]).astype(float)
        return list(boxes[:, 2] * boxes[:, 3] / (width * height))
    file = json.loads(Path(source.annotations).read_text())
    pixels = {image["id"]: image["width"] * image["height"] for image in file["images"]}
    person = next(c["id"] for c in file["categories"] if c["name"] == "person")
    return [
        a["bbox"][2] * a["bbox"][3] / pixels[a["image_id"]]
        for a in file["annotations"]
        if a["category_id"] == person and not a["iscrowd"]
    ]


def test_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path):
    sizes = (3, 3, 2)
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        write_demo(tmp_path / name, seed, sizes)
    first, again, other = (digests(tmp_path / name) for name in "abc")
    assert first == again
    shared = [name for name in first if name in other and name.endswith(".jpg")]
    assert shared
    assert all(first[name] != other[name] for name in shared)


def test_a_scene_does_not_depend_on_how_many_there_are(demo, tmp_path):
    folder, _ = demo
    write_demo(tmp_path, 0, (2, 2, 1))
    few, many = digests(tmp_path), digests(folder)
    pictures = [name for name in few if name.endswith(".jpg")]
    assert len(pictures) == 5
    assert all(few[name] == many[name] for name in pictures)


def test_finished_demo_is_not_drawn_again(demo):
    folder, sources = demo
    before = digests(folder)
    drawn = []
    assert write_demo(folder, 0, SIZES, progress=lambda jobs: drawn.append(jobs) or jobs) == sources
    assert drawn == []
    assert digests(folder) == before


def test_interrupted_demo_is_drawn_again(tmp_path):
    def stop_early(jobs):
        for number, job in enumerate(jobs):
            if number == 3:
                raise KeyboardInterrupt
            yield job

    sizes = (2, 2, 1)
    write_demo(tmp_path / "whole", 1, sizes)
    write_demo(tmp_path / "cut", 0, sizes)
    with pytest.raises(KeyboardInterrupt):
        write_demo(tmp_path / "cut", 1, sizes, progress=stop_early)
    # What was there first has gone too: a half-replaced demo must not pass for the old one.
    assert not (tmp_path / "cut" / "demo.json").exists()
    write_demo(tmp_path / "cut", 1, sizes)
    assert digests(tmp_path / "cut") == digests(tmp_path / "whole")


def test_every_scene_is_drawn_and_listed(demo):
    _, sources = demo
    for source, size in zip(sources, SIZES, strict=True):
        files = {path.name for path in Path(source.images).iterdir()}
        if source.format == "coco":
            file = json.loads(Path(source.annotations).read_text())
            listed = {image["file_name"] for image in file["images"]}
        else:
            listed = {image["imname"][0] for image in mat(source, "Images.mat")[0]}
        assert len(files) == size
        assert files == listed


@pytest.mark.parametrize("index", [0, 2])
def test_coco_files_open_and_masks_agree_with_areas_and_boxes(demo, index, capsys):
    source = demo[1][index]
    coco = COCO(source.annotations)
    capsys.readouterr()
    assert coco.anns
    for annotation in coco.anns.values():
        image = coco.imgs[annotation["image_id"]]
        with Image.open(Path(source.images) / image["file_name"]) as picture:
            assert picture.size == (image["width"], image["height"])
        x, y, w, h = annotation["bbox"]
        assert min(x, y) >= 0
        assert min(w, h) > 0
        assert x + w <= image["width"] + 0.01
        assert y + h <= image["height"] + 0.01
        assert all(value == round(value, 2) for value in annotation["bbox"])
        rle = coco.annToRLE(annotation)
        assert masks.area(rle) == pytest.approx(annotation["area"], rel=0.12, abs=12)
        assert masks.toBbox(rle) == pytest.approx([x, y, w, h], abs=2)


def test_street_has_other_categories_crowds_and_parts(demo):
    file = json.loads(Path(demo[1][0].annotations).read_text())
    ids = {category["name"]: category["id"] for category in file["categories"]}
    assert ids["person"] == 1
    assert sorted(ids.values()) != list(range(1, len(ids) + 1))
    assert {a["category_id"] for a in file["annotations"]} == set(ids.values())
    crowds = [a for a in file["annotations"] if a["iscrowd"]]
    assert crowds
    sizes = {image["id"]: [image["height"], image["width"]] for image in file["images"]}
    for crowd in crowds:
        assert crowd["category_id"] == ids["person"]
        assert crowd["segmentation"]["size"] == sizes[crowd["image_id"]]
        assert sum(crowd["segmentation"]["counts"]) == np.prod(sizes[crowd["image_id"]])
    persons = [a for a in file["annotations"] if not a["iscrowd"] and a["category_id"] == 1]
    assert any(len(a["segmentation"]) > 2 for a in persons)
    assert all(a["area"] < a["bbox"][2] * a["bbox"][3] for a in persons)
    assert {image["width"] > image["height"] for image in file["images"]} == {True, False}


def test_inhouse_has_persons_only_under_its_own_number(demo):
    street, _, inhouse = (json.loads(Path(s.annotations).read_text()) if s.format == "coco" else {}
                          for s in demo[1])  # fmt: skip
    assert [category["name"] for category in inhouse["categories"]] == ["person"]
    person = inhouse["categories"][0]["id"]
    assert person not in {category["id"] for category in street["categories"]}
    assert {a["category_id"] for a in inhouse["annotations"]} == {person}


def test_search_boxes_are_counted_from_one_in_the_smallest_type(demo):
    source = demo[1][1]
    boxes = search_boxes(source)
    for name, box, hard in boxes:
        assert box.shape == (1, 4)
        assert box.dtype == (np.uint8 if box.max() < 256 else np.uint16)
        x, y, w, h = box[0].astype(int)
        with Image.open(Path(source.images) / name) as picture:
            assert x + w <= picture.width
            assert y + h <= picture.height
        assert min(x, y) >= 1
        assert hard in (0, 1)
    assert {box.dtype.name for _, box, _ in boxes} == {"uint8", "uint16"}
    assert sum(box[0, 2] == 0 or box[0, 3] == 0 for _, box, _ in boxes) == 2
    assert {hard for _, _, hard in boxes} == {0, 1}


def test_search_parts_and_identities_agree_with_the_images(demo):
    source = demo[1][1]
    images = mat(source, "Images.mat")
    assert images.shape == (1, SIZES[1])
    assert images.dtype.names == ("imname", "nAppear", "box")
    for image in images[0]:
        assert image["box"].dtype.names == ("idlocate", "ishard")
        assert image["nAppear"][0, 0] == image["box"].shape[1]
    names = [image["imname"][0] for image in images[0]]
    numbers = sorted(int(name[1:-4]) for name in names)
    assert numbers[-1] > len(numbers), "the names have gaps"

    pool = mat(source, "pool.mat")
    assert pool.dtype == object
    assert pool.shape[1] == 1
    assert pool[0, 0].shape == (1, 1)
    test_names = {str(cell[0, 0][0]) for cell in pool[:, 0]}
    assert test_names < set(names)

    train = mat(source, "test", "train_test", "Train.mat")
    assert train.shape[1] == 1
    assert all(cell.shape == (1, 1) for cell in train[:, 0])
    persons = mat(source, "Person.mat")
    assert persons.shape[1] > train.shape[0] > 0
    known = {(name, tuple(box[0])) for name, box, _ in search_boxes(source)}
    in_train = {cell[0, 0]["idname"][0] for cell in train[:, 0]}
    for person in [*persons[0], *(cell[0, 0] for cell in train[:, 0])]:
        assert person.dtype.names == ("idname", "nAppear", "scene")
        assert person["nAppear"][0, 0] == person["scene"].shape[1] >= 2
        for scene in person["scene"][0]:
            name = scene["imname"][0]
            assert (name, tuple(scene["idlocate"][0])) in known
            assert (name in test_names) == (person["idname"][0] not in in_train)


def test_search_queries_have_the_real_nesting(demo):
    source = demo[1][1]
    queries = mat(source, "test", "train_test", "TestG50.mat")
    assert queries.dtype.names == ("Query", "Gallery")
    assert queries.shape[0] == 1
    assert queries.shape[1] > 0
    for row in queries[0]:
        assert row["Query"].shape == (1, 1)
        assert row["Query"].dtype.names == ("imname", "idlocate", "ishard", "idname")
        assert row["Gallery"].dtype.names == ("imname", "idlocate", "ishard")
        gallery = row["Gallery"][0]
        names = [place["imname"][0] for place in gallery]
        assert row["Query"][0, 0]["imname"][0] not in names
        assert len(set(names)) == len(names)
        shapes = {place["idlocate"].shape for place in gallery}
        assert shapes == {(1, 4), (1, 0)}
        empty = [place for place in gallery if place["idlocate"].size == 0]
        for place in empty:
            assert place["idlocate"].dtype == np.float64
            assert (place["ishard"].shape, place["ishard"].dtype) == ((1, 0), np.float64)


def test_people_are_small_in_search_larger_inhouse_and_largest_in_the_street(demo):
    street, search, inhouse = (np.mean(relative_sizes(source)) for source in demo[1])
    assert 0 < search < inhouse < street
