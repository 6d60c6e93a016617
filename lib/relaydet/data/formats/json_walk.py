"""Where the parts of a JSON text begin and end, found without parsing them.

For files that a strict parser refuses as a whole: one record may be broken, or hold a NaN, and the
others are still good. Memory does not depend on what the text holds. What lies between two bounds
is not checked; whoever decodes it will see.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

# A string without a backslash is one find; of another one only the opening quote.
_BOUND = re.compile(rb'"[^"\\]*"|["\[\]{}]')
_SPACE = re.compile(rb"[\s,]*")
_SCALAR = re.compile(rb'[^\s,:"\[\]{}]+')
_COLON = re.compile(rb"\s*:\s*")


class UnbalancedError(ValueError):
    """The text ends, or has no value, where there should be one."""


def members(data: bytes) -> Iterator[tuple[str, int, int]]:
    """The members of the object that the text is: key, start and end of the value.

    Raises:
        UnbalancedError: the text is no object, or is cut off.
    """
    position = _after(_SPACE, data, 0)
    if data[position : position + 1] != b"{":
        raise UnbalancedError("no object")
    position = _after(_SPACE, data, position + 1)
    while data[position : position + 1] != b"}":
        key_end = end_of(data, position)
        start = _after(_COLON, data, key_end)
        end = end_of(data, start)
        yield _key(data[position:key_end]), start, end
        position = _after(_SPACE, data, end)
    if _after(_SPACE, data, position + 1) != len(data):
        raise UnbalancedError("text behind the end")


def elements(data: bytes, start: int) -> Iterator[tuple[int, int]]:
    """Start and end of each element of the list that starts at an index.

    Raises:
        UnbalancedError: there is no list, or it is cut off.
    """
    if data[start : start + 1] != b"[":
        raise UnbalancedError("no list")
    position = _after(_SPACE, data, start + 1)
    while data[position : position + 1] != b"]":
        end = end_of(data, position)
        yield position, end
        position = _after(_SPACE, data, end)


def end_of(data: bytes, start: int) -> int:
    """Index just behind the value that starts at an index.

    Raises:
        UnbalancedError: no value starts there, or it is cut off.
    """
    first = data[start : start + 1]
    if first == b'"':
        return _end_of_string(data, start + 1)
    if first not in (b"[", b"{"):
        scalar = _SCALAR.match(data, start)
        if scalar is None:
            raise UnbalancedError(f"no value at byte {start}")
        return scalar.end()
    depth, position = 1, start + 1
    while depth:
        bound = _BOUND.search(data, position)
        if bound is None:
            raise UnbalancedError("cut off")
        position, text = bound.end(), bound[0]
        if text in b"[{":
            depth += 1
        elif text in b"]}":
            depth -= 1
        elif text == b'"':
            position = _end_of_string(data, position)
    return position


def _end_of_string(data: bytes, position: int) -> int:
    """Index behind the closing quote: the first that an even number of backslashes precedes."""
    while True:
        quote = data.find(b'"', position)
        if quote < 0:
            raise UnbalancedError("cut off in a string")
        first = quote
        while first > position and data[first - 1] == ord("\\"):
            first -= 1
        if (quote - first) % 2 == 0:
            return quote + 1
        position = quote + 1


def _key(text: bytes) -> str:
    try:
        key = json.loads(text)
    except ValueError as error:
        raise UnbalancedError(f"a key that is none: {text[:40]!r}") from error
    if not isinstance(key, str):
        raise UnbalancedError(f"a key that is no text: {text[:40]!r}")
    return key


def _after(pattern: re.Pattern[bytes], data: bytes, position: int) -> int:
    found = pattern.match(data, position)
    if found is None:
        raise UnbalancedError(f"no {pattern.pattern!r} at byte {position}")
    return found.end()
