"""Distributions against the same numbers counted object by object."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaydet.data.dataset import Annotation, Category, Dataset, Image
from relaydet.data.distributions import distributions, places

PERSON = [Category(1, "person")]


def dataset(images, annotations) -> Dataset:
    """Images are (id, source, width, height), annotations are (image, box, crowd)."""
    return Dataset(
        [Image(i, f"{source}/{i}.jpg", w, h, source=source) for i, source, w, h in images],
        [
            Annotation(n, image, 1, box, box[2] * box[3], iscrowd=crowd)
            for n, (image, box, crowd) in enumerate(annotations, start=1)
        ],
        PERSON,
    )


EXAMPLE = dataset(
    [(1, "a", 100, 100), (2, "b", 200, 100), (3, "b", 0, 0), (4, "c", 10, 10), (5, "a", 100, 100)],
    [
        (1, (0.0, 20.0, 50.0, 50.0), 0),
        (1, (0.0, 0.0, 100.0, 100.0), 1),
        (2, (100.0, 0.0, 100.0, 50.0), 0),
        (3, (0.0, 0.0, 9.0, 18.0), 0),
    ],
)


def test_by_hand():
    found = distributions(EXAMPLE)
    assert list(found) == ["a", "b", "c"]
    a, b, c = found.values()
    assert a.sizes_K.tolist() == [0.5]
    assert a.centres_K2.tolist() == [[0.25, 0.45]]
    assert a.objects_M.tolist() == [1, 0], "the crowd is not counted, the empty image is"
    assert b.sizes_K.tolist() == [0.5], "none of the image of unknown size"
    assert b.aspects_K.tolist() == [2.0, 0.5]
    assert b.objects_M.tolist() == [1, 1]
    assert (c.sizes_K.shape, c.aspects_K.shape, c.centres_K2.shape) == ((0,), (0,), (0, 2))
    assert c.objects_M.tolist() == [0]


def test_an_empty_dataset_has_no_sources():
    assert distributions(Dataset([], [], [])) == {}


@pytest.mark.parametrize("box", [(0.0, 0.0, 1e308, 1e-308), (0.0, 0.0, 1e-308, 1e308)], ids=str)
@pytest.mark.filterwarnings("error")
def test_a_box_too_large_for_a_quotient_has_no_aspect(box):
    found = distributions(dataset([(1, "a", 0, 0)], [(1, box, 0), (1, (0.0, 0.0, 2.0, 1.0), 0)]))
    assert [a for a in found["a"].aspects_K if a > 1e-300] == [2.0]
    assert np.isfinite(found["a"].aspects_K).all()
    assert found["a"].objects_M.tolist() == [2]


def test_places_of_images_without_a_source():
    images = [Image("x", "1.jpg", 1, 1), Image("y", "2.jpg", 1, 1, source="b")]
    annotations = [Annotation(1, "y", 1, (0.0, 0.0, 1.0, 1.0), 1.0)]
    found = places(Dataset(images, annotations, PERSON))
    assert found.sources == ("", "b")
    assert (found.source_M.tolist(), found.image_N.tolist()) == ([0, 1], [1])


SIDE = st.integers(0, 50)
LENGTH = st.floats(0.01, 50)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.sampled_from("abc"), SIDE, SIDE), min_size=1, max_size=6),
    st.lists(
        st.tuples(st.integers(0, 5), LENGTH, LENGTH, LENGTH, LENGTH, st.integers(0, 1)), max_size=20
    ),
)
def test_every_object_counts_in_its_source(images, boxes):
    numbered = [(10 * n + 7, *image) for n, image in enumerate(images)]
    used = [(numbered[n % len(images)][0], (x, y, w, h), crowd) for n, x, y, w, h, crowd in boxes]
    found = distributions(dataset(numbered, used))
    assert set(found) == {source for _, source, _, _ in numbered}
    of_id = {number: (source, w, h) for number, source, w, h in numbered}
    for source, distribution in found.items():
        mine = [(of_id[i], box) for i, box, crowd in used if of_id[i][0] == source and not crowd]
        known = [(w, h, box) for (_, w, h), box in mine if w > 0 and h > 0]
        sizes = [math.sqrt(box[2] * box[3] / (w * h)) for w, h, box in known]
        centres = [((b[0] + b[2] / 2) / w, (b[1] + b[3] / 2) / h) for w, h, b in known]
        assert distribution.sizes_K == pytest.approx(sizes)
        assert distribution.centres_K2.tolist() == [pytest.approx(centre) for centre in centres]
        assert distribution.aspects_K == pytest.approx([box[2] / box[3] for _, box in mine])
        per_image = [
            sum(i == number and not crowd for i, _, crowd in used)
            for number, its_source, _, _ in numbered
            if its_source == source
        ]
        assert distribution.objects_M.tolist() == per_image
