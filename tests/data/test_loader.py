"""From a dataset to batches: which images and boxes are taken, and that workers change nothing."""

from __future__ import annotations

import errno
import os
from itertools import chain
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage

from relaydet.data import loader, workers
from relaydet.data.augment import Augmentation
from relaydet.data.dataset import Annotation, Category, Dataset, Image
from relaydet.data.images import open_images
from relaydet.data.loader import (
    Wait,
    batches_of_one_shape,
    evaluation_samples,
    read_batches,
    training_batches,
    training_samples,
)
from relaydet.data.order import BatchPlan
from relaydet.errors import DataError, RelayError

# id, source, width, height, boxes of objects, boxes of crowds
ROWS = [
    (11, "a", 20, 10, [(1, 2, 3, 4), (0, 0, 20, 10)], []),
    (12, "a", 10, 20, [], []),
    (13, "b", 12, 12, [(5, 5, 2, 2)], [(0, 0, 9, 9)]),
    (14, "b", 30, 10, [], [(0, 0, 30, 10)]),
    (15, "b", 16, 8, [(1.5, 2.25, 3, 4)], []),
]


@pytest.fixture
def made(tmp_path):
    """The rows as a dataset, and the folders of its images."""
    images, annotations = [], []
    for image_id, source, width, height, objects, crowds in ROWS:
        (tmp_path / source).mkdir(exist_ok=True)
        colour = (image_id, 2 * image_id, 3 * image_id)
        PillowImage.new("RGB", (width, height), colour).save(tmp_path / source / f"{image_id}.png")
        images.append(Image(image_id, f"{source}/{image_id}.png", width, height, source=source))
        for box, crowd in [(b, 0) for b in objects] + [(b, 1) for b in crowds]:
            number = len(annotations) + 1
            area = float(box[2] * box[3])
            annotations.append(Annotation(number, image_id, 2, tuple(box), area, iscrowd=crowd))
    folders = {source: open_images(str(tmp_path / source)) for source in ("a", "b")}
    return Dataset(images, annotations, [Category(1, "car"), Category(2, "person")]), folders


@pytest.mark.parametrize(
    ("include", "ids"),
    [
        pytest.param((), [11, 12, 13, 15], id="all sources; crowd-only 14 is left out"),
        pytest.param(("a",), [11, 12], id="one source; empty 12 is kept"),
        pytest.param(("a", "b"), [11, 12, 13, 15], id="both by name"),
        pytest.param(("c",), [], id="unknown source"),
    ],
)
def test_images_to_train_on(made, include, ids):
    samples = training_samples(*made, include)
    assert samples.image_ids_M.tolist() == ids
    assert len(samples) == len(ids)


def test_boxes_are_corners_without_crowds(made):
    samples = training_samples(*made)
    of_image = np.split(samples.boxes_N4, samples.starts[1:-1])
    assert [boxes.tolist() for boxes in of_image] == [
        [[1, 2, 4, 6], [0, 0, 20, 10]],
        [],
        [[5, 5, 7, 7]],
        [[1.5, 2.25, 4.5, 6.25]],
    ]
    assert samples.labels_N.tolist() == [2, 2, 2, 2]
    assert samples.groups_M().tolist() == [0, 1, 0, 0]


def batches_of(samples, workers: int, first_step: int = 0):
    plan = BatchPlan(3, samples.groups_M(), 2, first_step, 6)
    return list(training_batches(samples, plan, Augmentation(0.5, 0.3, 0.3), workers))


def test_samples_are_tensors_of_image_and_objects(made):
    samples = training_samples(*made)
    plan = BatchPlan(0, samples.groups_M(), 4, 0, 1)
    ((*batch,),) = training_batches(samples, plan, Augmentation(flip=0), 0)
    by_colour = {int(image[0, 0, 0]): (image, target) for image, target in batch}
    assert sorted(by_colour) == [11, 12, 13, 15]
    image, target = by_colour[11]
    assert (image.dtype, tuple(image.shape)) == (torch.uint8, (3, 10, 20))
    assert image[:, 0, 0].tolist() == [11, 22, 33], "red, green, blue"
    assert (target["boxes"].dtype, target["labels"].dtype) == (torch.float32, torch.int64)
    assert target["boxes"].tolist() == [[1, 2, 4, 6], [0, 0, 20, 10]]
    assert tuple(by_colour[12][1]["boxes"].shape) == (0, 4)


@pytest.mark.parametrize(
    ("workers", "first_step"), [(1, 0), (2, 0), (0, 3)], ids=["1 worker", "2 workers", "resumed"]
)
def test_workers_and_resuming_change_nothing(made, workers, first_step):
    samples = training_samples(*made)
    expected = batches_of(samples, 0)[first_step:]
    found = batches_of(samples, workers, first_step)
    assert [len(batch) for batch in found] == [len(batch) for batch in expected]
    for mine, theirs in zip(chain(*found), chain(*expected), strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert all(torch.equal(mine[1][key], theirs[1][key]) for key in ("boxes", "labels"))


@pytest.mark.parametrize("batch_size", [1, 2, 5, 9])
def test_every_image_comes_once_to_be_evaluated(made, batch_size):
    samples = evaluation_samples(*made)
    seen = {}
    batches = batches_of_one_shape(samples, batch_size, lambda height, width: (height, width))
    for indices, images in read_batches(samples, batches, workers=0):
        assert len(indices) <= batch_size
        seen.update(zip(indices, images, strict=True))
    assert sorted(seen) == list(range(len(ROWS)))
    for index, (image_id, _, width, height, *_) in enumerate(ROWS):
        assert tuple(seen[index].shape) == (3, height, width)
        assert int(seen[index][0, 0, 0]) == image_id == samples.image_ids_M[index]


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_went_bad_is_one_sentence(made, workers):
    dataset, folders = made
    (folders["a"].root / "11.png").write_bytes(b"no image")
    samples = training_samples(dataset, folders)
    plan = BatchPlan(0, samples.groups_M(), 4, 0, 1)
    with pytest.raises(RelayError, match=r"11\.png") as caught:
        list(training_batches(samples, plan, Augmentation(), workers))
    assert "Traceback" not in str(caught.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_image_that_has_another_size_than_when_it_was_merged_is_one_sentence(made, workers):
    """Its boxes are elsewhere by now, and flipped or resized they may have no size at all."""
    dataset, folders = made
    PillowImage.new("RGB", (4, 2)).save(folders["a"].root / "11.png")
    samples = training_samples(dataset, folders)
    plan = BatchPlan(0, samples.groups_M(), 4, 0, 1)
    with pytest.raises(RelayError, match=r"11\.png .*: is 4 x 2 pixels, and was 20 x 10"):
        list(training_batches(samples, plan, Augmentation(), workers))
    with pytest.raises(RelayError, match=r"11\.png .*: is 4 x 2 pixels, and was 20 x 10"):
        evaluation_samples(dataset, folders).read(0)


def test_slivers_without_a_size_in_float32_are_left_out(made):
    dataset, folders = made
    sliver = Annotation(99, 12, 2, (640.0, 1.0, 1e-6, 3.0), 3e-6)
    dataset.annotations.append(sliver)
    samples = training_samples(dataset, folders)
    assert (samples.boxes_N4[:, 2:] > samples.boxes_N4[:, :2]).all()


def test_batches_are_of_one_shape_whatever_their_order(made):
    samples = evaluation_samples(*made)
    batches = batches_of_one_shape(samples, 3, lambda height, width: (height > 5, 1))
    assert sorted(index for batch in batches for index in batch) == list(range(len(samples)))
    for batch in batches:
        assert 1 <= len(batch) <= 3
        assert len({bool(samples.heights_M[index] > 5) for index in batch}) == 1


def of_boxes(*boxes, width=640, height=480) -> Dataset:
    """One image with some boxes, and one with a good one."""
    images = [Image(1, "a/1.png", width, height, source="a"), Image(2, "a/2.png", 9, 9, source="a")]
    annotations = [Annotation(n, 1, 1, box, 1.0) for n, box in enumerate(boxes, start=1)]
    annotations.append(Annotation(99, 2, 1, (1, 1, 5, 5), 25.0))
    return Dataset(images, annotations, [Category(1, "person")])


@pytest.mark.parametrize(
    ("box", "stays"),
    [
        pytest.param((0, 100, 1e-5, 200), False, id="touches the edge by 1e-5"),
        pytest.param((0, 100, 5.6e-17, 200), False, id="by a last bit"),
        pytest.param((0.5, 20, 2e-5, 40), False, id="2e-5 wide: 0 once flipped"),
        pytest.param((630, 20, 2e-5, 40), False, id="2e-5 wide: 0 before it is flipped"),
        pytest.param((0.5, 20, 40, 1e-3), False, id="high, but not once resized"),
        pytest.param((0.5, 20, 0.049, 40), False, id="0.0098 px once resized by 5"),
        pytest.param((0.5, 20, 0.051, 40), True, id="0.0102 px"),
        pytest.param((-0.3, 100, 0.30001, 200), True, id="outside, and wide enough"),
        pytest.param((10, 20, 30, 40), True, id="a good one"),
    ],
)
def test_boxes_are_judged_by_what_flip_and_resize_make_of_them(box, stays):
    samples = training_samples(of_boxes(box, (10, 20, 30, 40)), {}, sides=(96, 128))
    assert len(samples.labels_N) == 2 + stays
    assert samples.file_names == ["a/1.png", "a/2.png"]
    if stays:
        assert samples.left_out == ()
    else:
        (line,) = samples.left_out
        assert line.startswith("1 boxes are left out")
        assert "annotation 1 of a/1.png" in line


def test_an_image_that_keeps_no_box_is_left_out_as_one_of_crowds_alone():
    samples = training_samples(of_boxes((0.5, 20, 2e-5, 40), (0.5, 20, 2e-5, 40)), {})
    assert samples.file_names == ["a/2.png"]
    assert samples.left_out[0].startswith("2 boxes")


@pytest.mark.parametrize(
    ("width", "height", "stays"),
    [(3000, 1, False), (1, 3000, False), (20000, 8, False), (100, 1, True), (1, 1, True),
     (128, 1, False)],
)  # fmt: skip
def test_images_with_a_side_of_nothing_are_left_out_by_name(width, height, stays):
    dataset = of_boxes(width=width, height=height)
    samples = training_samples(dataset, {}, sides=(96, 128))
    assert ("a/1.png" in samples.file_names) == stays
    if not stays:
        (line,) = samples.left_out
        assert "1 images are left out" in line
        assert "a/1.png" in line


@pytest.mark.parametrize(
    ("number", "moved", "away"),
    [
        pytest.param(errno.ENOTCONN, False, True, id="a mount that has died"),
        pytest.param(errno.ESTALE, False, True, id="a server that has forgotten us"),
        pytest.param(errno.ENOENT, False, False, id="no such file"),
        pytest.param(errno.ENOENT, True, True, id="no such file, as another disk is there now"),
        pytest.param(errno.EACCES, False, False, id="not allowed"),
    ],
)
def test_a_mount_that_is_away_is_told_from_an_image_that_is(made, monkeypatch, number, moved, away):
    """A mount is waited for; an image that is gone ends training at once."""
    dataset, folders = made

    def read_bytes(path: Path) -> bytes:
        if path.name == "12.png" and (not away or not came):
            came.append(1)
            raise OSError(number, os.strerror(number), str(path))
        return original(path)

    original, came = Path.read_bytes, []
    monkeypatch.setattr(Path, "read_bytes", read_bytes)
    monkeypatch.setattr(workers, "RETRY_SECONDS", 0.05)
    if moved:
        monkeypatch.setattr(loader, "_device", lambda place: -1)
    samples = training_samples(dataset, folders)
    plan, said = BatchPlan(0, samples.groups_M(), 4, 0, 1), []
    batches = training_batches(samples, plan, Augmentation(), 0, wait=Wait(say=said.append))
    if not away:
        with pytest.raises(DataError, match=r"12\.png.*remove the image"):
            next(batches)
        return
    assert len(next(batches)) == 4
    assert "12.png" in said[0]
    assert "mount the disk again" in said[0]
    assert said[1:] == ["images are read again"]
