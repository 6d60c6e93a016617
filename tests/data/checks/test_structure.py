"""What is listed twice, refers to nothing, or has the id 0."""

from __future__ import annotations

import pytest

from relaydet.data.checks.structure import check_structure
from relaydet.data.dataset import Annotation, Category, Dataset, Image
from relaydet.errors import RelayError

PERSON = Category(1, "person")


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
    ("given", "kinds"),
    [
        (dataset([image(0)], [annotation(image_id=0)]), ["image"]),
        (dataset(annotations=[annotation(0)]), ["annotation"]),
        (
            dataset(annotations=[annotation(category_id=0)], categories=[Category(0, "person")]),
            ["category"],
        ),
        (
            Dataset(
                [image(0), image(name="b.png")],
                [annotation(0, 0, 0), annotation()],
                [Category(0, "car"), PERSON],
            ),
            ["image", "annotation", "category"],
        ),
        (dataset([image("0")], [annotation("0", "0")]), []),  # text is no number
    ],
)
def test_an_id_of_zero_is_told_once_for_each_kind_of_record(given, kinds):
    checked, findings = check_structure(given, "src")
    assert [(f.code, f.severity, f.action) for f in findings] == [
        ("id-zero", "info", "renumbered")
    ] * len(kinds)
    for finding, kind in zip(findings, kinds, strict=True):
        assert f"one {kind} has the id 0" in finding.message
    assert checked == given


def test_what_pycocotools_makes_of_annotation_0_is_said():
    _, (finding,) = check_structure(dataset(annotations=[annotation(0)]), "src")
    assert "pycocotools never" in finding.message
    assert finding.annotation == 0


def test_a_file_of_two_images_is_named():
    given = dataset([image(1), image(2)], [annotation(1, 1), annotation(2, 2)])
    checked, findings = check_structure(given, "src")
    assert checked == given
    assert [(f.code, f.image) for f in findings] == [("image-file-shared", "a.png")]
    assert "of image 1 and of image 2" in findings[0].message
