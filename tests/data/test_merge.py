"""Merging: ids from 1, categories by name, provenance, and nothing lost."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import UNSET, Raw
from pycocotools.coco import COCO

from relaydet.config import SourceConfig
from relaydet.data.categories import category_names, parse_categories
from relaydet.data.checks.boxes import check_boxes
from relaydet.data.dataset import Annotation, Dataset, decode_corners, extra_fields
from relaydet.data.formats import coco, hash_annotations, read_source, write_format
from relaydet.data.merge import Part, merge
from relaydet.data.narrow import narrow
from relaydet.errors import RelayError


def part(file: dict, name: str = "src", **options) -> Part:
    file = {"images": [], "annotations": [], "categories": [], **file}
    dataset, _ = coco.decode(json.dumps(file).encode(), name, "file.json")
    return Part(SourceConfig(name, "coco", f"{name}.json", name, **options), dataset, f"sha-{name}")


def image(id=1, **fields) -> dict:
    return {"id": id, "file_name": f"{id}.jpg", "width": 10, "height": 10, **fields}


def annotation(id=1, image_id=1, category_id=1, **fields) -> dict:
    box = {"bbox": [1, 1, 2, 2], "area": 3.5}
    return {"id": id, "image_id": image_id, "category_id": category_id, **box, **fields}


def category(id=1, name="person", **fields) -> dict:
    return {"id": id, "name": name, **fields}


def street(**options) -> Part:
    """Image 1 has a person and a car, image 2 a car, image 3 nothing."""
    return part(
        {
            "images": [image(1), image(2), image(3)],
            "annotations": [annotation(5), annotation(6, 1, 2), annotation(7, 2, 2)],
            "categories": [category(1), category(2, "car")],
        },
        "street",
        **options,
    )


def indoor(**options) -> Part:
    """The same ids as the street's, and people called otherwise."""
    return part(
        {
            "images": [image(1)],
            "annotations": [annotation(5, 1, 2)],
            "categories": [category(2, "pedestrian", supercategory="human", keypoints=["nose"])],
        },
        "indoor",
        **options,
    )


def merged(*parts: Part, categories=()) -> Dataset:
    return merge(parts, categories)[0]


def names(dataset: Dataset) -> list[str]:
    return [category.name for category in dataset.categories]


@pytest.mark.parametrize(
    ("categories", "keep_empty", "expected_names", "images", "annotations"),
    [
        ((), False, ["person", "car", "pedestrian"], 4, 4),
        (("person",), False, ["person"], 1, 1),
        (("person",), True, ["person"], 3, 1),
        (("car", "person"), False, ["car", "person"], 2, 3),
        (("pedestrian=person", "person"), False, ["person"], 2, 2),
        (("person=human", "pedestrian = human"), False, ["human"], 2, 2),
        (("car=person", "person"), True, ["person"], 3, 3),
        (("person", "person"), False, ["person"], 1, 1),
        (("car=",), False, ["person", "pedestrian"], 2, 2),
        (("car=vehicle", "*"), True, ["vehicle", "person", "pedestrian"], 4, 4),
    ],
)
def test_categories(categories, keep_empty, expected_names, images, annotations):
    dataset = merged(street(keep_empty=keep_empty), indoor(), categories=categories)
    assert names(dataset) == expected_names
    assert [c.id for c in dataset.categories] == list(range(1, len(expected_names) + 1))
    assert (len(dataset.images), len(dataset.annotations)) == (images, annotations)


@pytest.mark.parametrize(
    ("categories", "message"),
    [
        (("persn",), r"no source has a category 'persn' \(did you mean person\?\); there are per"),
        (("Person",), "did you mean person"),
        (("zzz",), "'zzz'; there are person, car"),
        (("person=", "car="), "leaves no category"),
        (("person=a", "person=b"), "names it 'b', but an earlier entry names it 'a'"),
    ],
)
def test_categories_that_cannot_be(categories, message):
    with pytest.raises(RelayError, match=f"CATEGORIES: .*{message}"):
        merged(street(), categories=categories)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([], "no sources"),
        ([street(), street()], "Two sources are named 'street'"),
        ([part({"images": [image()]}, "a/b")], "'a/b': cannot be"),
        ([part({"images": [image()]}, "..")], "cannot be"),
        ([part({})], "no image"),
    ],
)
def test_parts_that_cannot_be_merged(parts, message):
    with pytest.raises(RelayError, match=message):
        merged(*parts)


def test_a_category_named_with_an_equals_sign_is_itself():
    file = {
        "images": [image()],
        "annotations": [annotation()],
        "categories": [category(name="a=b")],
    }
    assert names(merged(part(file), categories=("a=b",))) == ["a=b"]


def test_category_fields_come_from_the_first_source_that_has_them():
    first, second = (
        {"images": [image()], "annotations": [annotation()], "categories": [category(**fields)]}
        for fields in ({"keypoints": [1]}, {"supercategory": "x", "keypoints": [2], "new": 3})
    )
    dataset, findings = merge([part(first, "one"), part(second, "two")])
    assert dataset.categories[0].supercategory == "x"
    assert extra_fields(dataset.categories[0]) == {"keypoints": [1], "new": 3}
    assert [(f.code, f.source) for f in findings] == [("category-differs", "two")]


def test_what_is_left_out_is_counted():
    _, findings = merge([street(), indoor()], ["person"])
    assert [(f.code, f.source, f.severity, f.message[:1]) for f in findings] == [
        ("category-absent", "indoor", "warning", "h"),
        ("annotation-filtered", "street", "info", "2"),
        ("image-filtered", "street", "info", "2"),
        ("annotation-filtered", "indoor", "info", "1"),
        ("image-filtered", "indoor", "info", "1"),
    ]


def test_annotations_follow_their_images_where_earlier_ones_are_dropped():
    crossed = part(
        {
            "images": [image(1), image(2), image(3)],
            "annotations": [annotation(1, 3), annotation(2, 1, 2), annotation(3, 2)],
            "categories": [category(1), category(2, "car")],
        }
    )
    dataset = merged(street(), crossed, categories=["person"])
    names_of = {i.id: i.file_name for i in dataset.images}
    followed = [names_of[a.image_id] for a in dataset.annotations]
    assert followed == ["street/1.jpg", "src/3.jpg", "src/2.jpg"]


def test_provenance_is_written_and_an_earlier_one_kept():
    earlier = [
        image(1, source="old", source_id=9),
        image(2, source={"url": "x"}),
        image(3, source="old", original_source="older"),
        image(4),
    ]
    dataset = merged(part({"images": earlier, "categories": [category()]}, "new"))
    assert {(i.source, i.file_name) for i in dataset.images} == {
        ("new", f"new/{n}.jpg") for n in (1, 2, 3, 4)
    }
    assert [i.source_id for i in dataset.images] == [1, 2, 3, 4]
    assert [extra_fields(i) for i in dataset.images] == [
        {"original_source": "old", "original_source_id": 9},
        {"original_source": {"url": "x"}},
        {"original_source": "older", "original_original_source": "old"},
        {},
    ]


def test_info_names_the_sources():
    file = {"images": [image()], "info": {"year": 2017}}
    dataset = merged(part(file, "a", licence="CC0"), part({"images": [image()]}, "b"))
    assert dataset.info["sources"]["a"] == {
        "format": "coco",
        "annotations": "a.json",
        "images": "a",
        "sha256": "sha-a",
        "licence": "CC0",
    }
    assert list(dataset.info["sources"]) == ["a", "b"]
    assert dataset.info["original_info"] == {"a": {"year": 2017}}


def test_licences_survive_a_clash_of_lists():
    one = {
        "licenses": [{"id": 1, "name": "A"}, {"id": 2, "name": "B"}],
        "images": [image(1, license=1), image(2, license=2), image(3, license=7), image(4)],
    }
    two = {
        "licenses": [{"id": 1, "name": "B"}, {"id": "x", "name": "C"}],
        "images": [image(1, license=1), image(2, license="x"), image(3, license=None)],
    }
    dataset, findings = merge([part(one, "one"), part(two, "two")])
    by_id = {entry["id"]: entry["name"] for entry in dataset.licenses}
    assert by_id == {1: "A", 2: "B", 3: "C"}
    licences = [
        None if i.license is UNSET else json.loads(bytes(i.license)) for i in dataset.images
    ]
    assert [by_id.get(licence) for licence in licences] == ["A", "B", None, None, "B", "C", None]
    assert extra_fields(dataset.images[2]) == {"original_license": 7}
    assert dataset.images[2].license is UNSET
    assert "license-unlisted" in {f.code for f in findings}


def test_merging_repeats_itself():
    first, second = (
        coco.encode(merged(street(), indoor(), categories=["pedestrian", "car"])) for _ in range(2)
    )
    assert first == second


def test_a_part_is_used_up():
    used, copied = street(), street()
    merged(used)
    again = Part(SourceConfig("again", "coco", "", ""), copied.dataset, "")
    for parts in ([used], [used, indoor()], [copied, again]):
        with pytest.raises(ValueError, match="read them again"):
            merged(*parts)


@pytest.mark.parametrize("categories", [["zzz"], ["lamp"]])
def test_a_merge_that_fails_leaves_the_parts_as_they_were(categories):
    lamp = {"images": [image()], "categories": [category(name="lamp")]}
    parts = [street(), part(lamp, "lamps")]
    before = [coco.encode(p.dataset) for p in parts]
    with pytest.raises(RelayError):
        merged(*parts, categories=categories)
    assert [coco.encode(p.dataset) for p in parts] == before
    assert len(merged(*parts).images) == 4


def test_an_annotation_of_no_image_is_not_given_to_another():
    broken = street()
    broken.dataset.annotations[0].image_id = 99
    with pytest.raises(ValueError, match="not there"):
        merged(broken)


segmentations = st.sampled_from([b"[[1.0,2.50, 3e1]]", b'{"counts": "a\\u0041", "size": [1,2]}'])
odd_ids = st.integers(0, 5) | st.sampled_from(["1", "a"])
names_of_categories = st.sampled_from(["person", "car", "lamp"])


@st.composite
def coco_files(draw) -> bytes:
    """A COCO file with its own ids, and segmentations in odd spellings."""
    images = draw(st.lists(odd_ids, min_size=1, max_size=4, unique=True))
    categories = draw(st.dictionaries(odd_ids, names_of_categories, min_size=1, max_size=3))
    annotations = [
        annotation(
            number,
            draw(st.sampled_from(images)),
            draw(st.sampled_from(list(categories))),
            iscrowd=draw(st.sampled_from([0, 1])),
            area=draw(st.floats(0, 1e6)),
            segmentation=f"SEG{draw(segmentations).decode()}GES",
            **draw(st.dictionaries(st.sampled_from(["score", "extra"]), st.integers())),
        )
        for number in draw(st.lists(st.integers(), max_size=5, unique=True))
    ]
    file = {
        "images": [image(i) for i in images],
        "annotations": annotations,
        "categories": [category(i, name) for i, name in categories.items()],
    }
    text = json.dumps(file)
    for raw in ("[[1.0,2.50, 3e1]]", '{"counts": "a\\u0041", "size": [1,2]}'):
        text = text.replace(json.dumps(f"SEG{raw}GES"), raw)
    return text.encode()


@given(st.lists(coco_files(), min_size=1, max_size=3))
def test_ids_are_1_to_n_and_nothing_is_lost(files):
    parts = [
        Part(SourceConfig(f"s{n}", "coco", "", ""), coco.decode(data, f"s{n}", "file.json")[0], "")
        for n, data in enumerate(files)
    ]
    expected = [
        (p.source.name, a.image_id, c.name, a.bbox, a.area, a.iscrowd, a.segmentation, a.extra)
        for p in parts
        for a in p.dataset.annotations
        for c in p.dataset.categories
        if c.id == a.category_id
    ]
    dataset, _ = merge(parts)
    for records in (dataset.images, dataset.annotations, dataset.categories):
        assert [record.id for record in records] == list(range(1, len(records) + 1))

    images = {i.id: (i.source, i.source_id) for i in dataset.images}
    name_of = {c.id: c.name for c in dataset.categories}
    assert expected == [
        (
            *(*images[a.image_id], name_of[a.category_id]),
            *(a.bbox, a.area, a.iscrowd, a.segmentation, a.extra),
        )
        for a in dataset.annotations
    ]
    written = coco.encode(dataset)
    assert all(bytes(a.segmentation) in written for a in dataset.annotations)
    read_again = coco.encode(coco.decode(written, "merged", "merged.json")[0])
    # Unknown keys may come in another order.
    assert json.loads(read_again) == json.loads(written)


def content(a: Annotation) -> tuple:
    extra = sorted((key, bytes(raw)) for key, raw in (a.extra or {}).items())
    return bytes(a.segmentation), a.iscrowd, a.area, a.bbox, str(extra)


@settings(max_examples=60)
@given(
    st.lists(coco_files(), min_size=1, max_size=3),
    st.lists(names_of_categories, unique=True, max_size=2),
    st.booleans(),
)
def test_narrowing_and_merging_lose_nothing_of_what_is_kept(files, dropped, keep_empty):
    sources = [SourceConfig(f"s{n}", "coco", "", "", keep_empty=keep_empty) for n in range(3)]
    pairs = [
        (source, coco.decode(data, source.name, "file.json")[0])
        for source, data in zip(sources, files, strict=False)
    ]
    names = category_names(dataset for _, dataset in pairs)
    entries = [f"{name}=" for name in dropped if name in names]
    assume(len(entries) < len(names))
    expected = Counter(
        (source.name, a.image_id, c.name, *content(a))
        for source, dataset in pairs
        for a in dataset.annotations
        for c in dataset.categories
        if c.id == a.category_id and c.name not in dropped
    )
    every_image = {(source.name, i.id) for source, dataset in pairs for i in dataset.images}
    renames = parse_categories(names, entries)
    parts = [
        Part(source, narrow(dataset, source, renames, bool(entries), None, 0)[0], "")
        for source, dataset in pairs
    ]
    assume(any(p.dataset.images for p in parts))
    dataset, findings = merge(parts, entries)
    assert not {f.code for f in findings} & {"annotation-filtered", "image-filtered"}
    images = {i.id: (i.source, i.source_id) for i in dataset.images}
    name_of = {c.id: c.name for c in dataset.categories}
    assert expected == Counter(
        (*images[a.image_id], name_of[a.category_id], *content(a)) for a in dataset.annotations
    )
    with_object = {(source, image_id) for source, image_id, *_ in expected}
    assert set(images.values()) == (every_image if keep_empty or not entries else with_object)


def test_real_photos_merge_into_a_file_that_pycocotools_reads(real_source, tmp_path):
    parts = []
    for name in ("coco128", "coco_mini"):
        source = real_source(name)
        dataset, _ = check_boxes(read_source(source)[0], name)
        parts.append(Part(source, dataset, hash_annotations(source)))
    dataset, _ = merge(parts, ["person"])
    path = tmp_path / "annotations.json"
    path.write_bytes(coco.encode(dataset))

    reference = COCO(str(path))
    assert reference.getCatIds() == [1]
    source_of = {i["id"]: i["source"] for i in reference.loadImgs(reference.getImgIds())}
    persons = reference.loadAnns(reference.getAnnIds())
    sources = [source_of[a["image_id"]] for a in persons]
    assert (sources.count("coco128"), sources.count("coco_mini")) == (259, 172)
    crowds = [source_of[a["image_id"]] for a in persons if a["iscrowd"]]
    assert crowds.count("coco128") == 5
    assert len(dataset.licenses) == 8
    assert reference.annToMask(persons[0]).any()


ODD_VALUES = {
    "a huge integer": "9" * 100_000,
    "a huge integer in a list": f"[1, {'9' * 100_000}]",
    "an integer that fits no float": "1" + "0" * 400,
    "corners that fit no float": f"[1, 1, {'9' * 400}, 2]",
    "a number beyond all": "1e999999",
    "lists in lists": "[" * 900 + "]" * 900,
    "objects in objects": '{"a":' * 400 + "1" + "}" * 400,
}
KEYS = ("mine", "raw_bbox", "raw_yolo", "voc_size", "voc_bndbox", "@id", "pose", "segmentation")


@pytest.mark.parametrize("value", ODD_VALUES.values(), ids=ODD_VALUES)
def test_values_that_nothing_here_can_hold_are_kept_as_bytes(value):
    for key in KEYS:
        marked = json.dumps(
            {
                "images": [image(1, **{key: "@@"})],
                "annotations": [annotation(1, **{key: "@@"}), annotation(2)],
                "categories": [category(1, **{key: "@@"}, supercategory="@@")],
            }
        )
        data = marked.replace('"@@"', value).encode()
        dataset, _ = coco.decode(data, "s", "file.json")
        merged, _ = merge([Part(SourceConfig("s", "coco", "s.json", "s"), dataset, "sha")])
        written = coco.encode(merged).decode()
        assert written.count(value) >= 2
        for form in ("yolo", "voc"):
            files: dict[str, bytes] = {}
            write_format(form, merged, files.__setitem__)
            assert files
    assert decode_corners(Raw(value.encode())) is None


@pytest.mark.parametrize("value", [r'"\ud800"', r'"\q"', "[" * 100_000, '{"a":' * 100_000])
def test_text_that_is_no_json_is_refused_in_a_sentence(value):
    data = json.dumps({"images": [image(1, mine="@@")], "annotations": [], "categories": []})
    with pytest.raises(RelayError, match=r"^file\.json: (not valid JSON|nested too deeply)"):
        coco.decode(data.replace('"@@"', value).encode(), "s", "file.json")
