"""Whether image files are there, open, and are what the annotations say."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager

import pytest
from PIL import Image as PillowImage

from relaydet.data.checks.files import check_images
from relaydet.data.checks.likeness import SIDE
from relaydet.data.checks.summing import MOST_FINDINGS
from relaydet.data.dataset import Annotation, Category, Dataset, Image
from relaydet.data.formats import read_source
from relaydet.data.images import open_images
from relaydet.errors import RelayError

PERSON = Category(1, "person")


def image(id=1, name="a.png", width=100, height=80) -> Image:
    return Image(id, name, width, height)


def annotation(id=1, image_id=1, category_id=1, bbox=(1.0, 2.0, 3.0, 4.0)) -> Annotation:
    return Annotation(id, image_id, category_id, bbox, 12.0)


def dataset(images=None, annotations=None, categories=None) -> Dataset:
    return Dataset(images or [image()], annotations or [annotation()], categories or [PERSON])


@pytest.fixture
def folder(tmp_path):
    exif = PillowImage.Exif()
    exif[0x0112] = 6
    PillowImage.new("RGB", (100, 80)).save(tmp_path / "a.png")
    PillowImage.new("RGB", (100, 80)).save(tmp_path / "turned.jpg", exif=exif)
    for name, mode in (
        ("grey.png", "L"),
        ("deep.png", "I;16"),
        ("print.jpg", "CMYK"),
        ("palette.png", "P"),
        ("alpha.png", "RGBA"),
    ):
        PillowImage.new(mode, (100, 80)).save(tmp_path / name)
    (tmp_path / "broken.png").write_bytes(b"x")
    return open_images(str(tmp_path))


@pytest.mark.parametrize(
    ("second", "size", "code"),
    [
        (image(2, "a.png"), (100, 80), None),
        (image(2, "a.png", 0, 0), (100, 80), None),
        (image(2, "a.png", 640, 480), (100, 80), "image-size-differs"),
        (image(2, "turned.jpg"), (100, 80), "image-turned"),
        (image(2, "grey.png"), (100, 80), "image-grey"),
        (image(2, "deep.png"), (100, 80), "image-grey"),
        (image(2, "print.jpg"), (100, 80), "image-cmyk"),
        (image(2, "palette.png"), (100, 80), "image-palette"),
        (image(2, "alpha.png"), (100, 80), "image-alpha"),
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
    with pytest.raises(
        RelayError, match=r"none of its 1 images can be used; the first: broken\.png cannot"
    ):
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


def test_only_colours_of_print_are_worth_a_warning(folder):
    names = ("grey.png", "palette.png", "alpha.png", "print.jpg")
    data = dataset([image(number, name) for number, name in enumerate(names, start=1)])
    findings = check_images(data, folder, "src").findings
    assert [f.severity for f in findings] == ["info", "info", "info", "warning"]
    assert findings[0].action == "read as RGB"
    assert findings[3].action == "converted to RGB"


def test_the_order_is_that_of_the_dataset_whatever_the_threads(folder):
    many = [image(i, ("a.png", "broken.png", "grey.png")[i % 3]) for i in range(1, 100)]
    one = check_images(dataset(many), folder, "src", threads=1)
    assert check_images(dataset(many), folder, "src", threads=7) == one
    assert [i.id for i in one.dataset.images] == [i for i in range(1, 100) if i % 3 != 1]


def test_too_many_findings_are_summed_up(folder):
    many = [image(number, "grey.png") for number in range(1, MOST_FINDINGS + 4)]
    findings = check_images(dataset(many), folder, "src").findings
    assert len(findings) == MOST_FINDINGS + 1
    assert "3 more are image-grey" in findings[-1].message


def test_thumbnails_are_made_on_demand(folder):
    assert check_images(dataset(), folder, "src").files[1].thumbnail is None
    files = check_images(dataset(), folder, "src", likeness=True).files
    assert files[1].thumbnail == bytes(SIDE * SIDE)


@pytest.mark.parametrize("split", ["train2017", "val2017"])
def test_real_photos_pass(real_source, split):
    source = real_source("coco_mini", split)
    read, _ = read_source(source)
    checked = check_images(read, open_images(source.images), source.name)
    assert len(checked.dataset.images) == len(read.images)
    assert {f.code for f in checked.findings} <= {"image-grey"}
