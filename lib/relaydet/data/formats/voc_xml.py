"""XML of Pascal VOC, parsed with care; and elements as JSON values and back.

A file may come from anyone, so one that declares a document type (the only place for entities, with
which a small file expands to gigabytes), nests deeply or has too many elements is refused. The text
is decoded here and searched before expat sees it: expat cannot be stopped inside a piece of text.

An element without children and attributes is its text, or an int where the text is how Python
writes that int. Any other is an object: "@name" for an attribute, "#text" for text, and its
children by tag, in a list where a tag repeats (and for `part` always). That loses comments, the
order of children of different tags, and white space around children; nothing else.
"""

from __future__ import annotations

import codecs
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from relaydet.errors import RelayError

MAX_BYTES = 1 << 24
MAX_DEPTH = 32
MAX_ELEMENTS = 10_000  # and attributes
# A large piece takes expat on after the parser refused; a small one makes long tokens quadratic.
PIECE = 1 << 17
OBJECT = "object"
ALWAYS_LISTS = ("part",)

_DECLARATION = re.compile(rb"<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([A-Za-z0-9._-]{1,40})[\"']")
_ENCODINGS = re.compile(
    r"utf-?8|utf-?16|(us-)?ascii|iso-?8859-\d+|latin-?1|windows-125\d|cp125\d|gbk|gb2312|gb18030"
    r"|big5|shift_jis|euc-(jp|kr)",
    re.IGNORECASE,
)
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,14}")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\ud800-\udfff\ufffe\uffff]")  # \r would be read as \n


class _Tree(ET.TreeBuilder):
    """Builds a tree in which the root's objects are handed on and let go as they end."""

    def __init__(self, take: Callable[[ET.Element], None]) -> None:
        super().__init__()
        self._take = take
        self._open: list[ET.Element] = []
        self._count = self._outside = 0

    def start(self, tag: Any, attrs: Any, /) -> ET.Element:
        element = super().start(tag, attrs)
        self._open.append(element)
        if len(self._open) == 2 and tag == OBJECT:
            self._outside = self._count
        self._count += 1 + len(attrs)
        if len(self._open) > MAX_DEPTH or self._count > MAX_ELEMENTS:
            raise RelayError(
                f"nested more than {MAX_DEPTH} deep, or more than {MAX_ELEMENTS} elements in one"
                " object"
            )
        return element

    def end(self, tag: str, /) -> ET.Element:
        element = super().end(tag)
        self._open.pop()
        if len(self._open) == 1 and tag == OBJECT:
            self._take(element)
            del self._open[0][-1]
            self._count = self._outside
        return element


def parse(data: bytes, take: Callable[[ET.Element], None]) -> ET.Element:
    """The root element of an XML file, without its objects.

    Args:
        data: the file.
        take: is given each child <object> of the root as it ends.

    Raises:
        RelayError: it is not XML, or declares a document type, or is too large or too deep.
    """
    text = _decode(data)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise RelayError("declares a document type, which is not read; remove the <!DOCTYPE")
    # An element's attributes are all in memory before any can be counted; none has a "<" in it.
    if text.count("=") > MAX_ELEMENTS and any(
        match[0].count("=") > MAX_ELEMENTS for match in re.finditer("[^<]+", text)
    ):
        raise RelayError(f"has an element with more than {MAX_ELEMENTS} attributes")
    parser = ET.XMLParser(target=_Tree(take))
    try:
        for start in range(0, len(text), PIECE):
            parser.feed(text[start : start + PIECE])
        root: ET.Element = parser.close()
    except (ET.ParseError, UnicodeError) as error:
        raise RelayError(f"not valid XML ({error})") from error
    return root


def as_json(element: ET.Element) -> Any:
    """An element as a JSON value; nested as deep as `MAX_DEPTH` at most."""
    text = element.text or ""
    if not len(element) and not element.attrib:
        return int(text) if _WHOLE.fullmatch(text) else text
    value: dict[str, Any] = {f"@{key}": held for key, held in element.attrib.items()}
    text = text.strip() if len(element) else text
    return {**value, **({"#text": text} if text else {}), **children_as_json(element)}


def children_as_json(elements: Iterable[ET.Element]) -> dict[str, Any]:
    """Elements as JSON values, by tag."""
    groups: dict[str, list[Any]] = {}
    for element in elements:
        groups.setdefault(element.tag, []).append(as_json(element))
    return {
        tag: values if len(values) > 1 or tag in ALWAYS_LISTS else values[0]
        for tag, values in groups.items()
    }


def as_elements(tag: str, value: Any) -> list[ET.Element] | None:
    """Elements that `children_as_json` turns into {tag: value}, or None where there are none."""
    values = value if isinstance(value, list) else [value]
    elements = [_as_element(tag, one, 2) for one in values]
    found = [element for element in elements if element is not None]
    if not found or len(found) < len(elements):
        return None
    back = children_as_json(found)[tag]
    return found if _sorted_json(back) == _sorted_json(value) else None


def is_safe(text: str) -> bool:
    """Whether XML gives back a text just as it was."""
    return not _UNSAFE.search(text)


def is_attribute(name: str, value: str) -> bool:
    """Whether XML can hold an attribute and give it back just as it was."""
    return _NAME.fullmatch(name) is not None and is_safe(value) and not re.search(r"[\t\n]", value)


def json_text(value: Any) -> str:
    """JSON that holds no character that XML cannot hold."""
    text = msgspec.json.encode(value).decode()
    # JSON has such characters inside strings only, where an escape means the same.
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def encode(root: ET.Element) -> bytes:
    """A tree as the bytes of an XML file, indented."""
    ET.indent(root)
    return ET.tostring(root, encoding="unicode").encode() + b"\n"


def _as_element(tag: str, value: Any, depth: int) -> ET.Element | None:
    if depth >= MAX_DEPTH or not _NAME.fullmatch(tag):
        return None
    element = ET.Element(tag)
    if not isinstance(value, dict):
        element.text = str(value) if _is_whole(value) else value
        return element if isinstance(element.text, str) and is_safe(element.text) else None
    for key, held in value.items():
        if key == "#text" or key.startswith("@"):
            if not isinstance(held, str) or not is_safe(held):
                return None
            if key == "#text":
                element.text = held
            elif is_attribute(key[1:], held):
                element.set(key[1:], held)
            continue  # an attribute left out here is missed in `as_elements`
        for one in held if isinstance(held, list) else [held]:
            child = _as_element(key, one, depth + 1)
            if child is None:
                return None
            element.append(child)
    return element


def _is_whole(value: Any) -> bool:
    return (
        isinstance(value, int) and abs(value) < 10**15 and _WHOLE.fullmatch(str(value)) is not None
    )


def _decode(data: bytes) -> str:
    if len(data) > MAX_BYTES:
        raise RelayError(f"larger than {MAX_BYTES} bytes, so not the annotation of one image")
    declared = _DECLARATION.match(data.removeprefix(codecs.BOM_UTF8).lstrip()[:300])
    encoding = declared[1].decode() if declared else "utf-8"
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        encoding = "utf-16"
    if not _ENCODINGS.fullmatch(encoding):
        raise RelayError(f"in the encoding {encoding}, which is not read; save it as UTF-8")
    try:
        return data.decode("utf-8-sig" if encoding.lower() in ("utf-8", "utf8") else encoding)
    except (UnicodeError, LookupError) as error:
        raise RelayError(f"not text in {encoding}; save it as UTF-8") from error


def _sorted_json(value: Any) -> bytes:
    return msgspec.json.encode(value, order="sorted")
