"""A job's parameters as people write them, as its configuration: for notebooks and flags alike.

What comes from a command line or from papermill is text, or has lost its type on the way: "4",
"None", "[a, b]", 100000.0. What is meant is taken where it is certain, else a sentence says which
parameter it is and how to write it.
"""

from __future__ import annotations

import ast
import dataclasses
import difflib
import json
import math
import os
import sys
import types
from collections.abc import Collection, Iterable, Mapping
from numbers import Integral, Real
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from relaydet.console import shown
from relaydet.errors import RelayError

_NONE = ("none", "null", "~")
_TRUE, _FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
_LARGEST = 2**63
"""Whole numbers are kept in JSON, which is read into 64 bits."""
_SHOWN = 60
_INJECTED = "# Parameters"
"""First line of the cell that papermill puts behind the one tagged `parameters`."""


class _UnfitError(ValueError):
    """A value is not of the type that is tried."""


def as_config(kind: Any, given: Mapping[str, Any]) -> Any:
    """Return the configuration of a job, whose fields' names are those of the parameters.

    Args:
        kind: the configuration's dataclass.
        given: by field, what was written.

    Raises:
        RelayError: a name is unknown, or a value is not what its field takes.
    """
    hints = get_type_hints(kind)
    for unknown in sorted(set(given) - set(hints)):
        raise RelayError(
            f"{unknown.upper()}: there is no such parameter; {suggestion(unknown, hints)}"
        )
    empty = {field.name for field in dataclasses.fields(kind) if field.default == ""}
    given = {n: "" if v is None and n in empty else v for n, v in given.items()}
    return kind(**{n: value_of(n.upper(), hints[n], value) for n, value in given.items()})


def suggestion(name: str, known: Iterable[str], upper: bool = True) -> str:
    """Return the end of a sentence about an unknown name: what was meant, or all there are."""
    names = list(known)
    close = difflib.get_close_matches(name.lower(), [n.lower() for n in names], n=1)
    if close:
        return f"did you mean {close[0].upper() if upper else close[0]}?"
    return f"there are {', '.join(n.upper() if upper else n for n in names)}."


def listing(name: str, known: Iterable[str], most: int = 8) -> str:
    """Return the part of a sentence that says what there is instead, likely ones first.

    Args:
        name: what was asked for, and is not there.
        known: the names that are.
        most: how many are named.
    """
    names = list(known)
    if not names:
        return "there is none yet"
    folded = {other.casefold(): other for other in names}
    close = difflib.get_close_matches(name.casefold(), folded, n=3, cutoff=0.5)
    ordered = list(dict.fromkeys([*(folded[match] for match in close), *names]))
    more = f" and {len(ordered) - most} more" if len(ordered) > most else ""
    return f"there are {', '.join(ordered[:most])}{more}"


def value_of(name: str, hint: Any, value: Any) -> Any:
    """Return what is meant by a value, as the type of a field.

    Args:
        name: the parameter's, for the sentence.
        hint: str, int, float, bool, Path, a Literal, a union of these and None, or a tuple of any
            length of one of them.
        value: text, or a value of Python.

    Raises:
        RelayError: it is nothing that the type takes.
    """
    kinds = get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)
    if type(None) in kinds and _is_none(value):
        return None
    wanted = [kind for kind in kinds if kind is not type(None)]
    for kind in wanted:
        try:
            return _as_kind(name, kind, value)
        except _UnfitError:
            continue
    raise RelayError(_sentence(name, wanted, value, len(wanted) < len(kinds)))


def _as_kind(name: str, kind: Any, value: Any) -> Any:
    if get_origin(kind) is tuple:
        return tuple(value_of(name, get_args(kind)[0], entry) for entry in _entries(kind, value))
    if get_origin(kind) is Literal:
        if value in get_args(kind):
            return value
        raise _UnfitError
    return {bool: _as_bool, int: _as_int, float: _as_float, str: _as_text, Path: _as_path}[kind](
        value
    )


def _is_none(value: Any) -> bool:
    return value is None or (isinstance(value, str) and value.strip().lower() in _NONE)


def _as_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).strip().lower()
    if text not in (*_TRUE, *_FALSE):
        raise _UnfitError
    return text in _TRUE


def _as_int(value: Any) -> int:
    number: Any = value
    if isinstance(value, str):
        try:
            number = int(value)
        except ValueError:
            number = _as_float(value)  # 1e5, 4.0
    if isinstance(number, bool) or not isinstance(number, (Integral, float)):
        raise _UnfitError
    if not isinstance(number, Integral) and not float(number).is_integer():
        raise _UnfitError
    whole = int(number)
    if not -_LARGEST <= whole < 2 * _LARGEST:
        raise _UnfitError
    return whole


def _as_float(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (str, Real)):
        raise _UnfitError
    try:
        number = float(value)
    except (ValueError, OverflowError):
        raise _UnfitError from None
    if not math.isfinite(number):
        raise _UnfitError
    return number


def _as_text(value: Any) -> str:
    if isinstance(value, os.PathLike):
        value = os.fspath(value)
    if not isinstance(value, str) or not _is_writable(value):
        raise _UnfitError
    return value


def _is_writable(text: str) -> bool:
    """Whether files may hold it: a name that is not UTF-8 has halves of characters in it."""
    try:
        return "\0" not in text and bool(text.encode() or True)
    except UnicodeEncodeError:
        return False


def _as_path(value: Any) -> Path:
    return Path(value)


def _entries(kind: Any, value: Any) -> list[Any]:
    """What a list is written as: one entry may come without it, and pairs as a mapping."""
    if isinstance(value, (list, tuple)) and len(value) == 1 and isinstance(value[0], str):
        value = value[0]  # of a command line
    if isinstance(value, str):
        value = collection_in(value, texts=get_args(kind)[0] is str)
    if value is None or value == "":
        return []
    if isinstance(value, Mapping):
        pairs = [(left, "" if right is None else right) for left, right in value.items()]
        if any(isinstance(part, (list, dict)) for pair in pairs for part in pair):
            raise _UnfitError
        return [left if left == right else f"{left}={right}" for left, right in pairs]
    return list(value) if isinstance(value, (list, tuple)) else [value]


def collection_in(text: str, texts: bool = False) -> Any:
    """Return the list or mapping that a text is in JSON or YAML, such as papermill hands over.

    Args:
        text: as it was written.
        texts: whether its entries are texts: 001 stays one.

    Returns:
        The text itself where it is neither.
    """
    if not text.strip().startswith(("[", "{")):
        return text
    asis: Any = {"parse_int": str, "parse_float": str} if texts else {}
    try:
        return json.loads(text, **asis)
    except (ValueError, RecursionError):
        pass
    try:
        found = yaml.load(text, yaml.BaseLoader if texts else yaml.SafeLoader)
    except (yaml.YAMLError, ValueError, RecursionError):
        return text
    if isinstance(found, dict) and texts:
        return {key: None if _is_none(entry) else entry for key, entry in found.items()}
    return found if isinstance(found, (list, dict)) else text


def _sentence(name: str, wanted: list[Any], value: Any, may_be_none: bool) -> str:
    told = repr(value)
    told = told if len(told) <= _SHOWN else f"{told[:_SHOWN]}..."
    if wanted == [str] and isinstance(value, str):
        return f"{name}: {shown(told)} is not valid UTF-8 text; choose another name."
    if wanted == [str] and isinstance(value, Real):
        # Which text it was cannot be known: papermill -p makes 1 of 001.
        return (
            f'{name}: {told} is a number, not text; write it in quotes, "{value}" (papermill: -r'
            f" {name} TEXT instead of -p, or -y '{name}: \"TEXT\"')."
        )
    phrases = [_phrase(kind) for kind in wanted] + ["None"] * may_be_none
    choices = [choice for kind in wanted for choice in _choices(kind)]
    close = difflib.get_close_matches(str(value).lower(), choices, n=1)
    hint = f"; did you mean {close[0]}?" if close else "."
    return f"{name}: {shown(told)} is not {' or '.join(phrases)}{hint}"


def _choices(kind: Any) -> tuple[str, ...]:
    return get_args(kind) if get_origin(kind) is Literal else ()


def _phrase(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return " or ".join(get_args(kind))
    if get_origin(kind) is tuple:
        return f"a list, each {_phrase(get_args(kind)[0])}"
    return {
        bool: "true or false",
        int: "a whole number",
        float: "a finite number",
        str: "text",
    }[kind]


def refuse_unknown_injected(passed: Collection[str], kind: type) -> None:
    """Notice a parameter that papermill set and the notebook does not have.

    papermill writes what it was given into a cell behind the notebook's own parameters, names that
    are in none of them as well; nothing would ever read those.

    Args:
        passed: names of the parameters that the notebook hands over, in upper case.
        kind: the configuration, which may know a name that the notebook does not pass.

    Raises:
        RelayError: there is such a name.
    """
    own: set[str] = set()
    injected: list[str] = []
    for cell in _executed_cells():
        if cell.lstrip().startswith(_INJECTED):
            injected = _assigned(cell)
        elif set(passed) <= set(names := _assigned(cell)):
            own, injected = set(names), []  # the notebook was run again
    for name in injected if own else ():
        if name in own:
            continue
        if name.upper() not in own and name.lower() in get_type_hints(kind):
            hint = f"add {name.lower()}={name} to the call, and {name} to the parameters."
        else:
            hint = suggestion(name, sorted(own))
        raise RelayError(f"{name}: this notebook has no such parameter; {hint}")


def _executed_cells() -> list[str]:
    """The cells that IPython has run so far; none where this is no notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    cells = shell.user_ns.get("In", []) if shell is not None else []
    return [cell for cell in cells if isinstance(cell, str)]


def _assigned(cell: str) -> list[str]:
    """Names that a cell assigns, in order."""
    try:
        body = ast.parse(cell).body
    except (SyntaxError, ValueError):
        return []
    targets = [target for line in body if isinstance(line, ast.Assign) for target in line.targets]
    return [target.id for target in targets if isinstance(target, ast.Name)]
