"""Which files of a Pascal VOC folder to read: all, or those in a list of ImageSets/Main."""

from __future__ import annotations

import difflib
import io
from pathlib import Path

from relaydet.addresses import shown
from relaydet.config import SourceConfig
from relaydet.data.formats.noticed import Noticed
from relaydet.data.formats.paths import is_dir
from relaydet.errors import RelayError

ALL = "all"
NOT_IN_IMAGE = "-1"  # second column of VOC's lists per category
FLAGS = (NOT_IN_IMAGE, "0", "1")


def xml_files(folder: Path, source: SourceConfig) -> dict[str, Path]:
    """The XML files below a folder, by their path in it without .xml; sorted.

    Raises:
        RelayError: there are none.
    """
    try:
        paths = [path for path in folder.rglob("*") if path.suffix.lower() == ".xml"]
    except (OSError, ValueError):
        paths = []
    if not paths:
        raise RelayError(
            f"{shown(source.annotations)[:300]}: source {source.name} has no XML files there; give"
            " the folder Annotations of a Pascal VOC dataset."
        )
    return dict(sorted((path.relative_to(folder).as_posix()[:-4], path) for path in paths))


def listed_files(
    folder: Path, source: SourceConfig, files: dict[str, Path], noticed: Noticed
) -> dict[str, Path]:
    """Those of the files that the list of a split names, in the order of that list.

    Raises:
        RelayError: there is no such list, or it is not text.
    """
    lists = folder.absolute().parent / "ImageSets" / "Main"
    known = sorted(path.stem for path in lists.glob("*.txt")) if is_dir(lists) else []
    if source.split not in known:
        close = difflib.get_close_matches(source.split, known, n=1, cutoff=0.5)
        hint = f" (did you mean {close[0]}?)" if close else ""
        raise RelayError(
            f"source {source.name}: there is no list of the split {source.split!r} in"
            f" {lists}{hint}; choose all{''.join(f', {name}' for name in known[:20])}."
        )
    try:
        text = (lists / f"{source.split}.txt").read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeError) as error:
        raise RelayError(
            f"{lists / source.split}.txt: not a readable list of names ({error}); write one name a"
            " line."
        ) from error
    listed: dict[str, Path] = {}
    for line in io.StringIO(text, newline="\n"):
        name, wanted = _listed_name(line.rstrip("\r\n"), files)
        if wanted and name in files:
            listed[name] = files[name]
        elif wanted and name:
            message = f"{name[:200]} of {source.split}.txt has no XML file"
            noticed.add("annotation-missing", "warning", message, "left out")
    return listed


def _listed_name(line: str, files: dict[str, Path]) -> tuple[str, bool]:
    """The name in a line of a list, and whether the list is for it."""
    if line in files:
        return line, True
    words = line.rsplit(None, 1)
    has_flag = len(words) == 2 and words[1] in FLAGS and line.strip() not in files
    name = words[0].strip() if has_flag else line.strip()
    stem = name.rpartition(".")[0]  # some tools list the image's file name
    wanted = not (has_flag and words[1] == NOT_IN_IMAGE)
    return (stem if name not in files and stem in files else name), wanted
