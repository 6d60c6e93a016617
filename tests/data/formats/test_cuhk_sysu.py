"""CUHK-SYSU's .mat files: written here nested as the real ones are, and the real TestG100."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import savemat

from relaydet.config import SourceConfig
from relaydet.data.dataset import extra_fields
from relaydet.data.formats import read_source
from relaydet.data.formats.cuhk_sysu import read_test, read_test_boxes
from relaydet.errors import RelayError

BYTE_BOX = np.array([[200, 1, 100, 150]], dtype=np.uint8)  # x + width wraps in uint8
WIDE_BOX = np.array([[1, 90, 88, 300]], dtype=np.uint16)
FLAT_BOX = np.array([[5, 5, 0, 9]], dtype=np.uint8)


def struct(rows: list[tuple], *names: str) -> np.ndarray:
    array = np.empty((1, len(rows)), dtype=[(name, object) for name in names])
    for column, row in enumerate(rows):
        array[0, column] = row
    return array


def cells(values: list) -> np.ndarray:
    array = np.empty((len(values), 1), dtype=object)
    for row, value in enumerate(values):
        array[row, 0] = value
    return array


def boxes(*rows: tuple) -> np.ndarray:
    return struct(list(rows), "idlocate", "ishard")


def person(name: str, *places: tuple) -> np.ndarray:
    scene = struct([(*place, 0) for place in places], "imname", "idlocate", "ishard")
    return struct([(name, len(places), scene)], "idname", "nAppear", "scene")


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three images, of which s3 is for testing."""
    return write_folder(tmp_path)


def write_folder(root: Path) -> Path:
    images = [
        ("s1.jpg", 3, boxes((BYTE_BOX, 0), (WIDE_BOX, 1), (FLAT_BOX, 0))),
        ("s2.jpg", 0, np.zeros((0, 0))),
        ("s3.jpg", 1, boxes((BYTE_BOX, 0))),
    ]
    (root / "test" / "train_test").mkdir(parents=True)
    savemat(root / "Images.mat", {"Img": struct(images, "imname", "nAppear", "box")})
    savemat(root / "pool.mat", {"pool": cells([cells(["s3.jpg"])])})
    train = cells([person("p12", ("s1.jpg", BYTE_BOX)), person("p13", ("s1.jpg", WIDE_BOX))])
    savemat(root / "test" / "train_test" / "Train.mat", {"Train": train})
    savemat(root / "Person.mat", {"Person": person("p99", ("s3.jpg", BYTE_BOX))})
    return root


def read(folder: Path, **options):
    return read_source(SourceConfig("search", "cuhk_sysu", str(folder), str(folder), **options))


def test_all_that_the_files_say_is_read(folder):
    dataset, findings = read(folder)
    assert [(i.id, i.file_name, i.width, i.height) for i in dataset.images] == [
        (1, "s1.jpg", 0, 0),
        (2, "s2.jpg", 0, 0),
        (3, "s3.jpg", 0, 0),
    ]
    assert [extra_fields(image)["split"] for image in dataset.images] == ["train", "train", "test"]
    assert [(a.id, a.image_id, a.bbox, a.area) for a in dataset.annotations] == [
        (1, 1, (199.0, 0.0, 100.0, 150.0), 15000.0),
        (2, 1, (0.0, 89.0, 88.0, 300.0), 26400.0),
        (3, 3, (199.0, 0.0, 100.0, 150.0), 15000.0),
    ]
    assert [extra_fields(a) for a in dataset.annotations] == [
        {"hard": 0, "pid": 12, "raw_bbox": [200, 1, 100, 150]},
        {"hard": 1, "pid": 13, "raw_bbox": [1, 90, 88, 300]},
        {"hard": 0, "pid": 99, "raw_bbox": [200, 1, 100, 150]},
    ]
    assert [(c.id, c.name) for c in dataset.categories] == [(1, "person")]
    assert [(f.code, f.image) for f in findings] == [("box-empty", "s1.jpg")]


@pytest.mark.parametrize(
    ("split", "names"),
    [
        ("all", ["s1.jpg", "s2.jpg", "s3.jpg"]),
        ("train", ["s1.jpg", "s2.jpg"]),
        ("test", ["s3.jpg"]),
    ],
)
def test_a_split_takes_its_images_and_their_boxes(folder, split, names):
    dataset, _ = read(folder, split=split)
    assert [image.file_name for image in dataset.images] == names
    assert {a.image_id for a in dataset.annotations} <= {image.id for image in dataset.images}


def test_only_a_split_needs_to_know_the_test_images(folder):
    (folder / "pool.mat").unlink()
    dataset, findings = read(folder)
    assert len(dataset.images) == 3
    assert [extra_fields(image) for image in dataset.images] == [{}, {}, {}]
    assert (findings[0].code, findings[0].severity) == ("split-unknown", "info")
    for split in ("train", "test"):
        with pytest.raises(RelayError, match=r"pool\.mat: does not exist"):
            read(folder, split=split)


def test_boxes_that_are_none_are_counted_on(folder):
    images = [("s1.jpg", 250, boxes(*[(FLAT_BOX, 0)] * 249, (BYTE_BOX, 0)))]
    savemat(folder / "Images.mat", {"Img": struct(images, "imname", "nAppear", "box")})
    dataset, findings = read(folder)
    assert len(dataset.annotations) == 1
    empty = [f for f in findings if f.code == "box-empty"]
    assert (len(empty), empty[-1].message[:7]) == (101, "149 mor")


@pytest.mark.parametrize(
    "box", [[5, 5, 1e308, 10], [5, 5, 1e200, 1e200], [5, 5, np.inf, 1], [np.nan, 5, 1, 1]]
)
def test_a_box_that_is_not_finite_is_dropped(folder, box):
    images = [("s1.jpg", 2, boxes((np.array([box]), 0), (BYTE_BOX, 0)))]
    savemat(folder / "Images.mat", {"Img": struct(images, "imname", "nAppear", "box")})
    dataset, findings = read(folder)
    assert [a.area for a in dataset.annotations] == [15000.0]
    assert [(f.code, f.image) for f in findings if f.image] == [("box-empty", "s1.jpg")]


@pytest.mark.parametrize(
    ("annotations", "message"), [("", "annotations are empty"), ("x" * 5000, "Images.mat")]
)
def test_paths_that_are_none_are_refused(annotations, message):
    with pytest.raises(RelayError, match=message):
        read_source(SourceConfig("search", "cuhk_sysu", annotations, "."))


@pytest.mark.parametrize(("name", "pid"), [("p0042", 42), ("42p", -1), ("9" * 5000, -1)])
def test_an_identity_is_the_number_its_name_ends_in(folder, name, pid):
    savemat(folder / "Person.mat", {"Person": person(name, ("s3.jpg", BYTE_BOX))})
    dataset, findings = read(folder, split="test")
    assert [extra_fields(a)["pid"] for a in dataset.annotations] == [pid]
    assert ("identity-unclear" in {f.code for f in findings}) == (pid == -1)


def test_the_offset_is_the_users_choice(folder):
    dataset, _ = read(folder, offset=0)
    assert dataset.annotations[0].bbox == (200.0, 1.0, 100.0, 150.0)


def test_identities_are_optional(folder):
    (folder / "Person.mat").unlink()
    (folder / "test" / "train_test" / "Train.mat").unlink()
    dataset, findings = read(folder)
    assert {extra_fields(a)["pid"] for a in dataset.annotations} == {-1}
    assert [f.code for f in findings].count("identities-missing") == 2


@pytest.mark.parametrize(
    ("name", "action", "message"),
    [
        ("Images.mat", "remove", "Images.mat: does not exist"),
        ("Images.mat", "truncate", "Images.mat: not a readable .mat file.*truncated"),
        ("Person.mat", "truncate", "Person.mat: not a readable .mat file"),
        ("Images.mat", "rename", "Images.mat: has no variable Img but other, second"),
        ("pool.mat", "rename", "pool.mat: has no variable pool but other"),
        ("Images.mat", "flatten", "Img should be a struct with the fields imname, box"),
        ("Images.mat", "hdf5", "version 7.3"),
        ("Images.mat", "unbox", "box of s1.jpg should be a struct with the fields idlocate"),
        ("Person.mat", "unplace", "scene of p9 should be a struct with the fields imname"),
    ],
)
def test_broken_folders_are_refused(folder, name, action, message):
    path = folder / name
    if action == "remove":
        path.unlink()
    elif action == "truncate":
        path.write_bytes(path.read_bytes()[:-60])
    elif action == "rename":
        savemat(path, {"other": 1, "second": 2})
    elif action == "unbox":
        savemat(path, {"Img": struct([("s1.jpg", 1, BYTE_BOX)], "imname", "nAppear", "box")})
    elif action == "unplace":
        savemat(path, {"Person": struct([("p9", 1, "s1.jpg")], "idname", "nAppear", "scene")})
    elif action == "flatten":
        savemat(path, {"Img": struct([(1,)], "imnames")})
    else:
        path.write_bytes(b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512))
    with pytest.raises(RelayError, match=message):
        read(folder)


@pytest.mark.parametrize(
    ("options", "message"), [({"split": "val"}, "split"), ({"annotations": "nowhere"}, "nowhere")]
)
def test_broken_configurations_are_refused(folder, options, message):
    fields = {"annotations": str(folder), "images": str(folder), **options}
    with pytest.raises(RelayError, match=message):
        read_source(SourceConfig("search", "cuhk_sysu", **fields))


@pytest.mark.parametrize(("stem", "variable"), [("TestG2", "TestG2"), ("renamed", "TestG2")])
def test_a_search_protocol_of_any_gallery_size(tmp_path, stem, variable):
    query = struct([("s1.jpg", WIDE_BOX, 1, "p1")], "imname", "idlocate", "ishard", "idname")
    slots = [("s3.jpg", BYTE_BOX, 0), ("s4.jpg", np.zeros((1, 0)), np.zeros((1, 0)))]
    gallery = struct(slots, "imname", "idlocate", "ishard")
    rows = struct([(query, gallery), (query, gallery[:, 1:])], "Query", "Gallery")
    savemat(tmp_path / f"{stem}.mat", {variable: rows})
    test = read_test(tmp_path / f"{stem}.mat")
    assert test.images == ["s1.jpg", "s1.jpg", "s3.jpg"]
    assert test.is_query.tolist() == test.is_hard.tolist() == [True, True, False]
    assert test.empty_slots == 2
    by_name = read_test_boxes(tmp_path / f"{stem}.mat")
    assert {name: found.tolist() for name, found in by_name.items()} == {
        "s1.jpg": [[1, 90, 88, 300]] * 2,
        "s3.jpg": [[200, 1, 100, 150]],
    }


def test_a_search_protocol_without_its_variable_is_refused(tmp_path):
    savemat(tmp_path / "TestG2.mat", {"pool": 1})
    with pytest.raises(RelayError, match="no variable TestG2 but pool"):
        read_test(tmp_path / "TestG2.mat")
    with pytest.raises(RelayError, match="does not exist"):
        read_test(tmp_path / "TestG3.mat")


def test_the_real_search_protocol(shared):
    test = read_test(shared("cuhk_sysu", "TestG100.mat"))
    assert test.boxes.dtype == np.float64
    assert test.boxes.shape == (8347, 4)
    assert test.is_query.sum() == 2900
    assert test.is_hard[test.is_query].sum() == 193
    assert test.empty_slots == 284_553
    # MATLAB stores a box as uint8 where every value fits.
    assert (test.boxes.max(axis=1) <= 255).sum() == 1301
    assert test.boxes[:, :2].min(axis=0).tolist() == [1, 1]
    assert (test.boxes[:, :2] + test.boxes[:, 2:]).max(axis=0).tolist() == [800, 800]
    train = {
        Path(line).name
        for line in shared("cuhk_sysu", "splits", "cuhksysu.train").read_text().split()
    }
    assert (len(set(test.images)), len(train)) == (6978, 11_206)
    assert train.isdisjoint(test.images)


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("search"))


FILES = ("Images.mat", "pool.mat", "Person.mat", "test/train_test/Train.mat")


@settings(max_examples=200, deadline=None)
@given(st.data(), st.sampled_from(FILES))
def test_any_bytes_give_a_dataset_or_a_relay_error(real_folder, data, name):
    path = real_folder / name
    valid = path.read_bytes()
    changed = bytearray(valid)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    try:
        path.write_bytes(data.draw(st.sampled_from([bytes(changed), data.draw(st.binary())])))
        dataset, _ = read(real_folder)
        assert all("pid" in extra_fields(a) for a in dataset.annotations)
    except RelayError:
        return
    finally:
        path.write_bytes(valid)
