"""COCO files: what is read, mended, dropped and refused, and that writing loses nothing."""

from __future__ import annotations

import json
import math
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import UNSET

from relaydet.config import SourceConfig
from relaydet.data.dataset import EXTRA_KEY, extra_fields, set_extra
from relaydet.data.formats import coco, hash_annotations, read_source
from relaydet.errors import RelayError

ANNOTATION = {"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4], "area": 9.5}
IMAGE = {"id": 7, "file_name": "a.jpg", "width": 100, "height": 80}


def test_a_plain_file_is_read_without_findings(coco_dict, read_coco):
    dataset, findings = read_coco(coco_dict(info={"year": 2017}, licenses=[{"id": 1}]))
    annotation = dataset.annotations[0]
    assert findings == []
    assert annotation.bbox == (1.0, 2.0, 3.0, 4.0)
    assert (annotation.area, annotation.iscrowd, annotation.segmentation) == (9.5, 0, UNSET)
    assert (dataset.info, dataset.licenses) == ({"year": 2017}, [{"id": 1}])


@pytest.mark.parametrize(
    ("change", "expected", "codes"),
    [
        ({"score": 0.5, "note": None}, {"extra": {"score": 0.5, "note": None}}, []),
        ({"extra": 1}, {"extra": {"extra": 1}}, []),  # named like our own field
        ({"area": None}, {"area": 12.0, "extra": {"raw_area": None}}, ["area-missing"]),
        ({"area": "big"}, {"area": 12.0, "extra": {"raw_area": "big"}}, ["area-missing"]),
        ({"id": None}, None, ["annotation-unusable"]),
        ({"iscrowd": True}, {"iscrowd": 1}, []),
        ({"iscrowd": None}, {"iscrowd": 0}, []),
        ({"image_id": 7.0, "iscrowd": 1.0}, {"image_id": 7, "iscrowd": 1}, []),
        ({"bbox": [1, 2, 3]}, None, ["annotation-unusable"]),
        ({"bbox": [1, 2, 3, None]}, None, ["annotation-unusable"]),
        ({"bbox": None, "area": None}, None, ["annotation-unusable"]),
        ({"bbox": [0, 0, 1e200, 1e200], "area": None}, None, ["annotation-unusable"]),
        ({"category_id": [3]}, None, ["annotation-unusable"]),
        # Python's json writes what JSON does not have.
        ({"bbox": [1, 2, math.nan, 4]}, None, ["annotation-unusable"]),
        (
            {"area": math.inf, "score": -math.inf},
            {"area": 12.0, "extra": {"raw_area": None, "score": None}},
            ["area-missing"],
        ),
        ({"note": "a, NaN, b"}, {"extra": {"note": "a, NaN, b"}}, []),
        ({'a"b': 1, "c\nd": 2}, {"extra": {'a"b': 1, "c\nd": 2}}, []),
    ],
)
def test_an_odd_annotation(coco_dict, read_coco, change, expected, codes):
    dataset, findings = read_coco(coco_dict(annotations=[ANNOTATION, {**ANNOTATION, **change}]))
    assert [f.code for f in findings] == codes
    assert len(dataset.annotations) == (1 if expected is None else 2)
    if expected is not None:
        second = dataset.annotations[1]
        assert extra_fields(second) == expected.pop("extra", {})
        assert {key: getattr(second, key) for key in expected} == expected


@pytest.mark.parametrize("row", [None, 5, "person", [], [1, 2]])
@pytest.mark.parametrize("section", ["images", "annotations", "categories"])
def test_a_row_that_is_no_object_is_dropped(coco_dict, read_coco, section, row):
    file = coco_dict()
    file[section].append(row)
    dataset, findings = read_coco(file)
    assert len(getattr(dataset, section)) == 1
    assert [f.severity for f in findings] == ["warning"]


def test_annotations_without_ids_stay(coco_dict, read_coco):
    rows = [{k: v for k, v in ANNOTATION.items() if k != "id"} for _ in range(3)]
    dataset, findings = read_coco(coco_dict(annotations=rows))
    assert len({a.id for a in dataset.annotations}) == 3
    assert [(f.code, f.severity) for f in findings] == [("id-missing", "info")]
    assert "3 annotations" in findings[0].message


@pytest.mark.parametrize(
    "change", [{"width": None}, {"height": 0.5}, {"width": -4}, {"width": 10**400}, {"height": "x"}]
)
def test_an_image_without_a_usable_size_has_side_0(coco_dict, read_coco, change):
    dataset, findings = read_coco(coco_dict(images=[{**IMAGE, **change}]))
    assert getattr(dataset.images[0], next(iter(change))) == 0
    assert [f.code for f in findings] == ["size-missing"]


def test_values_of_another_type_than_ours_are_unknown_keys(coco_dict, read_coco):
    image = {**IMAGE, "source": {"url": "x"}, "source_id": None}
    category = {"id": 3, "name": "person", "supercategory": None}
    dataset, findings = read_coco(coco_dict(images=[image], categories=[category]))
    assert findings == []
    assert extra_fields(dataset.images[0]) == {"source": {"url": "x"}, "source_id": None}
    assert extra_fields(dataset.categories[0]) == {"supercategory": None}
    written = json.loads(coco.encode(dataset))
    assert (written["images"], written["categories"]) == ([image], [category])


def test_what_is_not_carried_is_named(coco_dict, read_coco):
    _, findings = read_coco(coco_dict(type="instances", info="by hand"))
    assert {(f.code, "type" in f.message or "info" in f.message) for f in findings} == {
        ("key-left", True)
    }


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not valid JSON.*0 bytes"),
        (b'{"images": [', "not valid JSON.*12 bytes"),
        (b'{"images": nan}', r"not valid JSON.*byte 15"),
        (b'{"images": NaN}', "annotations and categories missing"),
        (b'{"images": [{"id": NaN}]', "not valid JSON"),
        (b"\xff\xfe{\x00", "not UTF-8.*byte 0"),
        (b'{"images": "\xc3\x28"}', "not UTF-8.*byte 12"),
        (b"5", "single value"),
        (b"[]", "holds a list"),
        (b'[{"image_id": 1, "category_id": 1, "bbox": [], "score": 1}]', "results file"),
        (b"{}", "images and annotations and categories missing"),
        (b'{"images": [], "categories": []}', "annotations missing"),
        (b'{"images": {}, "annotations": [], "categories": []}', "image section is not a list"),
        (b"[" * 100_000, "not valid JSON"),
        (b'{"a":' * 100_000, "nested too deeply"),
        (b'{"images": [], "annotations": [], "categories": []} x', "not valid JSON"),
        (b'{"images": [], "annotations": [], "categories": [], "a": NaN} x', "text behind"),
        (
            b'{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a",'
            b' "relaydet:extra": {"id": 2}}]}',
            "reserved",
        ),
    ],
)
def test_what_is_no_coco_file_is_refused(data, message):
    with pytest.raises(RelayError, match=f"file.json: .*{message}"):
        coco.decode(data, "src", "file.json")


def test_a_byte_order_mark_is_skipped(coco_dict, read_coco):
    dataset, _ = read_coco(b"\xef\xbb\xbf" + json.dumps(coco_dict()).encode())
    assert len(dataset.images) == 1


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"annotations": "nowhere.json"}, "nowhere.json"),
        ({"split": "train"}, "split"),
        ({"format": "coko"}, "did you mean coco"),
        ({"format": "zzz"}, "known are coco, cuhk_sysu"),
    ],
)
def test_a_source_that_cannot_be_read(change, message):
    fields = {"name": "src", "format": "coco", "annotations": "a.json", "images": ".", **change}
    with pytest.raises(RelayError, match=message):
        read_source(SourceConfig(**fields))


def test_a_hash_follows_names_and_contents(tmp_path):
    def digest(path):
        return hash_annotations(SourceConfig("src", "coco", str(path), "."))

    (tmp_path / "a.mat").write_bytes(b"1")
    of_file, of_folder = digest(tmp_path / "a.mat"), digest(tmp_path)
    assert len(of_file) == len(of_folder) == 64
    assert of_file != of_folder
    (tmp_path / "a.mat").rename(tmp_path / "b.mat")
    assert digest(tmp_path) != of_folder
    with pytest.raises(RelayError, match="cannot be read"):
        digest(tmp_path / "a.mat")


def test_segmentation_bytes_survive(read_coco):
    segmentation = b"[[1.50, 2.0,3e0 , 4],\n [0.10]]"
    for unknown in (b"", b', "score": 1.50'):
        data = (
            b'{"images": [{"id": 7, "file_name": "a", "width": 1, "height": 1}], "categories": [],'
            b'"annotations": [{"id": 1, "image_id": 7, "category_id": 3, "bbox": [1, 2, 3, 4],'
            b'"area": 9.5, "segmentation": ' + segmentation + unknown + b"}]}"
        )
        written = coco.encode(read_coco(data)[0])
        assert segmentation in written
        assert unknown.replace(b": ", b":").strip(b", ") in written


def test_writing_takes_records_with_and_without_unknown_keys(coco_dict, read_coco):
    dataset, _ = read_coco(coco_dict(annotations=[{**ANNOTATION, "id": n} for n in (1, 2, 3)]))
    set_extra(dataset.annotations[1], pid=-1)
    dataset.annotations[2].extra = {}
    written = coco.encode(dataset)
    assert written == coco.encode(dataset)
    assert EXTRA_KEY.encode() not in written
    assert [a.get("pid") for a in json.loads(written)["annotations"]] == [None, -1, None]


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
numbers = st.floats(allow_nan=False, allow_infinity=False)
unknown_keys = st.dictionaries(st.text(min_size=1, max_size=4), json_values, max_size=3)


@given(
    st.lists(
        st.tuples(st.tuples(*[numbers] * 4), numbers, st.sampled_from([0, 1]), unknown_keys),
        max_size=4,
    )
)
def test_a_file_is_written_as_it_was_read(rows):
    annotations = [
        {**extra, **ANNOTATION, "id": n, "bbox": list(box), "area": area, "iscrowd": crowd}
        for n, (box, area, crowd, extra) in enumerate(rows)
    ]
    categories = [{"id": 3, "name": "person", "keypoints": ["nose"], "supercategory": "x"}]
    file = {"info": {}, "licenses": [], "categories": categories, "images": [IMAGE]}
    file["annotations"] = annotations
    dataset, findings = coco.decode(json.dumps(file).encode(), "src", "file.json")
    assert findings == []
    written = coco.encode(dataset)
    assert json.loads(written) == file
    assert coco.encode(coco.decode(written, "src", "file.json")[0]) == written


def records(*keys: str):
    values = json_values | numbers | st.lists(numbers, min_size=4, max_size=4)
    return st.lists(st.dictionaries(st.sampled_from(keys), values) | json_values, max_size=3)


files = st.fixed_dictionaries(
    {
        "images": records("id", "file_name", "width", "height", "source", EXTRA_KEY, "x"),
        "annotations": records("id", "image_id", "category_id", "bbox", "area", "iscrowd", "x"),
        "categories": records("id", "name", "supercategory", "x"),
    },
    optional={"info": json_values, "licenses": json_values, "x": json_values},
)
odd_bytes = (
    st.binary()
    | json_values.map(lambda value: json.dumps(value).encode())
    | files.map(lambda file: json.dumps(file).encode())
    | st.tuples(files, st.integers(0, 300)).map(lambda f: json.dumps(f[0]).encode()[: f[1]])
)


@given(odd_bytes)
def test_any_bytes_give_a_dataset_or_a_relay_error(data):
    try:
        dataset, _ = coco.decode(data, "src", "file.json")
    except RelayError:
        return
    written = coco.encode(dataset)
    again, _ = coco.decode(written, "src", "file.json")
    assert (again.images, again.annotations) == (dataset.images, dataset.annotations)


def test_many_broken_records_are_counted(coco_dict, read_coco):
    dataset, findings = read_coco(coco_dict(annotations=[ANNOTATION, *[7] * 500]))
    assert len(dataset.annotations) == 1
    assert len(findings) == 101
    assert findings[-1].message.startswith("400 more annotation records")


@given(st.lists(unknown_keys, min_size=1, max_size=40))
def test_unknown_keys_survive_however_many_there_are(rows):
    annotations = [{**row, **ANNOTATION, "id": n} for n, row in enumerate(rows)]
    file = {"images": [IMAGE], "categories": [], "annotations": annotations}
    dataset, findings = coco.decode(json.dumps(file).encode(), "src", "file.json")
    assert findings == []
    assert [extra_fields(a) for a in dataset.annotations] == [
        {key: value for key, value in row.items() if key not in ANNOTATION and key != "iscrowd"}
        for row in rows
    ]


@pytest.mark.parametrize(
    "text",
    [
        b"[0" + b",0" * 20_000 + b"]",
        b"[{}" + b",{}" * 20_000 + b"]",
        b"[[]" + b",[]" * 20_000 + b"]",
        b'[{"a":0' + b',"b":0' * 10_000 + b"}]",
        b'["' + b"\\" * 40_000 + b'"]',
        b'[{"id":1,"file_name":"","width":0,"height":0}'
        + b',{"id":1,"file_name":"","width":0,"height":0}' * 2_000
        + b"]",
    ],
    ids=["numbers", "objects", "lists", "keys", "string", "records"],
)
def test_memory_stays_in_proportion(text):
    for section in ("images", "annotations"):
        sections = {"images": b"[]", "annotations": b"[]", "categories": b"[]", section: text}
        data = b"{" + b",".join(b'"%b":%b' % (k.encode(), v) for k, v in sections.items()) + b"}"
        tracemalloc.start()
        coco.decode(data, "src", "file.json")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10 * len(data)
