"""Bounds of JSON values: the same as a parser finds, whatever the text."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaydet.data.formats.json_walk import UnbalancedError, elements, end_of, members

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)
indents = st.sampled_from([None, 1])


@given(st.dictionaries(st.text(), values), indents, st.booleans())
def test_members_are_those_of_the_parser(value, indent, ascii_only):
    data = json.dumps(value, indent=indent, ensure_ascii=ascii_only).encode(errors="replace")
    text = b" " + data + b"\n"
    found = {key: json.loads(text[start:end]) for key, start, end in members(text)}
    assert repr(found) == repr(json.loads(data))


@given(st.lists(values), indents)
def test_elements_are_those_of_the_parser(value, indent):
    data = json.dumps(value, indent=indent).encode()
    found = [json.loads(data[start:end]) for start, end in elements(data, 0)]
    assert repr(found) == repr(value)
    assert end_of(data, 0) == len(data)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"5",
        b"[",
        b"{",
        b'{"a"',
        b'{"a":',
        b'{"a":1',
        b'{"a":[1}',
        b'{"a":"\\"}',
        b"{1:2}",
        b"{} x",
    ],
)
def test_what_is_cut_off_is_refused(text):
    with pytest.raises(UnbalancedError):
        list(members(text))


@given(st.binary())
def test_any_bytes_end(data):
    for walk in (lambda: list(members(data)), lambda: list(elements(data, 0))):
        try:
            spans = walk()
        except UnbalancedError:
            continue
        assert all(0 <= span[-2] < span[-1] <= len(data) for span in spans)
