"""data.yaml of a YOLO dataset, read with care.

Every scalar stays text: YAML would make a class called `no` a False and one called `1` a number.
Aliases are refused, with which a small file stands for gigabytes, and so is what is far too large
or too deep for a list of names: YAML takes a few hundred times a file's size in memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from relaydet.data.formats.text import is_unicode
from relaydet.errors import RelayError

MAX_BYTES = 1 << 16
MAX_DEPTH = 16
MAX_DIGITS = 6


def load_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; its values are text, lists and mappings.

    Raises:
        RelayError: it cannot be read, is not YAML, has an alias, or is no mapping.
    """
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise RelayError(f"{path}: cannot be read ({error.strerror}); check the path.") from error
    if len(data) > MAX_BYTES:
        raise RelayError(
            f"{path}: more than {MAX_BYTES} bytes are too many for a data.yaml; check the path."
        )
    try:
        text = data.decode("utf-8-sig")
        _refuse_bombs(text, path)
        content = yaml.load(text, Loader=yaml.BaseLoader)
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # chr() of an escape, int()
        reason = " ".join(str(error).split())[:300]
        raise RelayError(f"{path}: not a YAML file ({reason}); correct it.") from error
    if not isinstance(content, dict):
        raise RelayError(f"{path}: holds no keys such as names and train; give a data.yaml.")
    return content


def names_of(content: dict[str, Any], path: Path) -> dict[int, str]:
    """Name of each class, from a list or from a mapping of numbers; empty where there is no key.

    Raises:
        RelayError: `names` is something else.
    """
    names = content.get("names") or {}
    pairs = names.items() if isinstance(names, dict) else enumerate(names)
    found: dict[int, str] = {}
    for number, name in pairs:
        digits = str(number)
        whole = digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS
        is_text = isinstance(name, str) and is_unicode(name)
        if not (whole and is_text and isinstance(names, dict | list)):
            raise RelayError(
                f"{path}: names must be a list of names, or numbers from 0 with a name each;"
                f" {str(number)[:40]!r} is not one of them."
            )
        found[int(digits)] = name
    return found


def _refuse_bombs(text: str, path: Path) -> None:
    depth = 0
    for event in yaml.parse(text, Loader=yaml.BaseLoader):
        if isinstance(event, yaml.AliasEvent):
            raise RelayError(f"{path}: has the alias *{event.anchor}; write its value instead.")
        depth += isinstance(event, yaml.CollectionStartEvent)
        depth -= isinstance(event, yaml.CollectionEndEvent)
        if depth > MAX_DEPTH:
            raise RelayError(f"{path}: nested more than {MAX_DEPTH} deep; give a data.yaml.")
