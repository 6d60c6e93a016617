"""MATLAB files: what scipy writes is read back, and no bytes cost more than they should."""

from __future__ import annotations

import contextlib
import io
import struct
import tracemalloc
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.io import loadmat, savemat

from relaydet.data.formats.matlab import Struct, decode, is_empty, load, pick, rows, texts
from relaydet.errors import RelayError

MATRIX, COMPRESSED = 14, 15  # types of elements
CELL, STRUCT, CHAR, DOUBLE, UINT8 = 1, 2, 4, 6, 9  # classes of matrices


def saved(compressed: bool = False, **variables) -> bytes:
    file = io.BytesIO()
    savemat(file, variables, do_compression=compressed)
    return file.getvalue()


def cells(values: list) -> np.ndarray:
    array = np.empty((len(values), 1), dtype=object)
    for row, value in enumerate(values):
        array[row, 0] = value
    return array


def structs(elements: list[tuple], *names: str) -> np.ndarray:
    array = np.empty((1, len(elements)), dtype=[(name, object) for name in names])
    for column, element in enumerate(elements):
        array[0, column] = element
    return array


def element(order: str, kind: int, data: bytes) -> bytes:
    return (
        struct.pack(order + "II", kind, len(data))
        + data
        + bytes(-len(data) % 8 if kind != COMPRESSED else 0)
    )


def matrix(order: str, matrix_class: int, shape: tuple, rest: bytes = b"", name=b"v"):
    head = element(order, 6, struct.pack(order + "II", matrix_class, 0))
    head += element(order, 5, struct.pack(f"{order}{len(shape)}i", *shape))
    return element(order, MATRIX, head + element(order, 1, name) + rest)


def file(*elements: bytes, order: str = "<") -> bytes:
    mark = struct.pack(order + "H", 0x0100) + (b"IM" if order == "<" else b"MI")
    return b"MATLAB 5.0 MAT-file".ljust(124) + mark + b"".join(elements)


def plain(value):
    """A value as lists and numbers, which can be compared."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Struct):
        return value.fields, [plain(v) for v in value.values]
    return [plain(v) for v in value] if isinstance(value, list) else value


@pytest.mark.parametrize("compressed", [False, True])
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (np.array([[1.5, -2.0]]), [[1.5, -2.0]]),
        (np.array([[1, 2, 3], [4, 5, 6]], dtype=np.uint8), [[1, 2, 3], [4, 5, 6]]),
        (np.array([[-7]], dtype=np.int64), [[-7]]),
        (np.zeros((1, 0)), []),
        ("s1.jpg", "s1.jpg"),
        ("Zoë 図", "Zoë 図"),
        ("", ""),
        (cells(["a", np.array([[7]]), cells([])]), ["a", [[7]], []]),
        (structs([("a", 1), ("b", 2)], "name", "n"), (("name", "n"), ["a", [[1]], "b", [[2]]])),
        (structs([], "name"), ((), [])),
        (np.array([[1 + 2j]]), None),
        (np.array(["ab", "cd"]), None),  # two lines
    ],
)
def test_values(value, expected, compressed):
    found = decode(saved(compressed, v=value), "f")["v"]
    assert plain(found) == expected
    assert not isinstance(found, np.ndarray) or found.dtype == value.dtype


@pytest.mark.parametrize("order", ["<", ">"])
def test_both_byte_orders_and_every_text(order):
    numbers = element(order, 3, struct.pack(order + "3h", 1, -2, 300))
    ending = "le" if order == "<" else "be"
    text = element(order, 4, "Zoë 図".encode(f"utf-16-{ending}"))
    # Data within the tag, whose first half is then the size.
    small = struct.pack(order + "I", 2 << 16 | 2) + b"\xe9t\0\0"
    data = file(
        matrix(order, DOUBLE, (1, 3), numbers, b"n"),
        matrix(order, CHAR, (1, 5), text, b"t"),
        matrix(order, CHAR, (1, 2), small, b"s"),
        order=order,
    )
    assert {k: plain(v) for k, v in decode(data, "f").items()} == {
        "n": [[1, -2, 300]],
        "t": "Zoë 図",
        "s": "ét",
    }


def test_what_is_not_read_leaves_the_others():
    sparse = matrix("<", 5, (3, 3), name=b"sparse")
    nameless, numbers = (
        matrix("<", UINT8, (1, 1), element("<", 2, b"\1"), name=name) for name in (b"", b"v")
    )
    assert list(decode(file(sparse, nameless, numbers), "f")) == ["v"]
    cell = matrix("<", CELL, (1, 2), matrix("<", 5, (1, 1), name=b"") + numbers)
    assert plain(decode(file(cell), "f")["v"]) == [None, [[1]]]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (Struct(("b", "a"), [1, 2, 3, 4]), [(2, 1), (4, 3)]),
        ([Struct(("a", "b"), [1, 2]), [Struct(("b", "a"), [4, 3])]], [(1, 2), (3, 4)]),
        (np.zeros((1, 0)), []),
        ([], []),
        (Struct((), []), []),
        ("", []),
        (Struct(("a",), [1]), "fields a, b, but has a; do this"),
        (np.ones((1, 1)), "fields a, b, but has none; do this"),
        (None, "fields a, b, but has none"),
        ("text", "fields a, b, but has none"),
    ],
)
def test_rows_of_a_struct(value, expected):
    if isinstance(expected, list):
        assert rows(value, ("a", "b"), "f: v", "do this") == expected
    else:
        with pytest.raises(RelayError, match=f"f: v should be a struct with the {expected}"):
            rows(value, ("a", "b"), "f: v", "do this")


def test_texts_are_found_in_cells():
    assert list(texts(["a", ["b", [], 5], None, np.ones(2), ["c"]])) == ["a", "b", "c"]
    assert [is_empty(v) for v in (None, "", "a", [], np.zeros(0))] == [
        False,
        True,
        False,
        True,
        True,
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "truncated in its header"),
        (bytes(128), "no header of version 5"),
        (b"\x89HDF\r\n\x1a\n" + bytes(512), "version 7.3"),
        (b"MATLAB 7.3 MAT-file".ljust(124) + b"\x00\x02IM" + bytes(512), "version 7.3"),
        (saved(v=np.arange(99.0))[:-60], "truncated"),
        (saved(True, v=np.arange(99.0))[:-60], "truncated"),
        (file(bytes(8)), "type 0 is no variable"),
        (file(element("<", COMPRESSED, b"no zlib")), "not a readable"),
        (file(matrix("<", CELL, (2**31 - 1, 2**31 - 1))), "cells in 0 bytes"),
        (file(matrix("<", CELL, (-1, 1))), "no dimensions"),
        (file(matrix("<", CELL, (1,) * 33)), "no dimensions"),
        (file(matrix("<", CELL, ())), "no dimensions"),
        (file(matrix("<", UINT8, (2**31 - 1, 9), element("<", 2, b"\1"))), "another length"),
        (file(matrix("<", UINT8, (1, 1), element("<", 77, b"\1"))), "another length"),
        (file(matrix("<", CHAR, (1, 1), element("<", 9, bytes(8)))), "text in elements of type 9"),
        (file(matrix("<", CHAR, (1, 1), element("<", 16, b"\xff"))), "not a readable"),
    ],
)
def test_broken_files_are_refused(data, message):
    with pytest.raises(RelayError, match=f"f.mat: .*{message}"):
        decode(data, "f.mat")


@pytest.mark.parametrize("width", [0, -4, 3])
def test_field_names_of_an_odd_width(width):
    names = element("<", 5, struct.pack("<i", width)) + element("<", 1, b"name")
    with pytest.raises(RelayError, match="no field names"):
        decode(file(matrix("<", STRUCT, (2**30, 2**30), names)), "f")


def test_a_struct_without_fields_has_no_elements():
    names = element("<", 5, struct.pack("<i", 4)) + element("<", 1, b"")
    assert decode(file(matrix("<", STRUCT, (2**30, 2**30), names)), "f") == {"v": ((), [])}


def test_deep_nesting_is_refused():
    inner = matrix("<", UINT8, (1, 1), element("<", 2, b"\1"))
    for _ in range(1000):
        inner = matrix("<", CELL, (1, 1), inner)
    with pytest.raises(RelayError, match="nested more than 64 deep"):
        decode(file(inner), "f")


def test_what_inflates_too_far_is_refused_in_little_memory():
    bomb = zlib.compress(matrix("<", UINT8, (1, 1), element("<", 2, bytes(100 << 20))))
    data = file(element("<", COMPRESSED, bomb))
    tracemalloc.start()
    with pytest.raises(RelayError, match="inflates to far more than its size"):
        decode(data, "f")
    assert tracemalloc.get_traced_memory()[1] < 50 << 20
    tracemalloc.stop()


def test_a_limit_holds_for_all_variables_together():
    part = element("<", 2, bytes(6 << 20))
    bomb = zlib.compress(matrix("<", UINT8, (1, 6 << 20), part))
    once = element("<", COMPRESSED, bomb)
    assert decode(file(once, once), "f")["v"].size == 6 << 20
    with pytest.raises(RelayError, match="inflates"):
        decode(file(once, once, once), "f")


def test_many_small_values_take_little_memory():
    empty = struct.pack("<II", MATRIX, 0)
    number = matrix("<", UINT8, (1, 1), element("<", 2, b"\1"), name=b"")
    for one in (empty, number, matrix("<", CELL, (1, 1), empty, name=b"")):
        count = (1 << 18) // len(one)
        data = file(matrix("<", CELL, (1, count), one * count))
        tracemalloc.start()
        assert len(decode(data, "f")["v"]) == count
        assert tracemalloc.get_traced_memory()[1] < 6 * len(data)
        tracemalloc.stop()


def test_a_missing_file_or_variable_says_what_to_do(tmp_path):
    with pytest.raises(RelayError, match=r"no.mat: does not exist; do this\."):
        load(tmp_path / "no.mat", "do this")
    with pytest.raises(RelayError, match=r"cannot be read .*; do this"):
        load(tmp_path, "do this")
    with pytest.raises(RelayError, match=r"has no variable w but v; do this\."):
        pick({"v": 1}, "w", tmp_path, "do this")


values = st.recursive(
    st.text(st.characters(codec="utf-16", exclude_characters="\0"), min_size=1, max_size=6)
    | st.lists(st.integers(0, 255), min_size=1, max_size=4).map(
        lambda numbers: np.array([numbers], dtype=np.uint8)
    )
    | st.floats(allow_nan=False).map(lambda number: np.array([[number]])),
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(cells)
        | st.lists(st.tuples(inner, inner), min_size=1, max_size=2).map(
            lambda found: structs(found, "a", "bee")
        )
    ),
    max_leaves=8,
)


def as_scipy_has_it(value):
    """What scipy reads, as `plain` shows ours."""
    if value.dtype.names:
        row = [as_scipy_has_it(v) for found in value.flat for v in found]
        return value.dtype.names, row
    if value.dtype == object:
        return [as_scipy_has_it(v) for v in value.flat]
    return str(value[0]) if value.dtype.kind == "U" else value.tolist()


@settings(max_examples=40, deadline=None)
@given(values, st.booleans())
def test_scipy_reads_the_same(value, compressed):
    data = saved(compressed, v=value)
    assert plain(decode(data, "f")["v"]) == as_scipy_has_it(loadmat(io.BytesIO(data))["v"])


VALID = saved(
    img=structs([("s1.jpg", cells(["x"])), ("s2.jpg", np.ones((2, 3)))], "imname", "box"),
    pool=cells([cells(["s3.jpg"]), np.zeros((0, 0))]),
)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_gives_values_or_a_relay_error(data):
    changed = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(changed) - 1))
        changed[at : at + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=3))
    with contextlib.suppress(RelayError):
        decode(bytes(changed), "f")


@given(st.binary() | st.binary(min_size=1).map(lambda tail: VALID[:128] + tail))
def test_any_bytes_give_values_or_a_relay_error(data):
    with contextlib.suppress(RelayError):
        decode(data, "f")
