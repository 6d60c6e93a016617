"""Splitting: every image in one part, duplicates together, sources and sizes in proportion."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import chain

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaydet.data.dataset import Annotation, Category, Dataset, Image
from relaydet.data.formats import coco
from relaydet.data.split import parse_split, split
from relaydet.errors import RelayError


def dataset_of(sources: dict[str, int], objects: bool = True) -> Dataset:
    """So many images of each source; every fourth has none, the others ever larger objects."""
    images, annotations = [], []
    for source, count in sources.items():
        for n in range(count):
            number = len(images) + 1
            images.append(Image(number, f"{source}/{n}.jpg", 100, 100, source=source, source_id=n))
            for _ in range(n % 4 if objects else 0):
                side = 1.0 + n % 90
                annotations.append(
                    Annotation(len(annotations) + 1, number, 1, (0.0, 0.0, side, side), side * side)
                )
    info = {"sources": {source: {} for source in sources}}
    return Dataset(images, annotations, [Category(1, "person")], info, [{"id": 1, "name": "A"}])


def names(dataset: Dataset) -> list[str]:
    return [image.file_name for image in dataset.images]


def part_of(parts: dict[str, Dataset]) -> dict[str, str]:
    return {name: part for part, dataset in parts.items() for name in names(dataset)}


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], {}),
        (["val=0.1"], {"val": 0.1}),
        ([" val = 1e-1 ", "test=.2"], {"val": 0.1, "test": 0.2}),
        (["a=0.7", "b=0.2", "c=0.1"], {"a": 0.7, "b": 0.2, "c": 0.1}),
        (["all=1"], {"all": 1.0}),
    ],
)
def test_entries(entries, expected):
    assert parse_split(entries) == expected


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["val"], "'val' should be a name and a fraction"),
        (["val="], "'val=' should"),
        (["val=10%"], "should be"),
        (["val=0"], "above 0"),
        (["val=-0.1"], "above 0"),
        (["val=1.01"], "at most 1"),
        (["val=nan"], "above 0"),
        (["val=inf"], "above 0"),
        (["=0.1"], "cannot be the name of a folder"),
        (["a/b=0.1"], "cannot be the name of a folder"),
        (["val=0.1", "val=0.1"], "'val' comes twice"),
        (["a=0.6", "b=0.6"], "a=0.6, b=0.6 add up to 1.2"),
    ],
)
def test_entries_that_are_refused(entries, message):
    with pytest.raises(RelayError, match=f"SPLIT.*{message}"):
        parse_split(entries)


def test_a_tenth_of_the_images():
    dataset = dataset_of({"a": 600, "b": 200})
    parts = split(dataset, {"val": 0.1})
    assert list(parts) == ["val", ""]
    assert [len(part.images) for part in parts.values()] == [80, 720]
    assert Counter(i.source for i in parts["val"].images) == {"a": 60, "b": 20}
    assert names(parts["val"]) != sorted(names(parts["val"]))[:80]
    assert parts["val"].info["split"] == {"part": "val", "fraction": 0.1, "seed": 0}
    assert parts[""].info["split"] == {"part": "", "fraction": 0.9, "seed": 0}


def test_sizes_of_objects_are_in_proportion():
    """In each quarter of an order by size, and among images without objects."""
    dataset = dataset_of({"a": 720})
    parts = part_of(split(dataset, {"val": 0.25}))
    side = {a.image_id: a.bbox[2] for a in dataset.annotations}
    by_size = sorted(dataset.images, key=lambda image: side.get(image.id, 0.0))
    for start in range(0, 720, 180):  # a quarter has no objects; the rest are three size classes
        part_names = [parts[image.file_name] for image in by_size[start : start + 180]]
        assert part_names.count("val") in range(42, 49)


def test_fractions_that_add_up_to_one_leave_no_rest():
    parts = split(dataset_of({"a": 50}), parse_split(["x=0.7", "y=0.2", "z=0.1"]))
    assert [len(part.images) for part in parts.values()] == [35, 10, 5]


def test_records_stay_what_they_were_under_new_ids():
    dataset = dataset_of({"a": 40, "b": 40})
    before = coco.encode(dataset)
    parts = split(dataset, {"val": 0.3})
    original = {image.file_name: image for image in dataset.images}
    for part in parts.values():
        for image in part.images:
            first = original[image.file_name]
            assert (image.source, image.source_id) == (first.source, first.source_id)
        assert part.categories == dataset.categories
        assert part.licenses == dataset.licenses
        assert part.info["sources"] == dataset.info["sources"]
        # What is done to a part must reach neither the input nor another part.
        part.images[0].file_name = part.annotations[0].area = "changed"
        part.categories[0].name = part.licenses[0]["name"] = part.info["sources"]["a"] = "changed"
    assert coco.encode(dataset) == before
    assert coco.encode(split(dataset, {"val": 0.3})["val"]).count(b"changed") == 0


def test_a_part_without_images_is_refused():
    with pytest.raises(RelayError, match=r"the part 'val' would get none of the 4 images .* 0\.01"):
        split(dataset_of({"a": 4}), {"val": 0.01})
    with pytest.raises(RelayError, match="the rest would get none of the 2 images"):
        split(dataset_of({"a": 2}), {"val": 0.9})
    with pytest.raises(RelayError, match="none of the 0 images"):
        split(dataset_of({}), {"val": 0.5})


def test_a_group_that_is_everything_cannot_be_split():
    dataset = dataset_of({"a": 6})
    with pytest.raises(RelayError, match="would get none of the 6 images"):
        split(dataset, {"val": 0.5}, [names(dataset)])


def test_groups_that_overlap_are_one():
    dataset = dataset_of({"a": 30, "b": 30})
    chain_of_pairs = [[f"a/{n}.jpg", f"b/{n + 1}.jpg"] for n in range(5)]
    chain_of_pairs += [[f"b/{n}.jpg", f"a/{n}.jpg", "not/there.jpg"] for n in range(1, 5)]
    parts = part_of(split(dataset, {"val": 0.5}, chain_of_pairs))
    assert len({parts[name] for name in chain(*chain_of_pairs) if name in parts}) == 1
    assert Counter(parts.values()) == {"val": 30, "": 30}


def test_images_of_one_file_stay_together():
    images = [Image(n, f"a/{n // 10}.jpg", 9, 9, source="a") for n in range(40)]
    parts = split(Dataset(images, [], []), {"val": 0.5})
    assert [len(part.images) for part in parts.values()] == [20, 20]
    assert not set(names(parts["val"])) & set(names(parts[""]))


def test_the_seed_and_the_names_decide():
    dataset = dataset_of({"a": 100})
    first = part_of(split(dataset, {"val": 0.3}))
    assert part_of(split(dataset, {"val": 0.3})) == first
    assert part_of(split(dataset, {"val": 0.3}, seed=1)) != first
    dataset = replace(dataset, images=dataset.images[::-1])
    assert part_of(split(dataset, {"val": 0.3})) == first


def test_crowds_and_images_of_unknown_size_have_no_object_size():
    dataset = dataset_of({"a": 20})
    for image in dataset.images[::2]:
        image.width = 0
    for annotation in dataset.annotations:
        annotation.iscrowd = 1
    plain = dataset_of({"a": 20}, objects=False)
    assert part_of(split(dataset, {"val": 0.5})) == part_of(split(plain, {"val": 0.5}))


@given(st.integers(1, 40), st.integers(1, 40), st.floats(0.2, 0.8), st.integers(0, 9))
def test_a_source_that_comes_later_moves_no_image(count, added, fraction, seed):
    try:
        before = part_of(split(dataset_of({"a": count}), {"val": fraction}, seed=seed))
        both = dataset_of({"a": count, "b": added})
        after = part_of(split(both, {"val": fraction}, seed=seed))
    except RelayError:
        return
    assert before.items() <= after.items()


@st.composite
def splits(draw):
    """A dataset, fractions, and groups of file names that may overlap."""
    dataset = dataset_of(draw(st.dictionaries(st.sampled_from("abc"), st.integers(0, 25))))
    every = names(dataset) or [""]
    groups = draw(st.lists(st.lists(st.sampled_from(every), max_size=4), max_size=4))
    weights = draw(st.lists(st.integers(1, 20), min_size=2, max_size=4))
    fractions = {f"p{n}": weight / sum(weights) for n, weight in enumerate(weights)}
    if draw(st.booleans()):
        fractions.popitem()
    return dataset, fractions, groups


def united(groups: list[list[str]]) -> list[set[str]]:
    """Groups that overlap as one."""
    sets: list[set[str]] = []
    for group in map(set, groups):
        for other in [s for s in sets if s & group]:
            sets.remove(other)
            group |= other
        sets.append(group)
    return sets


@settings(max_examples=200)
@given(splits())
def test_what_holds_of_every_split(case):
    dataset, fractions, groups = case
    try:
        parts = split(dataset, fractions, groups)
    except RelayError:  # a part without images: there are few, or they are in large groups
        return
    assert sorted(chain(*map(names, parts.values()))) == sorted(names(dataset))
    boxes = Counter()
    name_of = {image.id: image.file_name for image in dataset.images}
    for part in parts.values():
        assert names(part) == [name for name in names(dataset) if name in set(names(part))]
        for records in (part.images, part.annotations):
            assert [record.id for record in records] == list(range(1, len(records) + 1))
        boxes += Counter((part.images[a.image_id - 1].file_name, a.bbox) for a in part.annotations)
    assert boxes == Counter((name_of[a.image_id], a.bbox) for a in dataset.annotations)

    where = part_of(parts)
    together = united(groups)
    assert all(len({where[name] for name in group if name in where}) <= 1 for group in together)
    largest = max([1, *map(len, together)])
    for name, part in parts.items():
        share = fractions.get(name, 1 - sum(fractions.values()))
        over = len(part.images) - share * len(dataset.images)
        assert over < largest
        assert over > -largest * (len(parts) - 1)
        if len(parts) == 2:
            assert abs(over) <= largest / 2 + 1e-6


@given(
    st.dictionaries(st.sampled_from("abc"), st.integers(2, 60), min_size=1),
    st.floats(0.05, 0.95),
    st.integers(0, 5),
)
def test_each_source_gets_its_fraction_to_within_one_image(sources, fraction, seed):
    try:
        parts = split(dataset_of(sources), {"val": fraction}, seed=seed)
    except RelayError:
        return
    counts = Counter(image.source for image in parts["val"].images)
    for source, count in sources.items():
        assert abs(counts[source] - fraction * count) <= 1 + 1e-6
