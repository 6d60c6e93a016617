"""Pascal VOC: what is read of a file, what is refused, and that writing loses nothing."""

from __future__ import annotations

import codecs
import json
import tracemalloc
from xml.etree import ElementTree

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw

from relaydet.config import SourceConfig
from relaydet.data.dataset import Annotation, Category, Dataset, Image, extra_fields, set_extra
from relaydet.data.formats import read_source, write_format
from relaydet.data.formats.noticed import MAX_OF_A_KIND
from relaydet.data.merge import Part, merge
from relaydet.errors import RelayError

BOX = "<bndbox><xmin>48</xmin><ymin>240.5</ymin><xmax>195</xmax><ymax>371</ymax></bndbox>"
DOG = f"<object><name>dog</name><pose>Left</pose><difficult>1</difficult>{BOX}</object>"
SIZE = "<size><width>353</width><height>500</height><depth>3</depth></size>"
HEAD = f"<filename>2007_000027.jpg</filename>{SIZE}"
WHOLE = f"""<annotation verified="yes">
    <folder>VOC2012</folder><source><database>The VOC Database</database></source>
    <segmented>0</segmented>{HEAD}
    <object id="a">
        <name>person</name><pose>Unspecified</pose><truncated>0</truncated>
        <difficult>0</difficult><occluded>1</occluded><area>12</area><mood kind="m">calm</mood>
        {BOX}
        <part><name>head</name>{BOX}</part>
    </object>{DOG}
</annotation>"""


@pytest.fixture
def write_files(tmp_path):
    """Make a folder of XML files from {path: text or bytes}; returns a reader of it."""

    def make(files: dict[str, str | bytes], lists: dict[str, str] | None = None):
        for name, content in files.items():
            path = tmp_path / "Annotations" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        for name, content in (lists or {}).items():
            path = tmp_path / "ImageSets" / "Main" / f"{name}.txt"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(content, encoding="utf-8")
        return lambda **options: read(tmp_path / "Annotations", **options)

    return make


def read(folder, **options):
    return read_source(SourceConfig("voc", "voc", str(folder), str(folder), **options))


def write(dataset: Dataset) -> tuple[dict[str, bytes], list]:
    files: dict[str, bytes] = {}
    return files, write_format("voc", dataset, files.__setitem__)


def xml(objects: str, head: str = HEAD) -> str:
    return f"<annotation>{head}{objects}</annotation>"


def test_all_that_a_file_says_is_read(write_files):
    dataset, findings = write_files({"2007_000027.xml": WHOLE})()
    assert findings == []
    assert [(i.id, i.file_name, i.width, i.height) for i in dataset.images] == [
        (1, "2007_000027.jpg", 353, 500)
    ]
    assert extra_fields(dataset.images[0]) == {
        "@verified": "yes",
        "folder": "VOC2012",
        "voc_source": {"database": "The VOC Database"},
        "segmented": 0,
        "voc_size": {"depth": 3},
    }
    assert [(c.id, c.name) for c in dataset.categories] == [(1, "dog"), (2, "person")]
    assert [(a.id, a.image_id, a.category_id, a.iscrowd) for a in dataset.annotations] == [
        (1, 1, 2, 0),
        (2, 1, 1, 0),  # difficult is not iscrowd
    ]
    assert dataset.annotations[0].bbox == (47.0, 239.5, 148.0, 131.5)
    assert dataset.annotations[0].area == 148.0 * 131.5
    box = {"xmin": 48, "ymin": "240.5", "xmax": 195, "ymax": 371}
    assert extra_fields(dataset.annotations[0]) == {
        "@id": "a",
        "raw_bbox": [48, 240.5, 195, 371],
        "pose": "Unspecified",
        "truncated": 0,
        "difficult": 0,
        "occluded": 1,
        "voc_area": 12,
        "mood": {"@kind": "m", "#text": "calm"},
        "part": [{"name": "head", "bndbox": box}],
    }


@pytest.mark.parametrize(
    ("offset", "bbox"),
    [
        (1.0, (0.0, 0.0, 10.0, 20.0)),  # VOC: pixels 1 to 10
        (0.0, (1.0, 1.0, 9.0, 19.0)),  # edges at 1 and 10
        (0.5, (0.5, 0.5, 9.5, 19.5)),
    ],
)
def test_the_offset_says_what_corners_are(write_files, offset, bbox):
    box = "<bndbox><ymax>20</ymax><xmin>1</xmin><ymin>1</ymin><xmax>10</xmax></bndbox>"
    reader = write_files({"a.xml": xml(f"<object><name>dog</name>{box}</object>")})
    assert reader(offset=offset)[0].annotations[0].bbox == bbox


@pytest.mark.parametrize(
    ("objects", "codes"),
    [
        ("<object/>", ["object-unusable"]),
        (f"<object><name> </name>{BOX}</object>", ["object-unusable"]),
        ("<object><name>dog</name></object>", ["object-unusable"]),
        (DOG.replace("<xmin>48</xmin>", ""), ["object-unusable"]),
        (DOG.replace("48", "nan"), ["object-unusable"]),
        (DOG.replace("48", "1_0"), ["object-unusable"]),
        (DOG.replace("48", "9" * 5000), ["object-unusable"]),
        (DOG.replace("48", "-1e308").replace("195", "1e308"), ["object-unusable"]),
        (DOG.replace("<pose>", "<name>cat</name><iscrowd>no</iscrowd><pose>"), []),
    ],
)
def test_an_odd_object(write_files, objects, codes):
    dataset, findings = write_files({"a.xml": xml(objects + DOG)})()
    assert [f.code for f in findings] == codes
    assert len(dataset.annotations) == 2 - len(codes)
    assert [c.name for c in dataset.categories] == ["dog"]
    if not codes:
        assert extra_fields(dataset.annotations[0])["name"] == "cat"
        assert extra_fields(dataset.annotations[0])["voc_iscrowd"] == "no"


@pytest.mark.parametrize(
    ("head", "name", "size", "codes"),
    [
        ("", "sub/a.jpg", (0, 0), ["file-name-missing", "size-missing"]),
        (f"<filename/>{SIZE}", "sub/a.jpg", (353, 500), ["file-name-missing"]),
        (f"<filename>\n b.png </filename>{SIZE}", "sub/b.png", (353, 500), []),
        (f"<filename>sub/b.png</filename>{SIZE}", "sub/b.png", (353, 500), []),
        (HEAD.replace("353", "many"), "sub/2007_000027.jpg", (0, 500), ["size-missing"]),
        (HEAD.replace("353", "1e300"), "sub/2007_000027.jpg", (0, 500), ["size-missing"]),
        (HEAD.replace("353", "353.0"), "sub/2007_000027.jpg", (353, 500), []),
    ],
)
def test_file_names_and_sizes(write_files, head, name, size, codes):
    dataset, findings = write_files({"sub/a.xml": xml(DOG, head)})()
    image = dataset.images[0]
    assert (image.file_name, (image.width, image.height)) == (name, size)
    assert [f.code for f in findings] == codes
    if "many" in head:
        assert extra_fields(image)["voc_size"] == {"depth": 3, "width": "many"}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "not valid XML"),
        (b"<annotation>", "not valid XML"),
        (b"\x00\xff", "not text in utf-8"),
        (b"<html/>", "root is <html>"),
        (b"<annotation>\x01</annotation>", "not valid XML"),
        (b'<!DOCTYPE a [<!ENTITY b "c">]><annotation>&b;</annotation>', "document type"),
        (
            '<?xml version="1.0" encoding="utf-16"?><!DOCTYPE a []><annotation/>'.encode("utf-16"),
            "document type",
        ),
        (b'<?xml version="1.0" encoding="utf-7"?><annotation/>', "encoding utf-7"),
        (b"<annotation>" + b"<a>" * 40 + b"</a>" * 40 + b"</annotation>", "nested more than"),
        (b"<annotation>" + b"<a/>" * 10_001 + b"</annotation>", "more than 10000 elements"),
        (b"<annotation>" + b" " * (1 << 24), "larger than"),
    ],
)
def test_a_broken_file_is_left_out_and_named(write_files, content, reason):
    reader = write_files({"a.xml": xml(DOG), "b.xml": content})
    dataset, findings = reader()
    assert [i.file_name for i in dataset.images] == ["2007_000027.jpg"]
    assert [(f.code, f.severity) for f in findings] == [("annotation-unreadable", "warning")]
    assert reason in findings[0].message
    assert "b" in findings[0].message


@pytest.mark.parametrize(
    "content",
    [
        b"<annotation>" + b"<object/>" * 60_000 + b"</annotation>",
        b"<annotation>" + b"<a/>" * 100_000 + b"</annotation>",
        b"<annotation>" + b"".join(b"<a%d/>" % n for n in range(50_000)) + b"</annotation>",
        b"<annotation " + b" ".join(b'a%d=""' % n for n in range(50_000)) + b"/>",
        b"<annotation>" + (b"<object>" + b"<b/>" * 50_000 + b"</object>") * 2 + b"</annotation>",
        b"<annotation><b>" + b"x" * 300_000 + b"</b></annotation>",
    ],
    ids=["objects", "elements", "names", "attributes", "children", "text"],
)
def test_memory_stays_in_proportion(write_files, content):
    reader = write_files({"a.xml": xml(DOG), "b.xml": content})
    tracemalloc.start()
    dataset, _ = reader()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(dataset.annotations) == 1
    assert peak < 10 * len(content)


@pytest.mark.parametrize(("count", "images"), [(9_990, 2), (10_001, 1)])
def test_attributes_count_as_elements(write_files, count, images):
    attributes = " ".join(f'a{n}="="' for n in range(count // 2)) + ' b="'
    tag = f'<annotation {attributes}{"=" * (count - count // 2 * 2)}"><filename>b</filename>'
    reader = write_files({"a.xml": xml(DOG), "b.xml": f"{tag}</annotation>"})
    assert len(reader()[0].images) == images


def test_entities_never_expand(write_files):
    lines = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 12))
    bomb = f'<!DOCTYPE a [<!ENTITY l0 "lol">{lines}]><annotation>&l11;</annotation>'
    with pytest.raises(RelayError, match=r"none of the 1 XML files.*document type"):
        write_files({"a.xml": bomb})()


def test_many_objects_are_no_reason_to_refuse(write_files):
    dataset, findings = write_files({"a.xml": xml(DOG * 20_000)})()
    assert (len(dataset.annotations), findings) == (20_000, [])


def test_findings_are_bounded(write_files):
    _, findings = write_files({"a.xml": xml("<object/>" * 5000)})()
    assert len(findings) == MAX_OF_A_KIND + 1
    assert findings[-1].message.startswith(f"{5000 - MAX_OF_A_KIND} more")


@pytest.mark.parametrize(
    ("encoding", "declared"),
    [("utf-8", ""), ("utf-8-sig", ""), ("utf-16", "utf-16"), ("latin-1", "ISO-8859-1")],
)
def test_encodings(write_files, encoding, declared):
    text = xml(DOG.replace("dog", "ünder"))
    text = f'<?xml version="1.0" encoding="{declared}"?>{text}' if declared else text
    dataset, findings = write_files({"a.xml": text.encode(encoding)})()
    assert ([c.name for c in dataset.categories], findings) == (["ünder"], [])


@pytest.mark.parametrize(
    ("content", "names", "codes"),
    [
        ("a\nsub/b c\n", ["a", "sub/b c"], []),
        ("\ufeffa\r\n\r\n", ["a"], []),
        ("sub/b c  1\na -1\n", ["sub/b c"], []),
        ("a\t0\na 1\n", ["a"], []),
        ("a.jpg\n", ["a"], []),
        ("c 1\nd \n", ["c 1", "d "], []),
        ("a\nnot there\n", ["a"], ["annotation-missing"]),
    ],
)
def test_a_split_takes_the_files_of_its_list(write_files, content, names, codes):
    files = ("a", "sub/b c", "c 1", "d ")
    reader = write_files({f"{name}.xml": xml(DOG, "") for name in files}, {"train": content})
    dataset, findings = reader(split="train")
    assert [i.file_name for i in dataset.images] == [f"{name}.jpg" for name in names]
    always = {"size-missing", "file-name-missing"}
    assert [f.code for f in findings if f.code not in always] == codes


@pytest.mark.parametrize("split", ["trian", "../Main/train", "", "\0"])
def test_an_unknown_split_is_refused(write_files, split):
    with pytest.raises(RelayError, match=r"no list of the split.*choose all, train"):
        write_files({"a.xml": xml(DOG)}, {"train": "a"})(split=split)


def test_a_split_that_is_not_text_is_refused(write_files, tmp_path):
    reader = write_files({"a.xml": xml(DOG)}, {"train": "a"})
    (tmp_path / "ImageSets" / "Main" / "train.txt").write_bytes(b"\xff\xfe\xff")
    with pytest.raises(RelayError, match="not a readable list"):
        reader(split="train")


@pytest.mark.parametrize("where", ["nowhere", "", "\0", "x" * 5000])
def test_a_folder_without_files_is_refused(tmp_path, where):
    with pytest.raises(RelayError, match="no XML files"):
        read(tmp_path / "empty" / where)


def test_no_annotations_do_not_mean_the_current_folder(write_files, tmp_path, monkeypatch):
    write_files({"a.xml": xml(DOG)})
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RelayError, match="annotations are empty"):
        read("")


def test_voc_to_dataset_and_back_is_the_same_tree(write_files):
    dataset, _ = write_files({"2007_000027.xml": WHOLE})()
    files, findings = write(dataset)

    def tree(element):
        children = sorted(map(tree, element))
        return element.tag, (element.text or "").strip(), sorted(element.attrib.items()), children

    written = ElementTree.fromstring(files["Annotations/2007_000027.xml"])
    dog = written.findall("object")[1]
    assert [dog.findtext(tag) for tag in ("truncated", "difficult")] == ["0", "1"]
    dog.remove(dog.find("truncated"))  # VOC demands it, this file did not have it
    assert tree(written) == tree(ElementTree.fromstring(WHOLE))
    assert files["ImageSets/Main/all.txt"] == b"2007_000027\n"
    header, *labels = files["labelmap.txt"].decode().splitlines()
    assert header == "# label:color_rgb:parts:actions"
    assert labels == [f"{category.name}:::" for category in dataset.categories]
    assert findings == []


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("traffic light", "traffic light:::"),
        ("東", "東:::"),
        ("a:b", None),
        ("#1", None),
        (" a", None),
        ("a\nb", None),
        ("", None),
    ],
)
def test_the_labels_that_cvat_and_datumaro_read(name, line):
    dataset = small_dataset()
    dataset.categories[0].name = name
    files, findings = write(dataset)
    assert files["labelmap.txt"].decode().splitlines()[1:2] == ([line] if line else [])
    assert ("voc-labelmap" in {finding.code for finding in findings}) == (line is None)


def test_what_voc_cannot_hold_is_carried_and_named(tmp_path):
    dataset = small_dataset()
    annotation = dataset.annotations[0]
    annotation.iscrowd, annotation.area = 1, 7.25
    annotation.segmentation = Raw(b'{"counts":"a\\u0001<","size":[1, 2]}')
    set_extra(annotation, pid=12, note="\x00\ufffe]]>", raw_bbox=[1, 2, 3, 4], score=0.5, part=[])
    set_extra(annotation, pose="\r", iscrowd_="x", **{"a b": None, "@k": "v", "@l": "\n"})
    set_extra(dataset.images[0], depth=[[1]], voc_size={"width": 3}, voc_source="x")
    dataset.images[0].source, dataset.images[0].source_id = "src", 99
    dataset.images[0].license = Raw(b"3")
    dataset.categories[0].supercategory = "animal"
    dataset.categories.append(Category(2, "unused"))
    back, findings = round_trip(dataset, tmp_path)
    assert [(f.code, f.severity) for f in findings] == [
        ("voc-crowd", "warning"),
        ("voc-own-element", "info"),
        ("voc-licence", "warning"),
        ("voc-category", "warning"),
        ("voc-category-unused", "warning"),
    ]
    assert (back.annotations[0].iscrowd, back.annotations[0].area) == (1, 7.25)
    assert bytes(back.annotations[0].segmentation) == bytes(annotation.segmentation)
    defaults = {"truncated": 0, "difficult": 1}
    assert extra_fields(back.annotations[0]) == defaults | extra_fields(annotation)
    assert extra_fields(back.images[0]) == extra_fields(dataset.images[0])
    assert (back.images[0].source, back.images[0].source_id) == ("src", 99)


def test_names_that_differ_in_extension_only_stay_apart(tmp_path):
    dataset = small_dataset("s/a.jpg", "s/a.png", "s/a.png.gif", "s/./a", "s/b.c/d")
    back, _ = round_trip(dataset, tmp_path)
    assert sorted(i.file_name for i in back.images) == sorted(i.file_name for i in dataset.images)


@pytest.mark.parametrize(
    "name", ["../a.jpg", "/a.jpg", "s/a\n.jpg", "s/\x01.jpg", "s/", "s/\ufffe"]
)
def test_a_name_that_cannot_be_written_is_refused(name):
    files = {}
    with pytest.raises(RelayError, match="image name"):
        write_format("voc", small_dataset("s/b.jpg", name), files.__setitem__)
    assert files == {}


def small_dataset(*names: str) -> Dataset:
    images = [Image(n, name, 100, 80) for n, name in enumerate(names or ("s/a.jpg",), start=1)]
    annotations = [
        Annotation(n, n, 1, (1.0, 2.0, 3.0, 4.0), 12.0) for n in range(1, len(images) + 1)
    ]
    return Dataset(images, annotations, [Category(1, "dog")])


def round_trip(dataset: Dataset, folder) -> tuple[Dataset, list]:
    files, findings = write(dataset)
    for name, data in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    back, noticed = read(folder / "Annotations", split="all")
    assert noticed == []
    return back, findings


text = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
side = st.floats(0.001, 5000)
file_part = st.text(
    st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="/\\\ufffe\uffff"),
    min_size=1,
    max_size=8,
).filter(lambda part: part.strip(".") and len(part.encode()) < 100)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**40), 2**40) | text | st.floats(-9, 9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(text, inner, max_size=3),
    max_leaves=5,
)
extra = st.dictionaries(
    st.sampled_from(["pose", "part", "name", "voc_area", "voc_bndbox", "@k", "raw_bbox", "width"])
    | text.filter(lambda key: key not in (*Annotation.__struct_fields__, "relaydet:extra")),
    json_values,
    max_size=3,
)


@st.composite
def datasets(draw) -> Dataset:
    names = draw(st.lists(st.tuples(file_part, file_part), min_size=1, max_size=4, unique=True))
    images = [Image(n, "/".join(pair), 640, 480) for n, pair in enumerate(names, start=1)]
    categories = draw(st.lists(text, min_size=1, max_size=3, unique=True))
    annotations = []
    for image in images:
        for _ in range(draw(st.integers(0, 2))):
            bbox = draw(st.tuples(side, side, side, side))
            category = draw(st.integers(1, len(categories)))
            annotation = Annotation(
                len(annotations) + 1, image.id, category, bbox, bbox[2] * bbox[3]
            )
            set_extra(annotation, **draw(extra))
            annotations.append(annotation)
    return Dataset(images, annotations, [Category(n, c) for n, c in enumerate(categories, start=1)])


def content(dataset: Dataset) -> dict[str, list]:
    names = {category.id: category.name for category in dataset.categories}
    groups = dataset.annotations_by_image()
    return {
        image.file_name: [
            (names[a.category_id], a.bbox, a.area, extra_fields(a))
            for a in groups.get(image.id, [])
        ]
        for image in dataset.images
    }


@given(datasets())
@settings(max_examples=120, deadline=None)
def test_a_dataset_comes_back_from_voc(tmp_path_factory, dataset):
    back, _ = round_trip(dataset, tmp_path_factory.mktemp("voc"))
    before, after = content(dataset), content(back)
    assert before.keys() == after.keys()
    for name, objects in before.items():
        assert len(objects) == len(after[name])
        for (category, bbox, area, fields), (category2, bbox2, area2, fields2) in zip(
            objects, after[name], strict=True
        ):
            assert category == category2
            assert bbox2 == pytest.approx(bbox, rel=0, abs=1e-9)
            assert area2 == pytest.approx(area, rel=1e-9)
            assert {k: fields2[k] for k in fields} == fields
    files, _ = write(back)
    again, _ = write(round_trip(back, tmp_path_factory.mktemp("voc"))[0])
    assert files == again


def test_a_merge_keeps_what_voc_said(write_files):
    dataset, _ = write_files({"a.xml": WHOLE})()
    source = SourceConfig("src", "voc", "", "")
    merged, _ = merge([Part(source, dataset, "")])
    files, _ = write(merged)
    assert b"<database>The VOC Database</database>" in files["Annotations/src/2007_000027.xml"]
    assert msgspec.json.decode(json.dumps(extra_fields(merged.images[0])))["voc_source"]


@given(
    st.binary(max_size=60)
    | st.text(alphabet="<>&;[]!/?ab\"'= \n-DOCTYPEIX\x00", max_size=60).map(str.encode)
)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_bytes_are_read_or_refused(tmp_path, data):
    (tmp_path / "a.xml").write_bytes(data)
    with pytest.raises(RelayError):
        read(tmp_path)


@given(st.data())
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_change_of_a_file_is_read_or_refused(tmp_path, data):
    own = json.dumps({"area": 3.5, "segmentation": [[1, 2]], "extra": {"a": {"b": [None]}}})
    whole = WHOLE.replace("</object>", f"<relaydet>{own}</relaydet></object>").encode()
    start = data.draw(st.integers(0, len(whole)))
    end = start + data.draw(st.integers(0, 12))
    piece = data.draw(
        st.sampled_from([b"", b"<", b"</", b"[[", b"null", b"9" * 400, b"&#1;", b'"'])
    )
    (tmp_path / "a.xml").write_bytes(codecs.BOM_UTF8 + whole[:start] + piece + whole[end:])
    (tmp_path / "b.xml").write_text(xml(DOG))
    dataset, _ = read(tmp_path)
    assert len(dataset.images) in (1, 2)
    msgspec.json.encode(dataset.annotations)
    assert all(a.segmentation is UNSET or a.area == a.area for a in dataset.annotations)
