"""Decoding JSON that somebody else may have written."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from relaydet.errors import DamagedError
from relaydet.json_file import decode_json, decode_lines


class Point(msgspec.Struct):
    x: int


@pytest.mark.parametrize(
    ("data", "kind", "reason"),
    [
        (b"", Any, "truncated"),
        (b'{"x": 1', Point, "truncated"),
        (b"{x: 1}", Point, "malformed"),
        (b'{"x": "1"}', Point, "Expected `int`, got `str`"),
        (b'{"x": null}', Point, "Expected `int`, got `null`"),
        (b"[]", Point, "Expected `object`, got `array`"),
        (b'{"x": NaN}', Any, "malformed"),
        (b'{"x": 1e999}', Any, "out of range"),
        (b'{"x": ' + b"9" * 5000 + b"}", Any, "out of range"),
        (b'{"x": "\xe9"}', Any, "UTF-8"),
        (b'{"\x80": 1}', dict[str, int], "UTF-8|codec|utf-8"),
        (b'{"x": "\\ud800"}', Any, "malformed|surrogate|truncated"),
        (b"[" * 100_000, Any, "nested too deep"),
        (b'{"x":' * 100_000, Any, "nested too deep"),
        (b'{"x": 1, "more": ' + b"[" * 100_000 + b"}", Point, "nested too deep"),
    ],
)
def test_whatever_is_wrong_is_one_sentence(data, kind, reason):
    with pytest.raises(DamagedError, match=rf"^runs/r/a\.json: damaged \(.*({reason})") as caught:
        decode_json(data, "runs/r/a.json", kind, remedy="write it again")
    assert str(caught.value).endswith("; write it again.")
    assert len(str(caught.value)) < 300
    assert "\n" not in str(caught.value)


def test_what_is_whole_comes_back():
    assert decode_json(b'{"x": 1}', "a", Point) == Point(1)
    assert decode_json(b'{"x": "1"}', "a", Point, strict=False) == Point(1)
    assert decode_json(b'{"x": 123456789012345678901234567890}', "a") == {
        "x": 123456789012345678901234567890
    }


def test_a_line_that_is_damaged_is_named():
    lines = decode_lines(b'{"x": 1}\n{"x": 2}\n{"x":\n', "log.jsonl", Point)
    assert [next(lines), next(lines)] == [Point(1), Point(2)]
    with pytest.raises(DamagedError, match=r"^log\.jsonl, line 3: damaged \(.*truncated"):
        next(lines)
