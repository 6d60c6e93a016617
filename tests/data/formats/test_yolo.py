"""YOLO: labels found and read, broken ones named, and that writing gives back what was read."""

from __future__ import annotations

import codecs
import tracemalloc

import msgspec
import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw
from PIL import Image as PillowImage
from webserver import isolate, serve

from relaydet.config import SourceConfig
from relaydet.data.dataset import Annotation, Category, Dataset, Image, extra_fields, set_extra
from relaydet.data.formats import WRITERS, read_source, write_format
from relaydet.data.formats.noticed import MAX_OF_A_KIND
from relaydet.errors import RelayError

WIDTH, HEIGHT = 200, 100
FUZZ = {"suppress_health_check": [HealthCheck.function_scoped_fixture], "deadline": None}


@pytest.fixture
def make(tmp_path):
    """Write files from {path: text}, and images of 200 x 100 pixels."""

    def write_all(files: dict[str, str], *images: str):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        for name in images:
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            PillowImage.new("RGB", (WIDTH, HEIGHT)).save(tmp_path / name)
        return tmp_path

    return write_all


def read(annotations, images, **options):
    return read_source(SourceConfig("src", "yolo", str(annotations), str(images), **options))


def write(dataset: Dataset) -> tuple[dict[str, bytes], list]:
    files: dict[str, bytes] = {}
    return files, write_format("yolo", dataset, files.__setitem__)


def codes(findings) -> list[str]:
    return [finding.code for finding in findings]


def test_an_ultralytics_dataset(make):
    root = make(
        {
            "data.yaml": "path: .\ntrain: images/train\nval: [images/val]\nnames: [cat, no, '1']\n",
            "labels/train/a.txt": "0 0.5 0.5 0.25 0.5\n2 .1 0.10 2e-1 0.2",
            "labels/train/deep/b.txt": "\n",
            "labels/train/gone.txt": "0 0.5 0.5 0.1 0.1",
            "labels/val/classes.txt": "cat",
        },
        *("images/train/a.jpg", "images/train/deep/b.PNG", "images/train/c.jpg"),
        "images/val/d.bmp",
    )
    dataset, findings = read(root / "data.yaml", root / "images")
    assert [(i.id, i.file_name, i.width, i.height) for i in dataset.images] == [
        (1, "train/a.jpg", WIDTH, HEIGHT),
        (2, "train/c.jpg", WIDTH, HEIGHT),
        (3, "train/deep/b.PNG", WIDTH, HEIGHT),
        (4, "val/d.bmp", WIDTH, HEIGHT),
    ]
    assert [extra_fields(i)["split"] for i in dataset.images] == ["train"] * 3 + ["val"]
    assert [(c.id, c.name) for c in dataset.categories] == [(1, "cat"), (2, "no"), (3, "1")]
    assert [(a.id, a.image_id, a.category_id, a.bbox, a.area) for a in dataset.annotations] == [
        (1, 1, 1, (75.0, 25.0, 50.0, 50.0), 2500.0),
        (2, 1, 3, (0.0, 0.0, 40.0, 20.0), 800.0),
    ]
    assert extra_fields(dataset.annotations[1]) == {"raw_yolo": ".1 0.10 2e-1 0.2"}
    assert [(f.code, f.severity) for f in findings] == [("label-without-image", "warning")]
    assert "gone.txt" in findings[0].message
    assert [i.file_name for i in read(root / "data.yaml", root, split="val")[0].images] == [
        "images/val/d.bmp"
    ]


@pytest.mark.parametrize(
    ("content", "found"),
    [
        ("train: list.txt", ["images/b.jpg", "images/a.jpg"]),
        ("train: images\nval: images", ["images/a.jpg", "images/b.jpg"]),
        ("path: nowhere\ntrain: images", ["images/a.jpg", "images/b.jpg"]),
        ("train: ../images", ["images/a.jpg", "images/b.jpg"]),
        ("path: ..\ntrain: {folder}/images", ["images/a.jpg", "images/b.jpg"]),
    ],
)
def test_where_a_data_yaml_may_point(make, content, found):
    root = make(
        {"list.txt": "./images/b.jpg\r\n\nimages/a.jpg\n./images/b.jpg\n", "labels/a.txt": ""},
        *("images/a.jpg", "images/b.jpg"),
    )
    (root / "data.yaml").write_text(content.format(folder=root.name))
    dataset, findings = read(root / "data.yaml", root)
    assert ([i.file_name for i in dataset.images], findings) == (found, [])
    assert {extra_fields(i)["split"] for i in dataset.images} == {"train"}


@pytest.mark.parametrize(
    ("path", "labels"),
    [
        ("/d/images/a.jpg", "/d/labels/a.txt"),
        ("/d/images/images/x/a.b.jpg", "/d/images/labels/x/a.b.txt"),
        ("/d/a.jpg", "/d/a.txt"),
    ],
)
def test_where_labels_are(make, path, labels):
    root = make({labels[1:]: "0 0.5 0.5 1 1", "list.txt": f".{path}"}, path[1:])
    (root / "data.yaml").write_text("train: list.txt")
    assert len(read(root / "data.yaml", root)[0].annotations) == 1


@pytest.mark.parametrize(
    ("files", "names"),
    [
        ({}, {3: "class 2"}),
        ({"labels/classes.txt": "a\nb\nc d\n\n"}, {1: "a", 2: "b", 3: "c d"}),
        ({"obj.names": "a\r\n\r\n"}, {1: "a", 3: "class 2"}),
        ({"data.yaml": "names: {5: f, 2: c}"}, {3: "c", 6: "f"}),
        ({"labels/data.yaml": "names: [x]", "classes.txt": "a"}, {1: "x", 3: "class 2"}),
    ],
)
def test_a_folder_of_labels(make, files, names):
    root = make(
        {
            "labels/x/a.txt": "\ufeff2 0.5 0.5 1 1",
            "labels/b.txt": "",
            "labels/gone.txt": "",
            **files,
        },
        *("images/x/a.JPG", "images/b.png", "images/unlabelled.jpg"),
    )
    dataset, findings = read(root / "labels", root / "images")
    assert [i.file_name for i in dataset.images] == ["b.png", "x/a.JPG"]
    assert {c.id: c.name for c in dataset.categories} == names
    unnamed = ["class-unnamed"] if files and "class 2" in names.values() else []
    assert codes(findings) == ["label-without-image", *unnamed]


@pytest.mark.parametrize(
    ("line", "bbox", "code"),
    [
        ("0 0.5 0.5 0.5 0.5", (50, 25, 100, 50), None),
        ("0.0\t0.5  0.5 0.5 0.5 ", (50, 25, 100, 50), None),
        ("0 0.5 0.5 0.5 0.5 0.9", (50, 25, 100, 50), "label-confidence"),
        ("0 100 50 100 50", (10000, 2500, 20000, 5000), "label-not-normalised"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.6", (20, 10, 80, 50), None),
        ("0 0.5 0.5 0.5", None, "label-unusable"),
        ("0 0.1 0.1 0.5 0.1 0.5 0.6 1", None, "label-unusable"),
        ("0", None, "label-unusable"),
        ("0 nan 0.5 0.5 0.5", None, "label-unusable"),
        ("0 1e300 0.5 0.5 0.5", None, "label-unusable"),
        ("0 0,5 0.5 0.5 0.5", None, "label-unusable"),
        ("dog 0.5 0.5 0.5 0.5", None, "label-unusable"),
        ("-1 0.5 0.5 0.5 0.5", None, "label-unusable"),
        ("1.5 0.5 0.5 0.5 0.5", None, "label-unusable"),
        ("1e9 0.5 0.5 0.5 0.5", None, "label-unusable"),
    ],
)
def test_a_line(make, line, bbox, code):
    root = make({"labels/a.txt": f"{line}\n0 0.5 0.5 1 1\n"}, "a.jpg")
    dataset, findings = read(root / "labels", root)
    assert codes(findings) == ([code] if code else [])
    assert len(dataset.annotations) == (1 if bbox is None else 2)
    if bbox is not None:
        assert dataset.annotations[0].bbox == pytest.approx(bbox)
    if code:
        assert findings[0].message.startswith("line 1 of the labels of a.jpg")
        assert findings[0].action == ("dropped" if bbox is None else "kept")


def test_a_polygon_is_kept_in_pixels(make):
    root = make({"labels/a.txt": "0 0.1 0.1 0.5 0.1 0.5 0.6"}, "a.jpg")
    annotation = read(root / "labels", root)[0].annotations[0]
    assert msgspec.json.decode(annotation.segmentation) == [[20, 10, 100, 10, 100, 60]]
    assert annotation.area == pytest.approx(80 * 50 / 2)


@pytest.mark.parametrize("name", ["images", "classes", "obj.names", "s/images", "s/classes"])
def test_an_image_may_be_called_like_a_list(make, name):
    root = make({f"labels/{name}.txt": "1 0.5 0.5 1 1\n", "labels/b.txt": ""})
    make({"classes.txt": "cat\ndog\n"}, f"{name}.jpg", "b.jpg")
    dataset, findings = read(root / "labels", root)
    assert findings == []
    assert sorted(i.file_name for i in dataset.images) == sorted(["b.jpg", f"{name}.jpg"])
    assert [a.bbox for a in dataset.annotations] == [(0, 0, WIDTH, HEIGHT)]
    assert [c.name for c in dataset.categories] == ["cat", "dog"]


@pytest.mark.parametrize("labels", ["", "broken 1\n"])
def test_images_txt_is_no_list_where_there_is_such_an_image(make, labels):
    root = make({"labels/images.txt": labels}, "images.jpg")
    assert [i.file_name for i in read(root / "labels", root)[0].images] == ["images.jpg"]


def test_lists_in_the_folder_are_not_labels(make):
    root = make({"labels/images.txt": "b.jpg\na.jpg\n", "labels/classes.txt": "cat\n"})
    labels = {"labels/a.txt": "0 0.5 0.5 1 1\n", "labels/c.txt": ""}
    make(labels, "a.jpg", "b.jpg", "c.jpg", "classes.jpg")
    dataset, findings = read(root / "labels", root)
    assert [i.file_name for i in dataset.images] == ["b.jpg", "a.jpg", "c.jpg"]
    assert ([a.image_id for a in dataset.annotations], findings) == ([2], [])


@pytest.mark.parametrize("suffix", ["txt", "TXT", "Txt"])
@pytest.mark.parametrize("folder", ["images", "labels"])
def test_labels_beside_the_image_or_with_another_suffix(make, folder, suffix):
    root = make({f"{folder}/a.{suffix}": "0 0.5 0.5 1 1", "data.yaml": "train: images"})
    make({}, "images/a.jpg", "images/b.jpg")
    for place in (root / "data.yaml", root / folder):
        dataset, findings = read(place, root / "images")
        assert (len(dataset.annotations), findings) == (1, [])


@pytest.mark.parametrize("train", ["images", "list.txt"])
def test_a_missing_folder_of_labels_is_named(make, train):
    root = make({"data.yaml": f"train: {train}", "list.txt": "images/a.jpg"}, "images/a.jpg")
    dataset, findings = read(root / "data.yaml", root)
    assert len(dataset.images) == 1
    assert [(f.code, f.severity) for f in findings] == [("labels-missing", "warning")]
    assert str(root / "labels") in findings[0].message


def test_two_files_of_labels_of_one_image_are_named(make):
    root = make({"labels/a.txt": "0 0.5 0.5 1 1", "labels/a.TXT": ""}, "a.jpg")
    dataset, findings = read(root / "labels", root)
    assert (len(dataset.annotations), codes(findings)) == (1, ["label-without-image"])


def test_images_at_an_address_are_fetched_before_labels_are_paired(make, monkeypatch, tmp_path):
    isolate(monkeypatch, tmp_path)
    stems = [f"p{n}" for n in range(30)]
    names = [f"{stem}.png" for stem in stems[:-1]] + [f"{stems[-1]}.JPG"]
    root = make({f"labels/{stem}.txt": "0 0.5 0.5 1 1" for stem in [*stems, "gone"]})
    make({"listed/images.txt": "x.jpg\n", "listed/x.txt": "0 0.5 0.5 1 1"}, "x.jpg", *names)
    with serve() as web:
        web.files = {f"/set/{name}": (root / name).read_bytes() for name in [*names, "x.jpg"]}
        dataset, findings = read(root / "labels", f"{web.address}/set")
        listed, _ = read(root / "listed", f"{web.address}/set")
    assert {i.file_name for i in dataset.images} == set(names)
    assert (len(dataset.annotations), codes(findings)) == (30, ["label-without-image"])
    assert [i.file_name for i in listed.images] == ["x.jpg"]


@pytest.mark.parametrize("orientation", range(1, 9))
def test_labels_of_a_turned_image_are_read_as_stored_and_named(make, orientation):
    root = make({"labels/a.txt": "0 0.25 0.5 0.5 1", "labels/b.txt": ""})
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    for name in ("a.jpg", "b.jpg"):
        PillowImage.new("RGB", (WIDTH, HEIGHT)).save(root / name, exif=exif)
    dataset, findings = read(root / "labels", root)
    assert [a.bbox for a in dataset.annotations] == [(0, 0, WIDTH / 2, HEIGHT)]
    turned = [("label-turned", "a.jpg", "read on the pixels as stored")]
    assert [(f.code, f.image, f.action) for f in findings] == (turned if orientation > 1 else [])


@pytest.mark.parametrize(
    "data",
    [
        b"\n" * 300_000,
        b"1\n" * 150_000,
        b"0 0 0 1 1\n" * 30_000,
        b"0" + b" 1" * 150_000,
        b"0" + b" 1" * 80_000,
        b"x" * 300_000,
    ],
    ids=["blank", "short", "boxes", "long line", "polygon", "letters"],
)
def test_memory_stays_in_proportion(make, data):
    root = make({"labels/a.txt": data, "labels/b.txt": ""}, "a.jpg", "b.jpg")
    tracemalloc.start()
    dataset, findings = read(root / "labels", root)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(data)
    assert (len(dataset.annotations), len(findings)) == (0, 1)


@pytest.mark.parametrize(
    ("data", "code", "images"),
    [
        (b" " * (1 << 18), [], 1),
        (b" " * (1 << 18) + b" ", ["labels-unreadable"], 0),
        (b"0" + b" 1" * 10_000, [], 1),
        (b"0" + b" 1" * 10_001, ["label-unusable"], 1),
    ],
)
def test_how_large_labels_may_be(make, data, code, images):
    root = make({"labels/a.txt": data, "labels/b.txt": ""}, "a.jpg", "b.jpg")
    dataset, findings = read(root / "labels", root)
    assert (codes(findings), len(dataset.images)) == (code, images + 1)


def test_identical_lines_stay(make):
    root = make({"labels/a.txt": "0 0.5 0.5 1 1\n" * 3}, "a.jpg")
    assert len(read(root / "labels", root)[0].annotations) == 3


def test_an_image_that_does_not_open_has_no_boxes(make):
    root = make({"labels/a.txt": "0 0.5 0.5 1 1", "labels/b.txt": "", "a.jpg": "", "b.jpg": "x"})
    dataset, findings = read(root / "labels", root)
    assert [(i.width, i.height) for i in dataset.images] == [(0, 0)] * 2
    assert dataset.annotations == []
    assert [(f.code, f.image) for f in findings] == [("image-unreadable", "a.jpg")]


def test_images_outside_of_the_folder_are_named(make):
    root = make({"list.txt": "/elsewhere/a.jpg\nb.jpg", "data.yaml": "train: list.txt"}, "b.jpg")
    dataset, findings = read(root / "data.yaml", root)
    assert ([i.file_name for i in dataset.images], codes(findings)) == (
        ["b.jpg"],
        ["image-outside"],
    )


def test_findings_are_bounded(make):
    root = make({"labels/a.txt": "x\n" * 5000}, "a.jpg")
    _, findings = read(root / "labels", root)
    assert len(findings) == MAX_OF_A_KIND + 1
    assert findings[-1].message.startswith(f"{5000 - MAX_OF_A_KIND} more")


BOMB = "a0: &a0 [x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]\n" for n in range(1, 12)
)


@pytest.mark.parametrize(
    ("content", "options", "message"),
    [
        ("", {}, "holds no keys"),
        ("- a\n- b", {}, "holds no keys"),
        ("a: [", {}, "not a YAML file"),
        (b"\xff\xfe\xff", {}, "not a YAML file"),
        ('a: "\\UFFFFFFFF"', {}, "not a YAML file"),
        ("%YAML " + "9" * 5000 + ".1\n---\na: b", {}, "not a YAML file"),
        (BOMB, {}, "has the alias"),
        ("a: " + "[" * 5000, {}, "nested more than"),
        ("x" * 300_000, {}, "too many"),
        ("train: nowhere", {}, "no folder of images"),
        ("train: " + "x" * 5000, {}, "no folder of images"),
        ('train: "\\0"', {}, "no folder of images"),
        ("train: data.yaml", {}, "no folder of images"),
        ("train: {a: b}", {}, "no folder of images"),
        ("names: [a]", {}, "no labelled images"),
        ("train: .\nnames: abc", {}, "names must be"),
        ("train: .\nnames: [[a]]", {}, "names must be"),
        ("train: .\nnames: {x: a}", {}, "names must be"),
        ("train: .\nnames: {1000000: a}", {}, "names must be"),
        ('train: .\nnames: ["\\ud800"]', {}, "names must be"),
        ("train: .", {"split": "val"}, "no split 'val'; choose all, train"),
    ],
)
def test_a_broken_data_yaml_is_refused(make, content, options, message):
    root = make({"data.yaml": content}, "a.jpg")
    with pytest.raises(RelayError, match=message):
        read(root / "data.yaml", root, **options)


@pytest.mark.parametrize(
    ("annotations", "images", "split", "message"),
    [
        ("nowhere", ".", "all", "does not exist"),
        ("labels", "nowhere", "all", "image folder"),
        ("labels", ".", "train", "has no split 'train'"),
        ("empty", ".", "all", "no labelled images"),
        ("bad", ".", "all", "not readable UTF-8"),
        ("large", ".", "all", "too large"),
        ("x" * 5000, ".", "all", "does not exist"),
    ],
)
def test_broken_configurations_are_refused(make, annotations, images, split, message):
    root = make({"labels/a.txt": "", "bad/classes.txt": b"\xff"}, "a.jpg", "empty/a.jpg")
    make({"large/classes.txt": "c\n" * 40_000})
    with pytest.raises(RelayError, match=message):
        read(root / annotations, root / images, split=split)


def test_no_annotations_do_not_mean_the_current_folder(make, monkeypatch):
    monkeypatch.chdir(make({"a.txt": ""}, "a.jpg"))
    with pytest.raises(RelayError, match="annotations are empty"):
        read("", ".")


def dataset_of(*names: str, boxes=((1.0, 2.0, 3.0, 4.0),)) -> Dataset:
    images = [Image(n, name, WIDTH, HEIGHT) for n, name in enumerate(names, start=1)]
    annotations = [
        Annotation(n, image.id, 1, box, box[2] * box[3])
        for n, (image, box) in enumerate(((i, b) for i in images for b in boxes), start=1)
    ]
    return Dataset(images, annotations, [Category(1, "dog")])


def test_lines_are_written_as_they_were_read(make):
    lines = "1 0.479492 .688771 9.55609e-1 0.5955\n0 0.50 0.500 +1. 0.333333\n"
    root = make({"labels/s/a.txt": lines, "labels/s/b.txt": "", "classes.txt": "a\nb\n"})
    make({}, "s/a.jpg", "s/b.jpg")
    dataset, _ = read(root / "labels", root)
    files, findings = write(dataset)
    assert files["labels/s/a.txt"].decode() == lines
    assert files["labels/s/b.txt"] == b""
    assert files["images.txt"] == b"s/a.jpg\ns/b.jpg\n"
    content = yaml.safe_load(files["data.yaml"])
    assert content == {"train": "images", "val": "images", "names": {0: "a", 1: "b"}}
    assert findings == []
    x, y, width, height = dataset.annotations[0].bbox
    dataset.annotations[0].bbox = (x + 1, y, width, height)
    assert lines.splitlines()[0] not in write(dataset)[0]["labels/s/a.txt"].decode()


def test_what_yolo_cannot_hold_is_named():
    dataset = dataset_of("s/images/a.jpg", "s/b.jpg", "s/c.jpg")
    crowd, polygon, unsized = dataset.annotations
    crowd.iscrowd = 1
    polygon.segmentation, polygon.area = Raw(b"[[1,2,3,4,5,6]]"), 3.0
    set_extra(polygon, pid=1, raw_yolo=["not", "ours"])
    dataset.images[1].license = Raw(b"1")
    dataset.images[2].width = 0
    dataset.categories[0].supercategory = "animal"
    files, findings = write(dataset)
    assert [(f.code, f.severity) for f in findings] == [
        ("yolo-crowd", "warning"),
        ("yolo-size-unknown", "warning"),
        ("yolo-images-folder", "warning"),
        ("yolo-polygon", "info"),
        ("yolo-area", "info"),
        ("yolo-extra", "info"),
        ("yolo-licence", "info"),
        ("yolo-category", "info"),
    ]
    assert files["labels/s/images/a.txt"] == b""
    assert files["labels/s/b.txt"] == b"0 0.0125 0.04 0.015 0.04\n"
    assert "labels/s/c.txt" not in files
    assert unsized.bbox == (1, 2, 3, 4)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (("s/a.jpg", "s/a.png"), "would share the label file s/a.txt"),
        (("s/a.jpg", "s/a.jpg"), "would share"),
        (("../a.jpg",), "image name"),
        (("s/a\n.jpg",), "image name"),
        (("s/\ud800.jpg",), "image name"),
    ],
)
def test_names_that_cannot_be_written_are_refused(names, message):
    files = {}
    with pytest.raises(RelayError, match=message):
        write_format("yolo", dataset_of(*names), files.__setitem__)
    assert files == {}


@pytest.mark.parametrize(("name", "hint"), [("yollo", "did you mean yolo"), ("csv", "known are")])
def test_an_unknown_format_is_refused(name, hint):
    with pytest.raises(RelayError, match=hint):
        write_format(name, dataset_of("s/a.jpg"), lambda name, data: None)
    assert set(WRITERS) == {"voc", "yolo"}


fraction = st.floats(0.001, 1)
category_names = st.lists(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8), min_size=1, max_size=4
)


@given(
    st.lists(st.tuples(fraction, fraction, fraction, fraction), max_size=4),
    category_names,
    st.sampled_from(["s/a.jpg", "s/b c.PNG", "s/é.x.tif"]),
)
@settings(max_examples=80, **FUZZ)
def test_a_dataset_comes_back_from_yolo(tmp_path_factory, boxes, names, name):
    root = tmp_path_factory.mktemp("yolo")
    (root / "s").mkdir()
    PillowImage.new("RGB", (WIDTH, HEIGHT)).save(root / name)
    pixels = [
        (x * WIDTH, y * HEIGHT, (1 - x) * w * WIDTH, (1 - y) * h * HEIGHT) for x, y, w, h in boxes
    ]
    dataset = dataset_of(name, boxes=pixels)
    dataset.categories[:] = [Category(n, text) for n, text in enumerate(names, start=1)]
    for place, annotation in enumerate(dataset.annotations):
        annotation.category_id = place % len(names) + 1
    files, _ = write(dataset)
    for path, data in files.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(data)
    back, findings = read(root / "labels", root)
    assert findings == []
    assert [i.file_name for i in back.images] == [name]
    assert [(c.id, c.name) for c in back.categories] == list(enumerate(names, start=1))
    assert [a.category_id for a in back.annotations] == [a.category_id for a in dataset.annotations]
    for before, after in zip(dataset.annotations, back.annotations, strict=True):
        assert after.bbox == pytest.approx(before.bbox, rel=0, abs=1e-9)
    again, _ = write(back)
    assert again == files


def test_images_are_listed_where_we_wrote_the_labels(make):
    root = make({}, "s/a.gif", "s/b.jpg")
    make(write(dataset_of("s/a.gif", "s/b.jpg"))[0])
    (root / "labels" / "s" / "b.txt").unlink()
    dataset, findings = read(root / "labels", root)
    assert ([i.file_name for i in dataset.images], findings) == (["s/a.gif", "s/b.jpg"], [])
    assert [a.image_id for a in dataset.annotations] == [1]


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("s/x/images/q.jpg", "images/s/x/labels/q.txt"),
        ("s/images/images/q.jpg", "images/s/images/labels/q.txt"),
        ("images/q.jpg", "images/labels/q.txt"),
    ],
)
def test_labels_lie_where_their_reader_seeks_them(make, name, path):
    root = make(write(dataset_of(name, "s/b.jpg"))[0], f"images/{name}", "images/s/b.jpg")
    assert (root / path).read_bytes() == (root / "labels" / name).with_suffix(".txt").read_bytes()
    for place in ("data.yaml", "labels"):
        dataset, findings = read(root / place, root / "images")
        assert {i.file_name for i in dataset.images} == {name, "s/b.jpg"}
        assert (len(dataset.annotations), findings) == (2, [])
    (root / path).unlink()  # as where the images were linked over it
    dataset, findings = read(root / "data.yaml", root / "images")
    assert (len(dataset.annotations), findings) == (2, [])


@pytest.mark.parametrize("name", ["\x85", "a\u2028b", "\u2029"])
def test_names_with_line_ends_of_yaml_come_back(make, name):
    dataset = dataset_of("s/a.jpg")
    dataset.categories[0].name = name
    root = make(write(dataset)[0], "s/a.jpg")
    assert [c.name for c in read(root / "labels", root)[0].categories] == [name]


@given(st.binary(max_size=80) | st.text(alphabet="01. -+e\n\r\tnax", max_size=80).map(str.encode))
@settings(max_examples=150, **FUZZ)
def test_any_labels_are_read_or_named(make, data):
    root = make({"labels/a.txt": data, "labels/classes.txt": "a"}, "a.jpg")
    dataset, findings = read(root / "labels", root)
    assert len(dataset.images) == 1
    dropped = [finding for finding in findings if finding.action == "dropped"]
    plain = data.removeprefix(codecs.BOM_UTF8)
    lines = [line for line in plain.splitlines() if line.decode("ascii", "replace").split()]
    assert len(dataset.annotations) + len(dropped) == len(lines)
    assert all(a.segmentation is UNSET or a.area >= 0 for a in dataset.annotations)
    msgspec.json.encode(dataset.annotations)
    write(dataset)


YAML = 'path: .\ntrain: images\nval:\n  - images\nnames:\n  0: cat\n  1: "no"\n'


@given(
    st.tuples(
        st.integers(0, len(YAML)),
        st.integers(0, 12),
        st.text(alphabet="[]{}:-&*!|>'\"\\%@`?#,\n\t 0aé\x00~.", max_size=8) | st.text(max_size=4),
    )
    | st.text(alphabet="[]{}:-&*!|>'\"%?#,\n 0a", max_size=40)
)
@settings(max_examples=200, **FUZZ)
def test_any_data_yaml_is_read_or_refused(make, change):
    text = change
    if isinstance(change, tuple):
        start, length, piece = change
        text = YAML[:start] + piece + YAML[start + length :]
    root = make({"data.yaml": text.encode(errors="surrogatepass")}, "images/a.jpg")
    try:
        dataset, _ = read(root / "data.yaml", root)
    except RelayError:
        return
    assert [i.file_name for i in dataset.images] == ["images/a.jpg"]
    msgspec.json.encode(dataset.categories)
