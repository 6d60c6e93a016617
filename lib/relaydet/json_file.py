"""JSON that somebody else may have written, or damaged: decoded, or refused with one sentence."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from relaydet.errors import DamagedError

UNDECODABLE = (
    msgspec.MsgspecError,
    UnicodeDecodeError,
    RecursionError,
    OverflowError,
)
"""All that decoding bytes as JSON raises: no JSON, other types, no UTF-8, nested too deep, or a
number that nothing holds."""
REMEDY = "restore it, or remove it"


def decode_json(
    data: bytes, where: str, kind: Any = Any, strict: bool = True, remedy: str = REMEDY
) -> Any:
    """Decode a JSON document that is not known to be whole.

    Args:
        data: the document.
        where: what the error calls it, as a person would open it.
        kind: the type that it must have, as msgspec takes it.
        strict: whether "1" is refused where a number is wanted.
        remedy: what the error tells to do.

    Returns:
        A value of that type.

    Raises:
        DamagedError: it is no JSON, not of that type, no UTF-8, or nested too deep.
    """
    try:
        return msgspec.json.decode(data, type=kind, strict=strict)
    except UNDECODABLE as error:
        raise DamagedError(f"{where}: damaged ({reason_of(error)}); {remedy}.") from error


def decode_lines(data: bytes, where: str, kind: Any = Any, remedy: str = REMEDY) -> Iterator[Any]:
    """Decode a document of one JSON value a line; raises as `decode_json` does, naming the line.

    A last line without its end that is no JSON is left out: a kill cut it off as it was appended.
    """
    *lines, last = data.split(b"\n")
    if last and not _is_torn(last):
        lines.append(last)
    for number, line in enumerate(lines, start=1):
        yield decode_json(line, f"{where}, line {number}", kind, remedy=remedy)


def decode_whole_lines(
    data: bytes, where: str, kind: Any, say: Callable[[str], None]
) -> Iterator[Any]:
    """Decode a document of one JSON value a line, and leave out the lines that are damaged.

    Args:
        data: the document; a last line without its end that is no JSON is left out unsaid.
        where: what a message calls it, as a person would open it.
        kind: the type that each line must have, as msgspec takes it.
        say: takes one sentence where lines are left out: how many, and what is wrong with one.
    """
    *lines, last = data.split(b"\n")
    if last and not _is_torn(last):
        lines.append(last)
    damaged = []
    for number, line in enumerate(lines, start=1):
        try:
            yield msgspec.json.decode(line, type=kind)
        except UNDECODABLE as error:
            damaged.append(f"line {number}: {reason_of(error)}")
    if damaged:
        left_out = "1 line is" if len(damaged) == 1 else f"{len(damaged)} lines are"
        say(f"{where}: {left_out} damaged and left out ({damaged[0]})")


def _is_torn(line: bytes) -> bool:
    try:
        msgspec.json.decode(line)
    except UNDECODABLE:
        return True
    return False


def reason_of(error: Exception) -> str:
    """What was wrong with a document, in a few words."""
    if isinstance(error, RecursionError):
        return "nested too deep"
    return str(error).partition("\n")[0][:200]
