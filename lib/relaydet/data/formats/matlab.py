"""MATLAB's .mat files of version 5 (saved with -v6 or -v7), read as plain values.

Format: "MAT-File Level 5 File Format" in
https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf: a header of 128 bytes, then
elements, each a tag (type, size) and data padded to 8 bytes. A variable is a matrix element, which
may be compressed (zlib) and which holds further elements.

A few bytes of such a file can claim an array of any size or inflate to gigabytes, and
`scipy.io.loadmat` believes them. Here nothing is made before the bytes for it are known to be
there, and what a file inflates to is limited: 50 times its size, or 16 MiB if that is more (the
largest file of CUHK-SYSU inflates to 13 times its size). Values are kept small enough that a file
takes at most about five times its inflated size.

Values: numbers become an array of the type that they are stored in (which for a MATLAB double may
be uint8), text becomes str, a cell array a list, and a struct array a `Struct`; lists and structs
are in MATLAB's order, column by column. What else there is (sparse and complex numbers, functions,
objects, text of several lines) becomes None.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from relaydet.errors import RelayError

MAX_INFLATION = 50
MIN_INFLATED_BYTES = 16 << 20
MAX_DEPTH = 64
MAX_DIMENSIONS = 32  # as numpy

HEADER_BYTES = 128
# Names and numbers of the specification: types of an element, then classes of a matrix.
INT32, UINT32, MATRIX, COMPRESSED = 5, 6, 14, 15
CELL, STRUCT, CHAR, DOUBLE, UINT64 = 1, 2, 4, 6, 15
READ_CLASSES = frozenset((CELL, STRUCT, CHAR, *range(DOUBLE, UINT64 + 1)))
COMPLEX_FLAG = 0x0800
# Element types to numpy's names and Python's codecs, by the mark of the byte order in `struct`.
_NUMBERS = {"i1": 1, "u1": 2, "i2": 3, "u2": 4, "i4": 5, "u4": 6, "f4": 7, "f8": 9}
_NUMBERS |= {"i8": 12, "u8": 13}
_DTYPES = {o: {kind: np.dtype(o + name) for name, kind in _NUMBERS.items()} for o in "<>"}
_BYTES = {1: "latin-1", 2: "latin-1", 16: "utf-8"}
_CODECS = {
    "<": {**_BYTES, 4: "utf-16-le", 17: "utf-16-le", 18: "utf-32-le"},
    ">": {**_BYTES, 4: "utf-16-be", 17: "utf-16-be", 18: "utf-32-be"},
}

Value = Any  # np.ndarray, str, list, Struct or None

_EMPTY = np.zeros((0, 0))
_EMPTY.flags.writeable = False


class Struct(NamedTuple):
    """A struct array: the values of its first element, field by field, then of the next."""

    fields: tuple[str, ...]
    values: list[Value]


def load(path: Path, hint: str) -> dict[str, Value]:
    """The variables of a .mat file, by name; where it does not exist, the error says to do `hint`.

    Raises:
        RelayError: the file is missing, truncated, of another version, or not a .mat file.
    """
    try:
        data = path.read_bytes()
    except (OSError, ValueError) as error:
        missing = isinstance(error, FileNotFoundError)
        what = "does not exist" if missing else f"cannot be read ({error})"
        raise RelayError(f"{path}: {what}; {hint}.") from error
    return decode(data, str(path))


def decode(data: bytes, where: str) -> dict[str, Value]:
    """The variables in the bytes of a .mat file, by name; errors name the file as `where`.

    Raises:
        RelayError: the bytes are truncated, of another version, or not a .mat file.
    """
    try:
        return dict(_iter_variables(data, where))
    except (_BrokenError, zlib.error, UnicodeDecodeError, struct.error) as error:
        raise RelayError(
            f"{where}: not a readable .mat file ({error}); it may be truncated, copy it again."
        ) from error
    except MemoryError as error:
        raise RelayError(f"{where}: does not fit into memory; use a larger machine.") from error


def pick(values: dict[str, Value], name: str, path: Path, hint: str) -> Value:
    """One of the variables of a file; raises RelayError where it has none of that name."""
    if name not in values:
        raise RelayError(
            f"{path}: has no variable {name} but {', '.join(values) or 'none at all'}; {hint}."
        )
    return values[name]


def rows(value: Value, fields: tuple[str, ...], where: str, hint: str) -> list[tuple[Value, ...]]:
    """The elements of a struct array, or of cells of struct arrays, each as these fields' values.

    Any empty value has no elements. An error names the value as `where`, and says to do `hint`.

    Raises:
        RelayError: the value is not a struct array with these fields.
    """
    if is_empty(value):
        return []
    if isinstance(value, list):
        return [row for cell in value for row in rows(cell, fields, where, hint)]
    names, values = value if isinstance(value, Struct) else ((), value)
    if not set(fields) <= set(names):
        raise RelayError(
            f"{where} should be a struct with the fields {', '.join(fields)}, but has"
            f" {', '.join(sorted(names)) or 'none'}; {hint}."
        )
    columns = [values[names.index(field) :: len(names)] for field in fields]
    return list(zip(*columns, strict=True))


def is_empty(value: Value) -> bool:
    """Whether a value is an array, a list, a struct array or a text of no elements."""
    if isinstance(value, np.ndarray):
        return not value.size
    return value is not None and not (value.values if isinstance(value, Struct) else value)


def texts(value: Value) -> Iterator[str]:
    """Every text in a value, whatever cells it lies in."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list):
        for cell in value:
            yield from texts(cell)


class _BrokenError(Exception):
    """The bytes are not what the specification says."""


def _iter_variables(data: bytes, where: str) -> Iterator[tuple[str, Value]]:
    order = _byte_order(data, where)
    left = max(MIN_INFLATED_BYTES, MAX_INFLATION * len(data))
    file = _Reader(data, order)
    position = HEADER_BYTES
    while position < len(data):
        kind, start, size, _ = file.element(position, len(data))
        position = start + size  # variables are not padded
        if kind == MATRIX:
            found = file.matrix(start, position, 0)
        elif kind == COMPRESSED:
            inflated = _inflate(memoryview(data)[start:position], left)
            left -= len(inflated)
            reader = _Reader(inflated, order)
            kind, start, size, _ = reader.element(0, len(inflated))
            found = reader.matrix(start, start + size, 0) if kind == MATRIX else None
        else:
            raise _BrokenError(f"an element of type {kind} is no variable")
        # Without a name it is MATLAB's own: the workspace of a function.
        if found is not None and found[0]:
            yield found


def _byte_order(data: bytes, where: str) -> str:
    """The mark of the byte order for `struct` and numpy."""
    mark, version = data[126:HEADER_BYTES], data[124:126]
    if data.startswith(b"\x89HDF") or (mark, version) in ((b"IM", b"\0\2"), (b"MI", b"\2\0")):
        raise RelayError(
            f"{where}: saved in MATLAB's version 7.3, which is not read; save it with -v7."
        )
    if (mark, version) not in ((b"IM", b"\0\1"), (b"MI", b"\1\0")):
        what = "truncated in its header" if len(data) < HEADER_BYTES else "no header of version 5"
        raise RelayError(
            f"{where}: not a readable .mat file ({what}); copy it again, or save it with -v7."
        )
    return "<" if mark == b"IM" else ">"


def _inflate(data: memoryview, limit: int) -> bytes:
    inflater = zlib.decompressobj()
    inflated = inflater.decompress(data, max(limit, 1))
    if not inflater.eof:
        too_large = len(inflated) >= limit
        raise _BrokenError("inflates to far more than its size" if too_large else "truncated")
    return inflated


class _Reader:
    """Elements of a file, or of one inflated variable; positions count its bytes."""

    def __init__(self, data: bytes, order: str) -> None:
        self.data = data
        self.order = order
        self.tag = struct.Struct(order + "II")
        self.field_names: dict[tuple[bytes, int], tuple[str, ...]] = {}

    def element(self, position: int, end: int) -> tuple[int, int, int, int]:
        """Type, start and size of the data, and the position after it and its padding."""
        if position + 8 > end:
            raise _BrokenError("truncated")
        kind, size = self.tag.unpack_from(self.data, position)
        start = position + 8
        if kind > 0xFFFF:  # at most 4 bytes of data, which lie within the tag
            kind, size, start = kind & 0xFFFF, kind >> 16, position + 4
            if size > 4:
                raise _BrokenError("an element is longer than its place")
            return kind, start, size, position + 8
        if start + size > end:
            raise _BrokenError("truncated")
        return kind, start, size, start + size + (-size & 7)

    def matrix(self, start: int, end: int, depth: int) -> tuple[str, Value] | None:
        """Name and value of the matrix in these bytes; None if it is of a class not read."""
        if start == end:
            return "", _EMPTY
        if depth > MAX_DEPTH:
            raise _BrokenError(f"cells are nested more than {MAX_DEPTH} deep")
        kind, at, size, position = self.element(start, end)
        if kind != UINT32 or size != 8:
            raise _BrokenError("a matrix has no flags")
        flags, _ = self.tag.unpack_from(self.data, at)
        matrix_class = flags & 0xFF
        if matrix_class not in READ_CLASSES:
            return None
        kind, at, size, position = self.element(position, end)
        count = size // 4 if kind == INT32 and size <= 4 * MAX_DIMENSIONS else 0
        shape = struct.unpack_from(f"{self.order}{count}i", self.data, at)
        if min(shape, default=-1) < 0:
            raise _BrokenError("a matrix has no dimensions")
        _, at, size, position = self.element(position, end)
        name = self.data[at : at + size].decode("latin-1")
        if matrix_class == CELL:
            return name, self.cells(position, end, math.prod(shape), depth)
        if matrix_class == STRUCT:
            return name, self.structs(position, end, math.prod(shape), depth)
        if flags & COMPLEX_FLAG:
            return name, None
        kind, at, size, _ = self.element(position, end)
        if matrix_class == CHAR:
            return name, self.characters(kind, at, size, shape)
        return name, self.numbers(kind, at, size, shape)

    def cells(self, position: int, end: int, count: int, depth: int) -> list[Value]:
        """A number of matrices one after the other."""
        if count > (end - position) // 8:
            raise _BrokenError(f"truncated, or {count} cells in {end - position} bytes")
        values = []
        for _ in range(count):
            kind, start, size, position = self.element(position, end)
            if kind != MATRIX:
                raise _BrokenError("a cell holds no matrix")
            found = self.matrix(start, start + size, depth + 1)
            values.append(None if found is None else found[1])
        return values

    def structs(self, position: int, end: int, count: int, depth: int) -> Struct:
        """The fields' names, then the values of one element after the other."""
        kind, at, size, position = self.element(position, end)
        width = struct.unpack_from(self.order + "i", self.data, at)[0] if size == 4 else 0
        _, at, size, position = self.element(position, end)
        if kind != INT32 or width <= 0 or size % width:
            raise _BrokenError("a struct has no field names")
        if not count or not size:
            return Struct((), [])
        # Before the names: that many values prove that there are so many fields.
        values = self.cells(position, end, count * (size // width), depth)
        key = self.data[at : at + size], width
        names = self.field_names.get(key)
        if names is None:  # mostly the same as of the struct before
            chunks = (key[0][i : i + width].partition(b"\0")[0] for i in range(0, size, width))
            names = self.field_names[key] = tuple(chunk.decode("latin-1") for chunk in chunks)
        return Struct(names, values)

    def characters(self, kind: int, at: int, size: int, shape: tuple[int, ...]) -> Value:
        """Text; None if there are several lines."""
        if shape[0] > 1:
            return None
        codec = _CODECS[self.order].get(kind)
        if size and codec is None:
            raise _BrokenError(f"text in elements of type {kind}")
        return self.data[at : at + size].decode(codec) if codec else ""

    def numbers(self, kind: int, at: int, size: int, shape: tuple[int, ...]) -> np.ndarray:
        """An array that looks into the bytes, which stay in memory with it."""
        dtype = _DTYPES[self.order].get(kind)
        if dtype is None or math.prod(shape) * dtype.itemsize != size:
            raise _BrokenError("an array of another length than its dimensions")
        if not size:
            return _EMPTY
        return np.ndarray(shape, dtype, self.data, at, order="F")
