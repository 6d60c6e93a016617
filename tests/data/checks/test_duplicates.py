"""Images that are there twice, in a source, in two, or in a held-out set."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from relaydet.data.checks.duplicates import find_duplicates
from relaydet.data.checks.files import FileFacts
from relaydet.data.checks.likeness import SIDE
from relaydet.data.checks.summing import MOST_FINDINGS
from relaydet.data.images import Header


def facts(content: str, picture: int | None = None, change: int = 0) -> FileFacts:
    """A file of that content; with a thumbnail of picture number so and so, a little changed."""
    thumbnail = None
    if picture is not None:
        levels = np.random.default_rng(picture).integers(20, 200, SIDE * SIDE) + change
        thumbnail = levels.astype(np.uint8).tobytes()
    return FileFacts(Header(4, 3), hashlib.sha256(content.encode()).digest(), thumbnail)


def codes(result) -> list[tuple[str, str, str]]:
    return [(f.code, f.severity, f"{f.source}/{f.image}") for f in result.findings]


@pytest.mark.parametrize(
    ("files", "held_out", "found", "groups", "repeated"),
    [
        ({"a": {"1": facts("x"), "2": facts("y")}}, {}, [], [], set()),
        (
            {"a": {"1": facts("x"), "2": facts("y"), "3": facts("x")}},
            {},
            [("image-duplicate", "warning", "a/3")],
            [["a/1", "a/3"]],
            {"a/3"},
        ),
        (
            {"a": {"1": facts("x")}, "b": {"1": facts("x"), "2": facts("x")}},
            {},
            [("image-in-two-sources", "warning", "b/1"), ("image-duplicate", "warning", "b/2")],
            [["a/1", "b/1", "b/2"]],
            {"b/1", "b/2"},
        ),
        # What is held out must go altogether, the first one too.
        (
            {"a": {"1": facts("x"), "2": facts("x"), "3": facts("y")}},
            {"test: t": {"9": facts("x"), "8": facts("x")}},
            [
                ("image-duplicate", "warning", "a/2"),
                ("image-leaked", "error", "a/1"),
                ("image-leaked", "error", "a/2"),
            ],
            [["a/1", "a/2"]],
            {"a/1", "a/2"},
        ),
        (
            {"a": {"1": facts("x", 1), "2": facts("y", 1, 2)}, "b": {"3": facts("z", 1, 1)}},
            {},
            [("image-near-duplicate", "info", "a/2"), ("image-near-duplicate", "warning", "b/3")],
            [["a/1", "a/2", "b/3"]],
            set(),
        ),
        (
            {"a": {"1": facts("x", 1), "2": facts("y", 2)}},
            {"test: t": {"9": facts("z", 1, 3), "8": facts("w", 1, 3)}},
            [("image-near-leaked", "warning", "a/1")],
            [],
            set(),
        ),
        # A copy of a file is named as that, not as near as well.
        (
            {"a": {"1": facts("x", 1), "2": facts("x", 1)}},
            {"test: t": {"9": facts("x", 1)}},
            [
                ("image-duplicate", "warning", "a/2"),
                ("image-leaked", "error", "a/1"),
                ("image-leaked", "error", "a/2"),
            ],
            [["a/1", "a/2"]],
            {"a/1", "a/2"},
        ),
        # Chained: 1 and 2 are one file, 2 and 3 one picture.
        (
            {"a": {"1": facts("x", 1), "2": facts("x", 1), "3": facts("y", 1, 1)}},
            {},
            [("image-duplicate", "warning", "a/2"), ("image-near-duplicate", "info", "a/3")],
            [["a/1", "a/2", "a/3"]],
            {"a/2"},
        ),
        ({}, {}, [], [], set()),
    ],
)
def test_duplicates(files, held_out, found, groups, repeated):
    result = find_duplicates(files, held_out)
    assert codes(result) == found
    assert result.groups == groups
    assert result.repeated == repeated


def test_messages_name_both_images_and_the_likeness():
    result = find_duplicates(
        {"a": {"1.jpg": facts("x", 1)}, "b": {"2.jpg": facts("x"), "3.jpg": facts("z", 1, 1)}},
        {"demo_heldout: c": {"4.jpg": facts("x")}},
        action="dropped",
    )
    messages = [(f.message, f.action) for f in result.findings]
    assert messages == [
        ("b/2.jpg is the same file as a/1.jpg", "dropped"),
        ("a/1.jpg is the same file as the held-out demo_heldout: c/4.jpg", "dropped"),
        ("b/2.jpg is the same file as the held-out demo_heldout: c/4.jpg", "dropped"),
        # Nothing drops what only looks the same.
        ("b/3.jpg looks the same (likeness 1.000) as a/1.jpg", "kept"),
    ]


def test_too_many_findings_are_summed_up():
    files = {"a": {str(number): facts("x") for number in range(MOST_FINDINGS + 4)}}
    result = find_duplicates(files)
    assert len(result.findings) == MOST_FINDINGS + 1
    assert "3 more are image-duplicate" in result.findings[-1].message
    assert len(result.repeated) == MOST_FINDINGS + 3


@settings(max_examples=60, deadline=None)
@given(
    st.dictionaries(
        st.sampled_from("abc"), st.dictionaries(st.sampled_from("123456"), st.sampled_from("uvw"))
    ),
    st.lists(st.sampled_from("uvw")),
)
def test_without_the_repeated_every_content_is_there_once_and_none_is_held_out(contents, held):
    files = {
        source: {name: facts(text) for name, text in of_source.items()}
        for source, of_source in contents.items()
    }
    result = find_duplicates(files, {"test: t": {str(i): facts(c) for i, c in enumerate(held)}})
    left = [
        text
        for source, of_source in contents.items()
        for name, text in of_source.items()
        if f"{source}/{name}" not in result.repeated
    ]
    everything = {text for of_source in contents.values() for text in of_source.values()}
    assert sorted(left) == sorted(everything - set(held))
    grouped = [name for group in result.groups for name in group]
    assert len(grouped) == len(set(grouped))
