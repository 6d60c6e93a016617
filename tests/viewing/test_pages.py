"""Finding images by what is in them, and what their pages say; no widgets here."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Raw
from PIL import Image as PillowImage

from relaydet.data.dataset import Annotation, Category, Dataset, Image
from relaydet.data.findings import Finding
from relaydet.data.images import open_images
from relaydet.errors import RelayError
from relaydet.viewing.draw import PALETTE
from relaydet.viewing.pages import SIZES, Catalogue, Filters, Pages, catalogue

CATEGORIES = [Category(1, "person"), Category(2, "car")]
SMALL, MEDIUM, LARGE = 1023.0, 1024.0, 9216.0


def finding(code: str, image: str | None, source: str = "a") -> Finding:
    return Finding(code, "warning", source, f"{image} is odd", "kept", image)


def dataset(images: str, *objects) -> Dataset:
    """Images 1.png, 2.png, ... of the sources that a text spells; objects as in `Annotation`."""
    return Dataset(
        [Image(n + 1, f"{s}/{n + 1}.png", 40, 20, source=s) for n, s in enumerate(images)],
        [
            Annotation(n + 1, image, category, (5.0, 5.0, 20.0, 10.0), area, iscrowd=crowd)
            for n, (image, category, area, crowd) in enumerate(objects)
        ],
        CATEGORIES,
    )


EXAMPLE = dataset(
    "aab",
    (1, 1, SMALL, 0),
    (1, 2, LARGE, 0),
    (2, 1, LARGE, 1),
    (3, 1, MEDIUM, 0),
    (3, 1, SMALL, 0),
)
FOUND = [
    finding("image-turned", "1.png"),
    finding("image-turned", "3.png", "b"),
    finding("box-clamped", "3.png", "b"),
    finding("box-clamped", "3.png", "b"),
    finding("image-missing", "4.png"),
    finding("image-missing", "1.png", "b"),
    finding("no-objects", None),
]


@pytest.mark.parametrize(
    ("filters", "rows"),
    [
        (Filters(), [0, 1, 2]),
        (Filters(source="a"), [0, 1]),
        (Filters(source="nobody"), []),
        (Filters(category="car"), [0]),
        (Filters(category="person"), [0, 1, 2]),
        (Filters(category="nothing"), []),
        (Filters(size="small"), [0, 2]),
        (Filters(size="medium"), [2]),
        (Filters(size="large"), [0]),
        (Filters(category="person", size="large"), []),
        (Filters(category="car", size="large"), [0]),
        (Filters(code="image-turned"), [0, 2]),
        (Filters(code="box-clamped"), [2]),
        (Filters(code="image-missing"), []),
        (Filters("b", "person", "medium", "image-turned"), [2]),
        (Filters("a", "person", "medium", "image-turned"), []),
    ],
    ids=str,
)
def test_filters_leave_the_images_that_pass_all(filters, rows):
    assert catalogue(EXAMPLE, FOUND).select(filters).tolist() == rows


def test_an_unknown_size_is_a_mistake_of_the_program():
    with pytest.raises(ValueError, match="tuple"):
        catalogue(EXAMPLE).select(Filters(size="huge"))


def test_codes_of_images_that_are_there_most_frequent_first():
    rows = catalogue(EXAMPLE, FOUND).rows_of_code
    assert {code: r.tolist() for code, r in rows.items()} == {
        "image-turned": [0, 2],
        "box-clamped": [2],
    }
    assert list(rows) == ["image-turned", "box-clamped"]
    assert catalogue(EXAMPLE).rows_of_code == {}


def test_an_empty_dataset_has_nothing_to_select():
    empty = catalogue(Dataset([], [], []), FOUND)
    for filters in (Filters(), Filters("a", "person", "small", "box-clamped")):
        assert empty.select(filters).tolist() == []


OBJECT = st.tuples(
    st.integers(1, 4),
    st.sampled_from([1, 2]),
    st.sampled_from([SMALL, MEDIUM, LARGE]),
    st.sampled_from([0, 1]),
)
FILTERS = st.builds(
    Filters,
    st.sampled_from([None, "a", "b"]),
    st.sampled_from([None, "person", "car"]),
    st.sampled_from([None, *SIZES]),
    st.sampled_from([None, "x", "y"]),
)


@settings(max_examples=150, deadline=None)
@given(
    st.text("ab", min_size=4, max_size=6),
    st.lists(OBJECT, max_size=8),
    st.lists(
        st.tuples(st.sampled_from("xy"), st.integers(1, 6), st.sampled_from("ab")), max_size=4
    ),
    FILTERS,
)
def test_the_arrays_say_what_a_look_at_each_image_says(sources, objects, found, filters):
    def passes(number: int, source: str) -> bool:
        names = {1: "person", 2: "car"}
        sizes = {SMALL: "small", MEDIUM: "medium", LARGE: "large"}
        mine = [o for o in objects if o[0] == number]
        fits = any(
            filters.category in (None, names[category])
            and (filters.size is None or (not crowd and filters.size == sizes[area]))
            for _, category, area, crowd in mine
        )
        no_object_needed = filters.category is None and filters.size is None
        codes = {code for code, image, its in found if (image, its) == (number, source)}
        return (
            filters.source in (None, source)
            and (fits or no_object_needed)
            and (filters.code is None or filters.code in codes)
        )

    findings = [finding(code, f"{image}.png", source) for code, image, source in found]
    rows = catalogue(dataset(sources, *objects), findings).select(filters)
    assert rows.tolist() == [n for n, source in enumerate(sources) if passes(n + 1, source)]


@pytest.fixture
def images(tmp_path):
    for number in range(1, 4):
        PillowImage.new("RGB", (40, 20)).save(tmp_path / f"{number}.png")
    place = open_images(str(tmp_path))
    return {"a": place, "b": place}


def pages(images, data: Dataset = EXAMPLE, found=FOUND) -> Pages:
    return Pages(data, images, catalogue(data, found))


def has(picture: PillowImage.Image, colour) -> bool:
    return bool((np.asarray(picture) == colour).all(axis=2).any())


def test_a_page_shows_its_own_boxes(images):
    assert [[a.id for a in pages(images).annotations(row)] for row in range(3)] == [
        [1, 2],
        [3],
        [4, 5],
    ]
    both, one = pages(images).render(0), pages(images).render(2)
    assert has(both, PALETTE[0])
    assert has(both, PALETTE[1])
    assert has(one, PALETTE[0])
    assert not has(one, PALETTE[1])


def test_annotations_may_come_in_any_order(images):
    data = dataset("aab", *((n, 1, SMALL, 0) for n in (3, 1, 2, 1, 3)))
    ids = [[a.id for a in pages(images, data).annotations(row)] for row in range(3)]
    assert ids == [[2, 4], [3], [1, 5]]


@pytest.mark.parametrize("size", [(1, 1), (4000, 20), (20, 4000), (1, 30_000), (300, 200)], ids=str)
def test_pages_have_the_size_of_a_screen(images, tmp_path, size):
    PillowImage.new("RGB", size).save(tmp_path / "1.png")
    width, height = pages(images).render(0).size
    assert width <= 800
    assert height <= 640 + 60, "the legend comes below"


def test_what_cannot_be_read_is_named(images, tmp_path):
    (tmp_path / "1.png").unlink()
    with pytest.raises(RelayError, match=r"1\.png"):
        pages(images).render(0)
    with pytest.raises(RelayError, match="source 'b'"):
        pages({"a": images["a"]}).render(2)


def test_only_the_page_that_is_shown_is_read():
    class Watched:
        read_names: tuple[str, ...] = ()

        def read(self, name):
            self.read_names += (name,)
            raise RelayError("not now")

    place = Watched()
    those = pages({"a": place, "b": place})
    those.describe(0)
    assert place.read_names == ()
    with pytest.raises(RelayError):
        those.render(1)
    assert place.read_names == ("2.png",)


def test_a_page_tells_what_is_in_it(images):
    texts = [pages(images).contents(row) for row in range(3)]
    assert texts == ["1 person, 1 car", "1 crowd of person", "2 person"]
    assert pages(images, dataset("a")).contents(0) == "no objects"
    text = pages(images).describe(2)
    for part in ("3.png", "of b", "40 x 20", "2 person", "image-turned", "box-clamped"):
        assert part in text
    assert "image-turned" not in pages(images).describe(1)


def test_a_page_does_not_list_a_thousand_findings(images):
    text = pages(images, found=[finding("box-clamped", "1.png")] * 1000).describe(0)
    assert text.count("box-clamped") == 20
    assert "980 more" in text


NASTY = "<script>alert('x')</script>\"&"


def test_nothing_of_a_file_becomes_html(images):
    name = f"{NASTY}.png"
    image = Image(1, f"a/{name}", 40, 20, license=Raw(b"1"), source="a")
    annotation = Annotation(1, 1, 1, (0.0, 0.0, 1.0, 1.0), 1.0)
    licence = {"id": 1, "name": NASTY, "url": f"http://x/{NASTY}"}
    data = Dataset([image], [annotation], [Category(1, NASTY)], {}, [licence])
    text = pages(images, data, [Finding(NASTY, NASTY, "a", NASTY, NASTY, name)]).describe(0)
    assert "<script" not in text
    assert text.count("&lt;script") == 8
    assert '"&' not in text


LINK = '<a href="https://l.org/1" target="_blank" rel="noopener noreferrer">'


@pytest.mark.parametrize(
    ("licence", "licenses", "info", "text"),
    [
        pytest.param(
            b"1", [{"id": 1, "name": "CC", "url": "https://l.org/1"}], {}, LINK + "CC</a>"
        ),
        pytest.param(b"1", [{"id": 1, "url": "https://l.org/1"}], {}, LINK + "https://l.org/1</a>"),
        pytest.param(b"1", [{"id": 1, "name": "CC"}], {}, "CC"),
        pytest.param(b"1", [{"id": 1, "name": "CC", "url": "javascript:x"}], {}, "CC javascript:x"),
        pytest.param(b'"x"', [{"id": "x", "name": "CC"}], {}, "CC"),
        pytest.param(b"1", [{"id": 2, "name": "CC"}], {}, None),
        pytest.param(b"[1]", [{"id": 1, "name": "CC"}], {}, None),
        pytest.param(b"null", [{"name": "CC"}], {"sources": {"a": {}}}, None),
        pytest.param(None, [], {"sources": {"a": {"licence": "CC0"}}}, "CC0"),
        pytest.param(None, [], {"sources": {"b": {"licence": "CC0"}}}, None),
        pytest.param(None, [], {"sources": {"a": 7}}, None),
        pytest.param(None, [], {"sources": [1]}, None),
        pytest.param(None, [{"id": [1], "name": 7}], {}, None),
    ],
)
def test_a_page_names_the_licence(images, licence, licenses, info, text):
    image = Image(1, "a/1.png", 40, 20, source="a")
    if licence is not None:
        image = msgspec.structs.replace(image, license=Raw(licence))
    data = Dataset([image], [], CATEGORIES, info, licenses)
    description = pages(images, data, []).describe(0)
    assert ("Licence" in description) == (text is not None)
    assert description.endswith(f"<br>Licence: {text}" if text else "no objects")


def test_a_catalogue_can_be_made_of_any_ids():
    data = Dataset(
        [Image("x", "1.png", 1, 1), Image(9, "2.png", 1, 1)],
        [Annotation("n", 9, "c", (0.0, 0.0, 1.0, 1.0), 1.0)],
        [Category("c", "person")],
    )
    found = catalogue(data, [finding("box-clamped", "2.png", "")])
    assert isinstance(found, Catalogue)
    assert found.select(Filters(category="person", code="box-clamped")).tolist() == [1]
