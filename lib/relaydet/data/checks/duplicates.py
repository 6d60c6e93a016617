"""Images that are there twice: the same file, or the same picture in another file.

A dataset that holds an image twice counts it twice; one that shares an image with the set it is
evaluated on is scored on what it has learnt by heart.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from relaydet.data.checks.files import FileFacts
from relaydet.data.checks.likeness import near_pairs
from relaydet.data.checks.summing import sum_up
from relaydet.data.findings import Finding


@dataclass(frozen=True)
class Duplicates:
    """Which images are there more than once."""

    findings: list[Finding]
    groups: list[list[str]]
    """Names of images that a split must keep together, identical or nearly so; each at least two.
    A name is "<source>/<file_name>"."""
    repeated: set[str]
    """Names of images that drop mode removes: of identical ones all but the first, and all that
    are in a held-out set. Images that are only nearly identical are not among them."""


@dataclass(frozen=True)
class _Entry:
    """One image file that is compared."""

    source: str
    file_name: str
    facts: FileFacts
    held_out: bool

    @property
    def name(self) -> str:
        return f"{self.source}/{self.file_name}"


def find_duplicates(
    files: Mapping[str, Mapping[str, FileFacts]],
    held_out: Mapping[str, Mapping[str, FileFacts]] | None = None,
    action: str = "kept",
) -> Duplicates:
    """Find images that are identical, by digest, or nearly so, where there are thumbnails.

    Args:
        files: what was seen of each image, by source name and by file name in the source.
        held_out: the same of sets that must share no image with these, by what to call them.
        action: what is done with the images in `repeated`, for their findings.
    """
    ours = list(_entries(files, held_out=False))
    theirs = list(_entries(held_out or {}, held_out=True))
    first_theirs: dict[bytes, _Entry] = {}
    for entry in theirs:
        first_theirs.setdefault(entry.facts.sha256, entry)
    same: dict[bytes, list[_Entry]] = defaultdict(list)
    for entry in ours:
        same[entry.facts.sha256].append(entry)
    repeated = {entry.name for group in same.values() for entry in group[1:]}
    repeated |= {entry.name for entry in ours if entry.facts.sha256 in first_theirs}
    near = _near(list(_first_of_each([*ours, *theirs])))
    findings = [
        *_identical(same.values(), action),
        *_leaked(ours, first_theirs, action),
        *_near_findings(near),
    ]
    return Duplicates(sum_up(findings), _groups(ours, same, near), repeated)


def _entries(files: Mapping[str, Mapping[str, FileFacts]], held_out: bool) -> Iterator[_Entry]:
    for source, of_source in files.items():
        for file_name, facts in of_source.items():
            yield _Entry(source, file_name, facts, held_out)


def _identical(groups: Iterable[list[_Entry]], action: str) -> Iterator[Finding]:
    """Each image but the first of its group, with one that was there before it."""
    for group in groups:
        first_of_source = {group[0].source: group[0]}
        for entry in group[1:]:
            earlier = first_of_source.setdefault(entry.source, entry)
            if earlier is not entry:
                yield _finding(
                    "image-duplicate", "warning", entry, "is the same file as", earlier, action
                )
            else:
                yield _finding(
                    "image-in-two-sources",
                    "warning",
                    entry,
                    "is the same file as",
                    group[0],
                    action,
                )


def _leaked(
    ours: Iterable[_Entry], first_theirs: Mapping[bytes, _Entry], action: str
) -> Iterator[Finding]:
    for entry in ours:
        other = first_theirs.get(entry.facts.sha256)
        if other is not None:
            severity = "warning" if action == "dropped" else "error"
            yield _finding(
                "image-leaked", severity, entry, "is the same file as the held-out", other, action
            )


def _first_of_each(entries: Iterable[_Entry]) -> Iterator[_Entry]:
    """One of each picture with a thumbnail: in the held-out sets one, and elsewhere one."""
    seen = set()
    for entry in entries:
        key = (entry.held_out, entry.facts.sha256)
        if entry.facts.thumbnail is not None and key not in seen:
            seen.add(key)
            yield entry


def _near(entries: list[_Entry]) -> list[tuple[_Entry, _Entry, float]]:
    """Pairs that look the same, with their likeness; the later one first, never two held out."""
    thumbnails = [e.facts.thumbnail for e in entries if e.facts.thumbnail is not None]
    pairs_P2, likeness_P = near_pairs(thumbnails)
    pairs = [
        (entries[later], entries[earlier], likeness)
        for (earlier, later), likeness in zip(pairs_P2.tolist(), likeness_P.tolist(), strict=True)
    ]
    return [
        (later, earlier, likeness)
        for later, earlier, likeness in pairs
        if not earlier.held_out and later.facts.sha256 != earlier.facts.sha256
    ]


def _near_findings(near: Iterable[tuple[_Entry, _Entry, float]]) -> Iterator[Finding]:
    """For each image the one before it, and the one held out, that are most like it."""
    best: dict[tuple[str, bool], tuple[_Entry, _Entry, float]] = {}
    for later, earlier, likeness in near:
        # Of a pair with a held-out image, held out is the later.
        entry, other = (earlier, later) if later.held_out else (later, earlier)
        key = (entry.name, other.held_out)
        if key not in best or likeness > best[key][2]:
            best[key] = (entry, other, likeness)
    for entry, other, likeness in best.values():
        looks = f"looks the same (likeness {likeness:.3f}) as"
        if other.held_out:
            yield _finding(
                "image-near-leaked", "warning", entry, f"{looks} the held-out", other, "kept"
            )
        else:
            severity = "info" if entry.source == other.source else "warning"
            yield _finding("image-near-duplicate", severity, entry, looks, other, "kept")


def _finding(
    code: str, severity: str, entry: _Entry, relation: str, other: _Entry, action: str
) -> Finding:
    message = f"{entry.name} {relation} {other.name}"
    return Finding(code, severity, entry.source, message, action, entry.file_name)


def _groups(
    ours: list[_Entry],
    same: Mapping[bytes, list[_Entry]],
    near: Iterable[tuple[_Entry, _Entry, float]],
) -> list[list[str]]:
    """Images joined by any chain of duplicates, in the order of the images."""
    leader = {digest: digest for digest in same}

    def find(digest: bytes) -> bytes:
        while leader[digest] != digest:
            leader[digest] = leader[leader[digest]]
            digest = leader[digest]
        return digest

    for later, earlier, _ in near:
        if not later.held_out:
            leader[find(later.facts.sha256)] = find(earlier.facts.sha256)
    groups: dict[bytes, list[str]] = defaultdict(list)
    for entry in ours:
        groups[find(entry.facts.sha256)].append(entry.name)
    return [group for group in groups.values() if len(group) > 1]
