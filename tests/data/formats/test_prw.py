"""PRW's folder of .mat files, written here as the real one is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy.io import savemat

from relaydet.config import SourceConfig
from relaydet.data.checks.boxes import check_boxes
from relaydet.data.checks.files import check_images
from relaydet.data.dataset import extra_fields
from relaydet.data.formats import read_source
from relaydet.data.images import open_images
from relaydet.errors import RelayError

TRAIN, TEST, OTHER = "c1s1_000151", "c2s1_000201", "c3s3_000301"
# As in the real files: floats, one of which begins left of the image.
BOXES = np.array([[479, 10.25, 20.5, 30.0, 60.0], [-2, -1.75, 5.0, 12.5, 40.0]])
BYTES = np.array([[7, 200, 1, 100, 150]], dtype=np.uint8)  # x + width wraps in uint8


def write_list(path: Path, variable: str, *names: str) -> None:
    array = np.empty((len(names), 1), dtype=object)
    for row, name in enumerate(names):
        array[row, 0] = name
    savemat(path, {variable: array})


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory) -> Path:
    return write_folder(tmp_path_factory.mktemp("prw"))


@pytest.fixture
def folder(tmp_path) -> Path:
    """Three frames, each with its boxes under another name; the third is in no list."""
    return write_folder(tmp_path)


def write_folder(root: Path) -> Path:
    (root / "annotations").mkdir()
    (root / "frames").mkdir()
    boxes = {TRAIN: ("box_new", BOXES), TEST: ("anno_file", BYTES)}
    boxes[OTHER] = ("anno_previous", np.zeros((0, 5)))
    for frame, (variable, rows) in boxes.items():
        savemat(root / "annotations" / f"{frame}.jpg.mat", {variable: rows})
        Image.new("RGB", (300, 200)).save(root / "frames" / f"{frame}.jpg")
    write_list(root / "frame_train.mat", "img_index_train", TRAIN)
    write_list(root / "frame_test.mat", "img_index_test", TEST)
    return root


def source_of(folder: Path, **options) -> SourceConfig:
    return SourceConfig("wild", "prw", str(folder), str(folder / "frames"), **options)


def read(folder: Path, **options):
    return read_source(source_of(folder, **options))


def test_all_that_the_files_say_is_read(folder):
    dataset, findings = read(folder)
    assert [(i.id, i.file_name, i.width, i.height) for i in dataset.images] == [
        (1, f"{TRAIN}.jpg", 0, 0),
        (2, f"{TEST}.jpg", 0, 0),
        (3, f"{OTHER}.jpg", 0, 0),
    ]
    assert [extra_fields(i) for i in dataset.images] == [{"split": "train"}, {"split": "test"}, {}]
    assert [(a.id, a.image_id, a.bbox, a.area, a.iscrowd) for a in dataset.annotations] == [
        (1, 1, (9.25, 19.5, 30.0, 60.0), 1800.0, 0),
        (2, 1, (-2.75, 4.0, 12.5, 40.0), 500.0, 0),
        (3, 2, (199.0, 0.0, 100.0, 150.0), 15000.0, 0),
    ]
    assert [extra_fields(a) for a in dataset.annotations] == [
        {"pid": 479, "raw_bbox": [10.25, 20.5, 30.0, 60.0]},
        {"pid": -2, "raw_bbox": [-1.75, 5.0, 12.5, 40.0]},
        {"pid": 7, "raw_bbox": [200, 1, 100, 150]},
    ]
    assert [(c.id, c.name) for c in dataset.categories] == [(1, "person")]
    assert [f.code for f in findings] == ["frame-unlisted"]


def test_sizes_come_from_the_frames_and_boxes_are_clamped_to_them(folder):
    source = source_of(folder)
    images = open_images(source.images)
    dataset = check_images(read_source(source)[0], images, source.name).dataset
    dataset, findings = check_boxes(dataset, source.name)
    assert {(i.width, i.height) for i in dataset.images} == {(300, 200)}
    assert dataset.annotations[1].bbox == (0.0, 4.0, pytest.approx(9.75), 40.0)
    assert extra_fields(dataset.annotations[1])["raw_bbox"] == [-1.75, 5.0, 12.5, 40.0]
    assert [f.code for f in findings] == ["box-clamped"]


@pytest.mark.parametrize(
    ("offset", "left"), [(1, (9.25, -2.75, 199)), (0, (10.25, -1.75, 200)), (0.5, (9.75,))]
)
def test_the_offset_is_the_users_choice(folder, offset, left):
    dataset, _ = read(folder, offset=offset)
    assert [a.bbox[0] for a in dataset.annotations][: len(left)] == list(left)
    assert extra_fields(dataset.annotations[0])["raw_bbox"][0] == 10.25


@pytest.mark.parametrize(
    "row",
    [[3, 5, 5, 1e308, 10], [3, 5, 5, 1e200, 1e200], [3, 5, 5, np.inf, 1], [3, np.nan, 5, 1, 1]],
)
def test_a_box_that_is_not_finite_is_dropped(folder, row):
    savemat(folder / "annotations" / f"{TRAIN}.jpg.mat", {"box_new": np.array([row, BOXES[0]])})
    dataset, findings = read(folder, split="train")
    assert [a.area for a in dataset.annotations] == [1800.0]
    assert [(f.code, f.image) for f in findings if f.image] == [("box-empty", f"{TRAIN}.jpg")]


@pytest.mark.parametrize(
    ("annotations", "message"), [("", "annotations are empty"), ("x" * 5000, "cannot be listed")]
)
def test_paths_that_are_none_are_refused(annotations, message):
    with pytest.raises(RelayError, match=message):
        read_source(SourceConfig("wild", "prw", annotations, "."))


@pytest.mark.parametrize(("split", "frames"), [("train", [TRAIN]), ("test", [TEST])])
def test_a_split_takes_its_frames_and_needs_no_other_list(folder, split, frames):
    other = {"train": "test", "test": "train"}[split]
    for unlinked in (False, True):
        if unlinked:
            (folder / f"frame_{other}.mat").unlink()
        dataset, _ = read(folder, split=split)
        assert [i.file_name for i in dataset.images] == [f"{frame}.jpg" for frame in frames]
        assert {a.image_id for a in dataset.annotations} == {1}


def test_all_needs_no_list(folder):
    (folder / "frame_train.mat").unlink()
    (folder / "frame_test.mat").unlink()
    dataset, findings = read(folder)
    assert [extra_fields(image) for image in dataset.images] == [{}, {}, {}]
    assert [(f.code, f.severity) for f in findings] == [("split-unknown", "info")] * 2


def test_lists_that_do_not_fit_are_named(folder):
    write_list(folder / "frame_train.mat", "image_index_train", f"{TRAIN}.jpg", "c9", TEST)
    dataset, findings = read(folder)
    assert [extra_fields(i).get("split") for i in dataset.images] == ["train", "train", None]
    assert [(f.code, f.severity) for f in findings] == [
        ("annotation-missing", "warning"),
        ("split-unclear", "warning"),
        ("frame-unlisted", "info"),
    ]
    assert "c9.jpg" in findings[0].message


def test_files_that_are_no_annotations_are_left(folder):
    (folder / "annotations" / f"._{TRAIN}.jpg.mat").write_bytes(b"")
    (folder / "annotations" / "readme.txt").write_bytes(b"")
    dataset, findings = read(folder)
    assert len(dataset.images) == 3
    assert [f.code for f in findings] == ["file-left", "frame-unlisted"]


@pytest.mark.parametrize(
    "row", [[1, 5, 5, 0, 9], [1, 5, 5, 9, -1], [1, np.nan, 5, 9, 9], [np.inf, 5, 5, 9, 9]]
)
def test_a_row_that_is_no_box_is_dropped(folder, row):
    rows = np.array([row, [3, 1, 1, 2, 2]], dtype=float)
    savemat(folder / "annotations" / f"{TRAIN}.jpg.mat", {"box_new": rows})
    dataset, findings = read(folder, split="train")
    assert [extra_fields(a)["pid"] for a in dataset.annotations] == [3]
    assert [(f.code, f.image) for f in findings][-1] == ("box-empty", f"{TRAIN}.jpg")


def test_of_several_variables_the_newest_is_taken(folder):
    variables = {"anno_previous": BYTES, "box_new": BOXES, "anno_file": BYTES}
    savemat(folder / "annotations" / f"{TRAIN}.jpg.mat", variables)
    assert len(read(folder, split="train")[0].annotations) == 2


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            f"annotations/{TRAIN}.jpg.mat",
            {"boxes": BOXES},
            "none of the variables box_new, .*boxes",
        ),
        (f"annotations/{TRAIN}.jpg.mat", {"box_new": BOXES[:, :4]}, r"five numbers.*\(2, 4\)"),
        (f"annotations/{TRAIN}.jpg.mat", {"box_new": "no"}, "five numbers.*no numbers"),
        (f"annotations/{TRAIN}.jpg.mat", {"box_new": np.ones((10_001, 5))}, "10001 boxes"),
        (f"annotations/{TRAIN}.jpg.mat", b"MATLAB", "not a readable .mat file"),
        ("frame_train.mat", {"frames": 1}, "none of the variables img_index_train.*frames"),
        ("frame_train.mat", {"img_index_train": 1}, "names no frame"),
        ("frame_train.mat", b"", "not a readable .mat file"),
        ("frame_train.mat", None, "frame_train.mat: does not exist"),
        ("annotations", None, "annotations: cannot be listed"),
    ],
)
def test_broken_folders_are_refused(folder, name, content, message):
    path = folder / name
    if isinstance(content, dict):
        savemat(path, content)
    elif content is not None:
        path.write_bytes(content)
    else:
        path.rename(folder / "elsewhere")
    with pytest.raises(RelayError, match=message):
        read(folder, split="train")


def test_a_split_without_annotations_is_refused(folder):
    write_list(folder / "frame_train.mat", "img_index_train", "c9")
    with pytest.raises(RelayError, match="no frame of the split train"):
        read(folder, split="train")
    for path in (folder / "annotations").iterdir():
        path.unlink()
    with pytest.raises(RelayError, match="holds no annotation file"):
        read(folder)


@pytest.mark.parametrize(
    ("options", "message"), [({"split": "val"}, "split is 'val'"), ({"annotations": "no\0"}, "no")]
)
def test_broken_configurations_are_refused(folder, options, message):
    fields = {"annotations": str(folder), "images": str(folder), **options}
    with pytest.raises(RelayError, match=message):
        read_source(SourceConfig("wild", "prw", **fields))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.data(), st.sampled_from([f"annotations/{TRAIN}.jpg.mat", "frame_train.mat"]))
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
        assert all("raw_bbox" in extra_fields(a) for a in dataset.annotations)
    except RelayError:
        return
    finally:
        path.write_bytes(valid)
