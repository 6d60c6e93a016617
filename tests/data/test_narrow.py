"""Part of a source: listed images, some categories, at most so many, and nothing else changed."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from relaydet.config import SourceConfig
from relaydet.data.dataset import Annotation, Category, Dataset, Image
from relaydet.data.narrow import narrow
from relaydet.errors import RelayError

ALL = {"person": "person", "car": "car"}


def dataset_of(names, annotations=()) -> Dataset:
    """Images with these names, ids from 10, and annotations (image place, category id)."""
    images = [Image(10 + n, name, 100, 80) for n, name in enumerate(names)]
    records = [
        Annotation(7 * n, 10 + place, kind, (1.0, 2.0, 3.0, 4.0), 12.0)
        for n, (place, kind) in enumerate(annotations)
    ]
    return Dataset(images, records, [Category(1, "person"), Category(2, "car")])


def street() -> Dataset:
    """Image a has a person and two cars, b a car, c nothing."""
    return dataset_of("abc", [(0, 1), (0, 2), (1, 2), (0, 2)])


def source(**options) -> SourceConfig:
    return SourceConfig("src", "coco", "", "", **options)


def narrowed(dataset, renames=ALL, filtered=False, limit=None, seed=0, **options) -> Dataset:
    return narrow(dataset, source(**options), renames, filtered, limit, seed)[0]


def names(dataset) -> str:
    return " ".join(image.file_name for image in dataset.images)


@pytest.fixture
def image_list(tmp_path):
    """The path of a new image list with this text or these bytes."""

    def write(content: str | bytes) -> str:
        path = tmp_path / "list.txt"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return str(path)

    return write


@pytest.mark.parametrize(
    ("renames", "filtered", "options", "images", "ids"),
    [
        (ALL, False, {}, "a b c", [0, 7, 14, 21]),
        (ALL, True, {}, "a b", [0, 7, 14, 21]),
        (ALL, False, {"categories": ("*",)}, "a b", [0, 7, 14, 21]),
        (ALL, True, {"keep_empty": True}, "a b c", [0, 7, 14, 21]),
        ({"person": "human"}, True, {}, "a", [0]),
        ({"person": "human"}, True, {"keep_empty": True}, "a b c", [0]),
        ({"car": "car"}, True, {}, "a b", [7, 14, 21]),
        ({}, True, {}, "", []),
    ],
)
def test_categories(renames, filtered, options, images, ids):
    before = street()
    dataset = narrowed(before, renames, filtered, **options)
    assert names(dataset) == images
    assert [a.id for a in dataset.annotations] == ids
    assert dataset.categories == before.categories
    assert before == street()


def test_what_is_left_out_is_counted_per_category():
    _, findings = narrow(street(), source(), {}, True, None, 0)
    assert [(f.code, f.severity, f.message) for f in findings] == [
        ("annotation-filtered", "info", "3 annotations of car"),
        ("annotation-filtered", "info", "1 annotations of person"),
        ("image-filtered", "info", "3 images have no object of the categories"),
    ]


def test_where_nothing_is_left_out_the_lists_are_the_same():
    dataset = dataset_of("ab", [(0, 1), (1, 2)])
    for filtered in (False, True):
        same, findings = narrow(dataset, source(), ALL, filtered, 2, 0)
        assert same.images is dataset.images
        assert same.annotations is dataset.annotations
        assert not findings


def many(count: int = 60) -> Dataset:
    return dataset_of([f"{n}.jpg" for n in range(count)], [(n, 1) for n in range(0, count, 2)])


def test_a_limit_draws_at_random_and_a_larger_one_only_adds():
    drawn = [narrowed(many(), limit=limit) for limit in (1, 5, 40, 60, 99)]
    chosen = [[image.id for image in dataset.images] for dataset in drawn]
    assert [len(ids) for ids in chosen] == [1, 5, 40, 60, 60]
    for fewer, more in pairwise(chosen):
        assert set(fewer) <= set(more)
        assert fewer == sorted(fewer)
    assert chosen[2] != list(range(10, 50))
    for dataset, ids in zip(drawn, chosen, strict=True):
        assert [a.image_id for a in dataset.annotations] == [i for i in ids if i % 2 == 0]


def test_a_limit_is_a_function_of_seed_source_and_file_name():
    first = set(names(narrowed(many(), limit=20)).split())
    assert set(names(narrowed(many(), limit=20, seed=1)).split()) != first
    renamed = SourceConfig("other", "coco", "", "")
    assert set(names(narrow(many(), renamed, ALL, False, 20, 0)[0]).split()) != first
    backwards = dataset_of([f"{n}.jpg" for n in reversed(range(60))])
    assert set(names(narrowed(backwards, limit=20)).split()) == first


def test_every_image_is_drawn_as_often():
    drawn = [0] * 30
    for seed in range(600):
        for image in narrowed(many(30), limit=10, seed=seed).images:
            drawn[image.id - 10] += 1
    assert 140 < min(drawn) <= max(drawn) < 260  # 200 on average, standard deviation 12


def test_a_limit_counts_what_is_left_and_says_so():
    dataset, findings = narrow(many(), source(), {"person": "person"}, True, 7, 3)
    assert len(dataset.images) == len(dataset.annotations) == 7
    assert [(f.code, f.message) for f in findings] == [
        ("image-filtered", "30 images have no object of the categories"),
        ("image-limited", "7 of 30 images are taken, drawn at random with seed 3"),
    ]


@pytest.mark.parametrize("limit", [0, -3])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(RelayError, match=f"source src: max_images is {limit}"):
        narrowed(many(), limit=limit)


FILES = ["s1.jpg", "train/1.jpg", "val/1.jpg", "x/y/2.jpg", "z/y/2.jpg", "w/3.jpg"]


@pytest.mark.parametrize(
    ("listed", "expected", "codes"),
    [
        ("s1.jpg\ntrain/1.jpg\n", "s1.jpg train/1.jpg", []),
        ("# all\r\n\r\n  s1.jpg \r\ns1.jpg", "s1.jpg", []),
        ("\ufeffs1.jpg", "s1.jpg", []),
        ("CUHKSYSU/images/s1.jpg", "s1.jpg", []),
        ("./s1.jpg\nC:\\data\\val\\1.jpg", "s1.jpg val/1.jpg", []),
        ("/data/x/y/2.jpg", "x/y/2.jpg", []),
        ("3.jpg", "w/3.jpg", []),
        ("other/3.jpg", "w/3.jpg", ["image-list-folder"]),
        ("/data/other/val/1.jpg", "val/1.jpg", []),
        ("s1.jpg\ntest/1.jpg\ns9.jpg", "s1.jpg", ["image-list-unknown"]),
    ],
)
def test_an_image_list(image_list, listed, expected, codes):
    dataset, findings = narrow(
        dataset_of(FILES, [(n, 1) for n in range(len(FILES))]),
        source(image_list=image_list(listed)),
        ALL,
        False,
        None,
        0,
    )
    assert names(dataset) == expected
    assert [a.image_id for a in dataset.annotations] == [i.id for i in dataset.images]
    assert [f.code for f in findings] == [*codes, "image-not-listed"]


def test_a_list_says_what_it_did(image_list):
    path = image_list("s1.jpg\nq\nother/3.jpg\nr\n")
    _, findings = narrow(dataset_of(FILES), source(image_list=path), ALL, False, None, 0)
    assert [(f.severity, f.message.replace(path, "LIST")) for f in findings] == [
        ("info", "1 names in LIST have other folders than their images, such as other/3.jpg"),
        ("warning", "2 names in LIST fit no image, such as q"),
        ("info", "4 images are not in LIST"),
    ]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("1.jpg", "'1.jpg' fits several images"),
        ("q/y/2.jpg", "fits several images"),
        ("", "names no image of source src, whose images are called s1.jpg"),
        ("# s1.jpg", "names no image"),
        ("nothing", "names no image"),
        (b"\xff\xfes\x001\x00", "not a list of image names"),
        (b"s1.jpg\n\x80", "not a list of image names"),
    ],
)
def test_a_list_that_cannot_be_used(image_list, content, message):
    path = image_list(content)
    with pytest.raises(RelayError, match=message) as error:
        narrowed(dataset_of(FILES), image_list=path)
    assert path in str(error.value)


def test_a_list_that_is_not_there(tmp_path):
    with pytest.raises(RelayError, match=r"none\.txt"):
        narrowed(dataset_of(FILES), image_list=str(tmp_path / "none.txt"))


def test_images_of_one_name_are_listed_together(image_list):
    path = image_list("data/1.jpg")
    assert len(narrowed(dataset_of(["1.jpg", "1.jpg", "2.jpg"]), image_list=path).images) == 2


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(content=st.binary(max_size=30) | st.text("s1.jpg/\\\n#x", max_size=30).map(str.encode))
def test_any_bytes_are_a_list_or_one_error(image_list, content):
    path = image_list(content)
    try:
        dataset = narrowed(dataset_of([*FILES, "", "/", "//"]), image_list=path)
    except RelayError:
        return
    assert dataset.images


def test_a_real_split_list_of_cuhk_sysu(shared):
    path = shared("cuhk_sysu", "splits", "cuhksysu.train")
    lines = path.read_text().split()
    files = [f"s{n}.jpg" for n in range(1, 18300)]
    dataset = narrowed(dataset_of(files), image_list=str(path))
    assert {i.file_name for i in dataset.images} == {line.rsplit("/", 1)[-1] for line in lines}


odd_ids = st.integers(-5, 5) | st.sampled_from([2**40, -(2**70), 2**70, "1", "a", ""])


@given(
    st.lists(odd_ids, unique_by=lambda i: (type(i), i), max_size=8), st.lists(odd_ids, max_size=12)
)
def test_the_rows_of_annotations(image_ids, wanted):
    images = [Image(i, "", 1, 1) for i in image_ids]
    annotations = [Annotation(1, i, 1, (0.0, 0.0, 1.0, 1.0), 1.0) for i in wanted]
    expected = [image_ids.index(i) if i in image_ids else -1 for i in wanted]
    assert Dataset(images, annotations, []).image_rows_N.tolist() == expected


@given(
    st.lists(st.tuples(st.integers(0, 5), st.sampled_from([1, 2])), max_size=12),
    st.sampled_from([ALL, {"person": "p"}, {"car": "c"}, {}]),
    st.booleans(),
    st.none() | st.integers(1, 7),
    st.booleans(),
)
def test_what_is_left_is_whole_and_in_order(annotations, renames, filtered, limit, keep_empty):
    before = dataset_of("abcdef", annotations)
    dataset = narrowed(before, renames, filtered, limit, keep_empty=keep_empty)
    images = {image.id for image in dataset.images}
    kinds = {category.id for category in before.categories if category.name in renames}
    assert dataset.annotations == [
        a for a in before.annotations if a.image_id in images and a.category_id in kinds
    ]
    with_object = {a.image_id for a in before.annotations if a.category_id in kinds}
    candidates = [i for i in before.images if i.id in with_object or keep_empty or not filtered]
    assert dataset.images == [image for image in candidates if image.id in images]
    assert len(images) == min(len(candidates), limit or len(candidates))
