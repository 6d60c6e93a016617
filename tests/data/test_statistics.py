"""The study's table, on a dataset small enough to count by hand."""

from __future__ import annotations

import pytest

from relaydet.data.dataset import Annotation, Category, Dataset, Image
from relaydet.data.statistics import statistics_table, summarise, summarise_sources

IMAGES = [
    Image(1, "a/1.jpg", 100, 100, source="a"),
    Image(2, "b/1.jpg", 200, 100, source="b"),
    Image(3, "b/2.jpg", 0, 0, source="b"),
]
ANNOTATIONS = [
    Annotation(1, 1, 1, (0.0, 0.0, 50.0, 50.0), 1023.0),
    Annotation(2, 1, 1, (0.0, 0.0, 100.0, 100.0), 9216.0),
    Annotation(3, 2, 1, (0.0, 0.0, 100.0, 100.0), 1024.0),
    Annotation(4, 2, 1, (0.0, 0.0, 200.0, 100.0), 20000.0, iscrowd=1),
    Annotation(5, 3, 1, (0.0, 0.0, 9.0, 9.0), 81.0),
]
DATASET = Dataset(IMAGES, ANNOTATIONS, [Category(1, "person")])
KEYS = ("images", "annotations", "crowd", "mean_width", "mean_height", "mean_object_size")


@pytest.mark.parametrize(
    ("dataset", "expected", "sizes"),
    [
        (DATASET, (3, 5, 1, 100.0, 200 / 3, 0.25 / 3 + 1 / 3 + 0.5 / 3), (2, 1, 1)),
        (Dataset([], [], []), (0, 0, 0, 0.0, 0.0, 0.0), (0, 0, 0)),
    ],
)
def test_summary(dataset, expected, sizes):
    summary = summarise(dataset)
    assert tuple(summary[key] for key in KEYS) == pytest.approx(expected)
    assert (summary["small"], summary["medium"], summary["large"]) == sizes
    assert summary["objects_per_image"] == pytest.approx(4 / 3 if dataset.images else 0)


def test_sources_are_summed_up_apart():
    summaries = summarise_sources(DATASET)
    assert [(name, s["images"], s["annotations"], s["crowd"]) for name, s in summaries.items()] == [
        ("a", 1, 2, 0),
        ("b", 2, 3, 1),
    ]


def test_the_table_lines_up():
    lines = statistics_table({**summarise_sources(DATASET), "merged": summarise(DATASET)})
    header, *rows = lines.splitlines()
    assert [row.split()[:4] for row in rows] == [
        ["a", "1", "2", "0"],
        ["b", "2", "3", "1"],
        ["merged", "3", "5", "1"],
    ]
    assert {len(row) for row in rows} == {len(header)}
