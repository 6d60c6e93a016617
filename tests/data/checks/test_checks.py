"""What the checks drop, clamp and correct, and that they say so."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager

import pytest
from PIL import Image as PillowImage

from relaydet.data.checks.boxes import check_boxes
from relaydet.data.checks.files import check_images
from relaydet.data.checks.structure import check_structure
from relaydet.data.dataset import Annotation, Category, Dataset, Image, extra_fields, set_extra
from relaydet.data.formats import read_source
from relaydet.data.images import open_images
from relaydet.errors import RelayError

PERSON = Category(1, "person")
NAN, INF = float("nan"), float("inf")


def image(id=1, name="a.png", width=100, height=80) -> Image:
    return Image(id, name, width, height)


def annotation(id=1, image_id=1, category_id=1, bbox=(1.0, 2.0, 3.0, 4.0)) -> Annotation:
    return Annotation(id, image_id, category_id, bbox, 12.0)


def dataset(images=None, annotations=None, categories=None) -> Dataset:
    return Dataset(images or [image()], annotations or [annotation()], categories or [PERSON])


@pytest.mark.parametrize(
    ("given", "kept", "found"),
    [
        (dataset(), (1, 1, 1), []),
        # A repetition is dropped; two things under one id are not the same thing.
        (dataset([image(), image()]), (1, 1, 1), [("image-id-taken", "warning")]),
        (dataset([image(), image(name="b")]), (1, 1, 1), [("image-id-taken", "error")]),
        (
            dataset(categories=[PERSON, Category(1, "car")]),
            (1, 1, 1),
            [("category-id-taken", "error")],
        ),
        (
            dataset(annotations=[annotation(), annotation()]),
            (1, 1, 1),
            [("annotation-repeated", "warning")],
        ),
        (
            dataset(annotations=[annotation(), annotation(bbox=(5.0, 5.0, 5.0, 5.0))]),
            (1, 2, 1),
            [("annotation-id-taken", "warning")],
        ),
        (
            dataset(annotations=[annotation(), annotation(2, image_id=9)]),
            (1, 1, 1),
            [("image-id-unknown", "warning")],
        ),
        (
            dataset(annotations=[annotation(), annotation(2, category_id=9)]),
            (1, 1, 1),
            [("category-id-unknown", "warning")],
        ),
        # 1 and "1" are two ids.
        (
            dataset([image(), image("1", "b")], [annotation(), annotation(2, "1")]),
            (2, 2, 1),
            [],
        ),
    ],
)
def test_structure(given, kept, found):
    checked, findings = check_structure(given, "src")
    counts = (len(checked.images), len(checked.annotations), len(checked.categories))
    assert counts == kept
    assert [(f.code, f.severity) for f in findings] == found
    assert check_structure(given, "src") == (checked, findings)  # nothing was changed in place


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (Dataset([], [], []), "no image is left"),
        (dataset(annotations=[annotation(image_id="1")]), "none of its 1 annotations.*'1'"),
    ],
)
def test_a_dataset_of_nothing_is_refused(given, message):
    with pytest.raises(RelayError, match=f"source src: {message}"):
        check_structure(given, "src")


@pytest.mark.parametrize(
    ("bbox", "expected", "code"),
    [
        ((0.0, 0.0, 100.0, 80.0), (0.0, 0.0, 100.0, 80.0), None),
        ((0.1, 0.2, 99.9, 79.80000000000001), (0.1, 0.2, 99.9, 79.80000000000001), None),
        ((-10.0, 5.5, 30.0, 0.1), (0.0, 5.5, 20.0, 0.1), "box-clamped"),
        ((90.0, 70.0, 30.0, 30.0), (90.0, 70.0, 10.0, 10.0), "box-clamped"),
        ((-5.0, -5.0, 500.0, 500.0), (0.0, 0.0, 100.0, 80.0), "box-clamped"),
        ((200.0, 5.0, 3.0, 3.0), None, "box-outside"),
        ((-3.0, 5.0, 3.0, 3.0), None, "box-outside"),
        ((1.0, 2.0, 3.0, 0.0), None, "box-empty"),  # as in COCO train2017, annotation 918
        ((1.0, 2.0, -3.0, 4.0), None, "box-empty"),
        ((1.0, NAN, 3.0, 4.0), None, "box-empty"),
        ((1.0, 2.0, INF, 4.0), None, "box-empty"),
        ((1e308, 2.0, 1e308, 4.0), None, "box-empty"),
    ],
)
def test_boxes(bbox, expected, code):
    given = dataset(annotations=[annotation(bbox=bbox), annotation(2)])
    checked, findings = check_boxes(given, "src")
    assert [f.code for f in findings] == ([code] if code else [])
    assert [a.bbox for a in checked.annotations[:-1]] == ([expected] if expected else [])
    assert checked.annotations[-1] is given.annotations[1]
    if code == "box-clamped":
        assert extra_fields(checked.annotations[0]) == {"raw_bbox": list(bbox)}
        assert checked.annotations[0].area == 12.0
        assert extra_fields(given.annotations[0]) == {}
        assert (findings[0].image, findings[0].annotation) == ("a.png", 1)


def test_the_raw_box_of_the_source_is_not_replaced():
    reaching_out = annotation(bbox=(-1.0, 2.0, 3.0, 4.0))
    set_extra(reaching_out, raw_bbox=[0, 3, 3, 4])
    checked, _ = check_boxes(dataset(annotations=[reaching_out]), "src")
    assert extra_fields(checked.annotations[0]) == {"raw_bbox": [0, 3, 3, 4]}


def test_images_of_unknown_size_do_not_clamp():
    checked, findings = check_boxes(dataset([image(width=0)]), "src")
    assert (len(checked.annotations), findings) == (1, [])


@pytest.fixture
def folder(tmp_path):
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.new("RGB", (100, 80)).save(tmp_path / "a.png")
    PillowImage.new("RGB", (100, 80)).save(tmp_path / "turned.jpg", exif=exif)
    (tmp_path / "broken.png").write_bytes(b"x")
    return open_images(str(tmp_path))


@pytest.mark.parametrize(
    ("second", "size", "code"),
    [
        (image(2, "a.png"), (100, 80), None),
        (image(2, "a.png", 0, 0), (100, 80), None),
        (image(2, "a.png", 640, 480), (100, 80), "image-size-differs"),
        (image(2, "turned.jpg"), (100, 80), "image-turned"),
        (image(2, "missing.png"), None, "image-missing"),
        (image(2, "broken.png"), None, "image-unreadable"),
        (image(2, "../a.png"), None, "image-unreadable"),
    ],
)
def test_image_files(folder, second, size, code):
    given = dataset([image(), second], [annotation(), annotation(2, 2)])
    result = check_images(given, folder, "src")
    checked, findings = result.dataset, result.findings
    assert set(result.files) == {i.id for i in checked.images}
    assert [f.code for f in findings] == ([code] if code else [])
    assert [(i.width, i.height) for i in checked.images[1:]] == ([size] if size else [])
    assert len(checked.annotations) == len(checked.images)


def test_boxes_drawn_on_a_turned_image_are_suspected(folder):
    findings = check_images(dataset([image(1, "turned.jpg", 80, 100)]), folder, "src").findings
    assert [f.code for f in findings] == ["image-turned", "image-size-differs"]
    assert "boxes seem drawn on it as shown" in findings[0].message


def test_a_wrong_folder_is_named_with_an_example(folder):
    with pytest.raises(
        RelayError, match=f"none of its 1 images is in the folder.*{folder.root}.*b"
    ):
        check_images(dataset([image(name="b.png")]), folder, "src")
    with pytest.raises(RelayError, match="no image is left"):
        check_images(dataset([image(name="broken.png")]), folder, "src")


def test_progress_sees_every_image(folder):
    seen = []

    @contextmanager
    def bar(label, total, unit):
        seen.append((label, total, unit))
        yield seen.append

    check_images(dataset(), folder, "src", bar, threads=1)
    assert seen == [("checking images of src", 1, "image"), 1]


def test_the_digest_is_of_the_whole_file(folder):
    files = check_images(dataset(), folder, "src").files
    assert files[1].sha256 == hashlib.sha256(folder.read("a.png")).digest()


@pytest.mark.parametrize(
    ("folder", "split"), [("coco128", "train2017"), ("coco_mini", "train2017")]
)
def test_real_photos_pass(real_source, folder, split):
    source = real_source(folder, split)
    read, _ = read_source(source)
    sound, of_structure = check_structure(read, source.name)
    files = check_images(sound, open_images(source.images), source.name)
    checked, of_boxes = check_boxes(files.dataset, source.name)
    findings = of_structure + files.findings + of_boxes
    assert len(checked.images) == len(read.images)
    assert {f.code for f in findings} <= {"box-clamped"}
