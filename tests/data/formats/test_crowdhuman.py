"""CrowdHuman's .odgt lines: what is kept, what becomes a crowd, and any bytes in their place."""

from __future__ import annotations

import json
import tracemalloc

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from relaydet.config import SourceConfig
from relaydet.data.checks.boxes import check_boxes
from relaydet.data.checks.files import check_images
from relaydet.data.dataset import extra_fields
from relaydet.data.formats import coco, crowdhuman, read_source
from relaydet.data.images import open_images
from relaydet.errors import RelayError

HEAD = {"ignore": 0, "occ": 1, "unsure": 0}
PERSON = {
    "tag": "person",
    "fbox": [-5, 20, 40, 100],
    "vbox": [0, 20, 30, 90],
    "hbox": [2, 21, 10, 12],
    "extra": {"box_id": 0, "occ": 1},
    "head_attr": HEAD,
}
MASK = {"tag": "mask", "fbox": [50, 10, 20, 30], "vbox": [50, 10, 20, 30], "extra": {"ignore": 1}}
IGNORED = {**PERSON, "extra": {"box_id": 1, "ignore": 1}}


def line(name: str, *boxes: object, **other: object) -> bytes:
    return json.dumps({"ID": name, "gtboxes": boxes, **other}).encode() + b"\n"


def decode(data: bytes):
    return crowdhuman.decode(data, "crowd", "f.odgt")


def test_all_that_a_line_says_is_read(tmp_path):
    path = tmp_path / "annotation_train.odgt"
    path.write_bytes(line("273271,1a0d", PERSON, MASK) + b"\r\n" + line("b"))
    dataset, findings = read_source(SourceConfig("crowd", "crowdhuman", str(path), str(tmp_path)))
    assert [(i.id, i.file_name, i.width, i.height) for i in dataset.images] == [
        ("273271,1a0d", "273271,1a0d.jpg", 0, 0),
        ("b", "b.jpg", 0, 0),
    ]
    assert [(a.id, a.image_id, a.bbox, a.area, a.iscrowd) for a in dataset.annotations] == [
        (1, "273271,1a0d", (-5.0, 20.0, 40.0, 100.0), 4000.0, 0),
        (2, "273271,1a0d", (50.0, 10.0, 20.0, 30.0), 600.0, 1),
    ]
    kept = {key: PERSON[key] for key in ("vbox", "hbox", "extra", "head_attr")}
    assert extra_fields(dataset.annotations[0]) == kept
    assert extra_fields(dataset.annotations[1]) == {
        "tag": "mask",
        "vbox": [50, 10, 20, 30],
        "extra": {"ignore": 1},
    }
    assert [(c.id, c.name) for c in dataset.categories] == [(1, "person")]
    assert findings == []


@pytest.mark.parametrize(
    ("change", "crowd"),
    [
        ({}, 0),
        ({"tag": "mask"}, 1),
        ({"tag": "mask", "extra": {"ignore": 0}}, 1),
        ({"extra": {"ignore": 1}}, 1),
        ({"extra": {"ignore": True}}, 1),
        ({"extra": {"ignore": 0}}, 0),
        ({"extra": {"box_id": 5, "note": "\\ ignore"}}, 0),
        ({"extra": ["ignore"]}, 0),
        ({"extra": None}, 0),
        ({"head_attr": {"ignore": 1}}, 0),
    ],
)
def test_what_is_a_crowd(change, crowd):
    dataset, findings = decode(line("a", {**PERSON, **change}))
    assert [a.iscrowd for a in dataset.annotations] == [crowd]
    assert findings == []


def test_an_escaped_key_is_seen():
    data = line("a", IGNORED).replace(b'"ignore": 1', rb'"\u0069gnore": 1')
    assert [a.iscrowd for a in decode(data)[0].annotations] == [1]


@given(st.lists(st.lists(st.sampled_from([PERSON, MASK, IGNORED]), max_size=5), min_size=1))
def test_crowds_survive_writing(images):
    dataset, _ = decode(b"".join(line(str(n), *boxes) for n, boxes in enumerate(images)))
    written = json.loads(coco.encode(dataset))["annotations"]
    crowds = sum(box is not PERSON for boxes in images for box in boxes)
    assert sum(a["iscrowd"] for a in written) == crowds
    assert len(written) == sum(map(len, images))


def test_full_boxes_are_clamped_once_sizes_are_known(tmp_path):
    (tmp_path / "a.odgt").write_bytes(line("a", PERSON, MASK))
    Image.new("RGB", (64, 100)).save(tmp_path / "a.jpg")
    source = SourceConfig("crowd", "crowdhuman", str(tmp_path / "a.odgt"), str(tmp_path))
    images = open_images(source.images)
    dataset = check_images(read_source(source)[0], images, source.name).dataset
    dataset, findings = check_boxes(dataset, source.name)
    assert [a.bbox for a in dataset.annotations] == [(0, 20, 35, 80), (50, 10, 14, 30)]
    assert [a.iscrowd for a in dataset.annotations] == [0, 1]
    assert extra_fields(dataset.annotations[0])["raw_bbox"] == PERSON["fbox"]
    assert [f.code for f in findings] == ["box-clamped"] * 2


def test_unknown_keys_are_kept_and_never_stand_for_a_field_of_coco():
    box = {**PERSON, "id": 7, "original_id": 8, "iscrowd": 1, "pose": {"x": 1.50}}
    dataset, findings = decode(line("a", box, width=640, note="x"))
    assert findings == []
    written = json.loads(coco.encode(dataset))
    assert written["images"] == [
        {"id": "a", "file_name": "a.jpg", "width": 0, "height": 0, "note": "x"}
        | {"original_width": 640}
    ]
    found = written["annotations"][0]
    assert (found["id"], found["iscrowd"], found["pose"]) == (1, 0, {"x": 1.5})
    assert {found["original_id"], found["original_original_id"]} == {7, 8}
    assert found["original_iscrowd"] == 1


def test_extra_fields_are_the_bytes_of_the_file():
    data = line("a", PERSON).replace(b"[0, 20, 30, 90]", b"[0,  2.0e1, 30.50, 90]")
    assert b'"vbox":[0,  2.0e1, 30.50, 90]' in coco.encode(decode(data)[0])


@pytest.mark.parametrize(
    ("box", "message"),
    [
        ({**PERSON, "tag": "car"}, "neither person nor mask"),
        ({"fbox": [1, 2, 3, 4]}, "neither person nor mask"),
        ({"tag": "person"}, "has no fbox"),
        ({"tag": "person", "fbox": [1, 2, 3]}, "no four numbers"),
        ({"tag": "person", "fbox": [1, 2, 3, None]}, "no four numbers"),
        ({"tag": "person", "fbox": [1, 2, 1e200, 1e200]}, "too large"),
    ],
)
def test_a_box_that_is_none_is_dropped(box, message):
    dataset, findings = decode(line("a", box, PERSON))
    assert [a.bbox[0] for a in dataset.annotations] == [-5.0]
    assert [(f.code, f.severity, f.image) for f in findings] == [
        ("box-unusable", "warning", "a.jpg")
    ]
    assert message in findings[0].message


@pytest.mark.parametrize(
    "broken",
    [
        b"{",
        b"5",
        b"{}",
        b'{"ID": "x"}',
        b'{"ID": 5, "gtboxes": []}',
        b'{"ID": "x", "gtboxes": {}}',
        b'{"ID": "x", "gtboxes": [5]}',
        b'{"ID": "\\ud800", "gtboxes": []}',
        b'{"ID": "x", "gtboxes": [{"tag": "person", "fbox": [1, 2, 3, 4], "note": "\xff"}]}',
        b'{"ID": "x", "gtboxes": ' + b"[" * 100_000,
        b'{"ID": "x", "gtboxes": []' + b" " * (1 << 21) + b"}",
    ],
)
def test_a_broken_line_is_named_and_the_others_stay(broken):
    dataset, findings = decode(b"\n" + line("a", PERSON) + b"\n" + broken + b"\n" + line("b"))
    assert [image.id for image in dataset.images] == ["a", "b"]
    assert len(dataset.annotations) == 1
    assert [(f.code, f.severity) for f in findings] == [("line-unusable", "warning")]
    assert findings[0].message.startswith("line 4 of f.odgt cannot be used: ")


@pytest.mark.parametrize(
    "data", [b"", b"\n\r\n ", b"{}", b"\x00\xff", b'{"images": []}', b"\xff\xfe{\0"]
)
def test_what_is_no_odgt_file_is_refused(data):
    with pytest.raises(RelayError, match=r"f.odgt: holds no image of CrowdHuman"):
        decode(data)


def test_a_byte_order_mark_is_skipped():
    assert len(decode(b"\xef\xbb\xbf" + line("a"))[0].images) == 1


@pytest.mark.parametrize(
    ("options", "message"), [({"split": "train"}, "split is all"), ({}, "nowhere.odgt")]
)
def test_a_source_that_cannot_be_read(options, message):
    with pytest.raises(RelayError, match=message):
        read_source(SourceConfig("crowd", "crowdhuman", "nowhere.odgt", ".", **options))


@pytest.mark.parametrize(
    ("repeated", "codes"),
    [
        (b"\n", 0),
        (b"{}\n", 101),
        (b'{"ID": "x", "gtboxes": [{}, {}]}\n', 101),
        (line("a", *[PERSON] * 20), 0),
        (b"[" * 1000, 1),
    ],
)
def test_memory_is_bounded_by_the_file(repeated, codes):
    data = line("a", PERSON) + repeated * (100_000 // len(repeated))
    tracemalloc.start()
    _, findings = decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert len(findings) == codes
    assert peak < 12 * len(data)


@pytest.mark.parametrize(
    "broken",
    [
        b'{"ID": "x", "gtboxes": [' + b"{}," * 100_000 + b"{}]}",
        b'{"ID": "x", "gtboxes": [],' + b",".join(b'"%d":1' % n for n in range(30_000)) + b"}",
        b'{"ID": "x", "gtboxes": [' + json.dumps(PERSON).encode() + b" " * (1 << 18) + b"]}",
    ],
    ids=["boxes", "keys", "blanks"],
)
def test_a_line_too_long_takes_no_memory(broken):
    data = line("a", PERSON) + broken
    tracemalloc.start()
    dataset, findings = decode(data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 10 * len(data)
    assert ([i.id for i in dataset.images], len(findings)) == (["a"], 1)
    assert "more than an image needs" in findings[0].message


def test_many_broken_lines_are_counted():
    _, findings = decode(line("a") + b"{}\n" * 250)
    assert len(findings) == 101
    assert findings[-1].message.startswith("150 more")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=4) | st.floats(allow_nan=False),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=5,
)
odd_boxes = st.dictionaries(
    st.sampled_from(["tag", "fbox", "vbox", "extra", "id", "x"]),
    json_values | st.sampled_from(["person", "mask", [1, 2, 3, 4], {"ignore": 1}]),
)
odd_lines = st.fixed_dictionaries(
    {"ID": st.text(max_size=3) | json_values, "gtboxes": st.lists(odd_boxes) | json_values},
    optional={"width": json_values},
)
VALID = line("273271,1a0d", PERSON, MASK) + line("b", IGNORED)


@st.composite
def changed(draw):
    data = bytearray(VALID)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data) - 1))
        data[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=3))
    return bytes(data)


@settings(max_examples=150, deadline=None)
@given(
    st.binary()
    | changed()
    | st.lists(odd_lines).map(lambda lines: "\n".join(map(json.dumps, lines)).encode())
)
def test_any_bytes_give_a_dataset_or_a_relay_error(data):
    try:
        dataset, findings = decode(data)
    except RelayError:
        return
    written = coco.encode(dataset)
    again, _ = coco.decode(written, "crowd", "written")
    assert (again.images, again.annotations) == (dataset.images, dataset.annotations)
    lines = [text for text in data.split(b"\n") if text.strip()]
    lost = sum(f.code == "line-unusable" for f in findings)
    assert len(dataset.images) + lost == len(lines)
