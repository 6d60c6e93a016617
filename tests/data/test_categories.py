"""CATEGORIES: which are kept, under which names, and the table that says so."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaydet.config import SourceConfig
from relaydet.data.categories import (
    category_names,
    mapping_table,
    parse_categories,
    take_categories,
)
from relaydet.errors import RelayError

KNOWN = ["person", "car", "dog", "a=b", " odd "]


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        ([], "person=person car=car dog=dog a=b=a=b  odd = odd "),
        (["*"], "person=person car=car dog=dog a=b=a=b  odd = odd "),
        (["dog", "person"], "dog=dog person=person"),
        (["dog=animal", " car = thing "], "dog=animal car=thing"),
        (["dog=person", "person"], "dog=person person=person"),
        (["dog=car", "car=dog"], "dog=car car=dog"),
        (["car=", "dog", "a=b= "], "dog=dog"),
        (["car=", "a=b=", " odd ="], "person=person dog=dog"),
        (["car=", "car=", "dog", "dog"], "dog=dog"),
        (["dog", "*", "person=man"], "dog=dog car=car a=b=a=b  odd = odd  person=man"),
        ([" * ", "car=", "a=b=", "odd="], None),  # there is no "odd" without its spaces
        (["a=b"], "a=b=a=b"),
        (["a=b=c"], "a=b=c"),
        (["a=b=c=d"], "a=b=c=d"),
    ],
)
def test_entries(entries, expected):
    if expected is None:
        with pytest.raises(RelayError, match="no source has a category 'odd'"):
            parse_categories(KNOWN, entries)
        return
    renames = parse_categories(KNOWN, entries)
    assert " ".join(f"{old}={new}" for old, new in renames.items()) == expected


def test_a_name_with_an_equals_sign_is_split_at_the_longest_category():
    assert parse_categories(["a", "a=b"], ["a=b=c"]) == {"a=b": "c"}
    assert parse_categories(["a", "a=b"], ["a=c"]) == {"a": "c"}


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        (["persn"], r"X: no source has a category 'persn' \(did you mean person\?\); there are"),
        (["DOG="], r"\(did you mean dog\?\)"),
        (["zzzz=y"], "category 'zzzz'; there are person, car, dog"),
        (["=y"], "category ''"),
        ([""], "category ''"),
        (["*=y"], r"category '\*'"),
        (["dog", "dog="], "is about 'dog' and drops it, but an earlier entry names it 'dog'"),
        (["dog=x", "dog=y"], "names it 'y', but an earlier entry names it 'x'"),
        (["dog=", "dog"], "names it 'dog', but an earlier entry drops it"),
        ([f"{name}=" for name in KNOWN], "leaves no category"),
    ],
)
def test_entries_that_are_refused(entries, message):
    with pytest.raises(RelayError, match=message):
        parse_categories(KNOWN, entries, "X")


def test_a_message_does_not_list_a_thousand_categories():
    known = [f"c{n}" for n in range(1000)]
    with pytest.raises(RelayError, match="and 960 more") as error:
        parse_categories(known, ["zzzzzzzz"])
    assert len(str(error.value)) < 500


def test_no_source_has_any_category():
    assert parse_categories([], []) == {}
    with pytest.raises(RelayError, match="none at all"):
        parse_categories([], ["person"])


@given(st.lists(st.sampled_from(["a", "b=", "c=x", "a=y", "*", "d=x", "=", "q"]), max_size=5))
def test_any_entries_give_a_mapping_of_known_names_or_one_error(entries):
    known = ["a", "b", "c", "d"]
    try:
        renames = parse_categories(known, entries)
    except RelayError:
        return
    assert renames.keys() <= set(known)
    assert all(renames.values())
    if "*" in entries or not entries or all(e == "b=" for e in entries):
        named = {entry.partition("=")[0] for entry in entries}
        assert renames.items() >= {(name, name) for name in known if name not in named}


def source(*categories: str) -> SourceConfig:
    return SourceConfig("src", "coco", "", "", categories=categories)


@pytest.fixture
def animals(coco_dict, read_coco):
    """Two dogs, under two ids, a cat and no bird, in two images."""
    kinds = {1: "dog", 2: "cat", 3: "dog", 4: "bird"}
    box = {"image_id": 7, "bbox": [1, 2, 3, 4], "area": 12}
    return read_coco(
        coco_dict(
            annotations=[{"id": i, "category_id": c, **box} for i, c in ((5, 1), (6, 2), (8, 3))],
            categories=[{"id": i, "name": name} for i, name in kinds.items()],
        )
    )[0]


def test_a_source_that_chooses_nothing_stays_itself(animals):
    dataset, uses, findings = take_categories(animals, source())
    assert dataset is animals
    assert [(u.name, u.taken_as, u.annotations) for u in uses] == [
        ("dog", "dog", 2),
        ("cat", "cat", 1),
        ("bird", "bird", 0),
    ]
    assert not findings


def test_a_source_chooses_and_renames(animals):
    dataset, uses, findings = take_categories(animals, source("bird", "dog=animal"))
    assert [(c.id, c.name) for c in dataset.categories] == [
        (4, "bird"),
        (1, "animal"),
        (3, "animal"),
    ]
    assert [a.id for a in dataset.annotations] == [5, 8]
    assert dataset.images == animals.images
    assert [(u.name, u.taken_as) for u in uses] == [
        ("dog", "animal"),
        ("cat", None),
        ("bird", "bird"),
    ]
    assert [(f.code, f.source, f.message) for f in findings] == [
        ("annotation-filtered", "src", "1 annotations of cat")
    ]
    assert [c.name for c in animals.categories] == ["dog", "cat", "dog", "bird"]
    assert len(animals.annotations) == 3


def test_a_source_that_has_no_such_category_is_named(animals):
    with pytest.raises(RelayError, match=r"source src: categories: no source has .*'cow'"):
        take_categories(animals, source("cow"))


def test_names_of_all_datasets(animals, read_coco, coco_dict):
    other = read_coco(coco_dict())[0]
    assert category_names([animals, other]) == ["dog", "cat", "bird", "person"]


def test_the_table_says_what_became_of_every_category(animals):
    _, uses, _ = take_categories(animals, source("dog=animal", "cat"))
    renames = parse_categories(["animal", "cat"], ["animal=beast"])
    assert mapping_table({"src": uses, "none": []}, renames).splitlines() == [
        "categories:",
        "  src: dog 2 -> beast; left out: cat 1, bird 0",
        "  none: has no categories",
    ]


def test_the_table_is_short_where_very_many_are_left_out(animals):
    _, (use, *_), _ = take_categories(animals, source())
    table = mapping_table({"src": [use] * 1000}, {})
    assert "960 others 1,920" in table.replace("\n    ", " ")
    assert len(table) < 1000
    assert max(map(len, table.splitlines())) <= 100
