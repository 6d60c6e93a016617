"""Which categories to keep, and under which names: the entries of CATEGORIES, and what they did."""

from __future__ import annotations

import difflib
import textwrap
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import msgspec

from relaydet.config import SourceConfig
from relaydet.data.dataset import Dataset
from relaydet.data.findings import Finding
from relaydet.errors import RelayError

EVERY_OTHER = "*"
# Names of left-out categories to print for a source, and of existing ones in an error message.
SHOWN = 40
WIDTH = 100
# Longer names are none that someone misspelt, and comparing them takes forever.
LONGEST_GUESS = 100
MOST_GUESSES = 5000


@dataclass(frozen=True)
class CategoryUse:
    """What a source's own `categories` made of one of its categories."""

    name: str
    """As in the source."""
    taken_as: str | None
    """Its name from there on; None where the source's `categories` leave it out."""
    annotations: int
    """Annotations of it in the source as read, crowds included."""


def category_names(datasets: Iterable[Dataset]) -> list[str]:
    """Names of the categories of all datasets, each once, in the order they come."""
    return list(dict.fromkeys(c.name for dataset in datasets for c in dataset.categories))


def parse_categories(
    known: Sequence[str], entries: Sequence[str], where: str = "CATEGORIES"
) -> dict[str, str]:
    """Read the entries that say which categories to keep.

    "name" keeps a category, "old=new" renames it, "old=" drops it, and "*" keeps all that no other
    entry names. Where every entry drops, "*" is meant; no entry at all keeps everything. Several
    may get one name. An entry that is the name of a category means that category, even with "=".

    Args:
        known: names of the categories that there are.
        entries: what the user wrote.
        where: what to call the entries in an error message.

    Returns:
        New name by old name of every category to keep, in the order of the entries ("*": of
        `known`), which is the order of the merged ids.

    Raises:
        RelayError: an entry names no category, two entries contradict each other, or nothing is
            left.
    """
    if not entries:
        return {name: name for name in known}
    outcomes: dict[str, str | None] = {}
    others_from: int | None = None
    for entry in entries:
        if entry.strip() == EVERY_OTHER:
            others_from = len(outcomes)
            continue
        old, new = _parse_entry(known, entry, where)
        if outcomes.setdefault(old, new) != new:
            raise RelayError(
                f"{where}: {entry!r} is about {old!r} and {_in_words(new)}, but an earlier entry"
                f" {_in_words(outcomes[old])}; take one of them away."
            )
    if others_from is None and all(new is None for new in outcomes.values()):
        others_from = 0
    order = list(outcomes.items())
    if others_from is not None:
        order[others_from:others_from] = [(name, name) for name in known if name not in outcomes]
    renames = {old: new for old, new in order if new is not None}
    if not renames:
        raise RelayError(f"{where}: {', '.join(entries)} leaves no category; keep at least one.")
    return renames


def take_categories(
    dataset: Dataset, source: SourceConfig
) -> tuple[Dataset, list[CategoryUse], list[Finding]]:
    """Apply the source's own `categories`, before the merge's.

    Args:
        dataset: the source, which has passed `checks.structure.check_structure`.
        source: its `categories` count here.

    Returns:
        The dataset with the new names, without the categories left out and their annotations;
        every category it had, with what became of it (for `mapping_table`); and what was left out.
        Its images all stay until `narrow.narrow`.

    Raises:
        RelayError: what `parse_categories` refuses.
    """
    names = {category.id: category.name for category in dataset.categories}
    counts = dict.fromkeys(names.values(), 0)
    for category_id, count in Counter([a.category_id for a in dataset.annotations]).items():
        counts[names[category_id]] += count
    where = f"source {source.name}: categories"
    renames = parse_categories(list(counts), source.categories, where)
    uses = [CategoryUse(name, renames.get(name), count) for name, count in counts.items()]
    if not source.categories:
        return dataset, uses, []
    position = {name: number for number, name in enumerate(renames)}
    kept = [category for category in dataset.categories if category.name in renames]
    kept.sort(key=lambda category: position[category.name])
    kept_ids = {category.id for category in kept}
    narrowed = replace(
        dataset,
        annotations=[a for a in dataset.annotations if a.category_id in kept_ids],
        categories=[msgspec.structs.replace(c, name=renames[c.name]) for c in kept],
    )
    dropped = {use.name: use.annotations for use in uses if use.taken_as is None}
    return narrowed, uses, left_out(dropped, source.name)


def left_out(counts: Mapping[str, int], source: str) -> list[Finding]:
    """A finding for each category, by name, of which so many annotations are left out."""
    return [
        Finding(
            "annotation-filtered", "info", source, f"{count:,} annotations of {name}", "left out"
        )
        for name, count in sorted(counts.items(), key=lambda item: -item[1])
        if count
    ]


def mapping_table(uses: Mapping[str, Sequence[CategoryUse]], renames: Mapping[str, str]) -> str:
    """What became of every source's categories and their annotations, as text.

    Args:
        uses: by source, the second of what `take_categories` gave.
        renames: what `parse_categories` gave for the merge as a whole.
    """
    lines = ["categories:"]
    for source, categories in uses.items():
        lines += textwrap.wrap(
            f"{source}: {_in_short(categories, renames)}",
            WIDTH,
            initial_indent="  ",
            subsequent_indent="    ",
            break_long_words=False,
            break_on_hyphens=False,
        )
    return "\n".join(lines)


def _in_short(categories: Sequence[CategoryUse], renames: Mapping[str, str]) -> str:
    """Everything kept, in the order of the source, and what is left out, most frequent first."""
    texts, dropped = [], []
    for use in categories:
        new = renames.get(use.taken_as) if use.taken_as is not None else None
        if new is None:
            dropped.append(use)
        else:
            renamed = f" -> {new}" if new != use.name else ""
            texts.append(f"{use.name} {use.annotations:,}{renamed}")
    dropped.sort(key=lambda use: -use.annotations)
    if dropped:
        names = [f"{use.name} {use.annotations:,}" for use in dropped[:SHOWN]]
        rest = dropped[SHOWN:]
        if rest:
            names.append(f"{len(rest):,} others {sum(use.annotations for use in rest):,}")
        texts.append(f"left out: {', '.join(names)}")
    return "; ".join(texts) or "has no categories"


def _parse_entry(known: Sequence[str], entry: str, where: str) -> tuple[str, str | None]:
    """The old and the new name in an entry; None drops the category."""
    for text in (entry, entry.strip()):
        if text in known:
            return text, text
    # From the right: a category may have "=" in its name.
    pieces = entry.split("=")
    for count in range(len(pieces) - 1, 0, -1):
        old = "=".join(pieces[:count])
        for name in (old, old.strip()):
            if name in known:
                return name, "=".join(pieces[count:]).strip() or None
    name = pieces[0].strip()
    raise RelayError(
        f"{where}: no source has a category {name!r}{_suggestion(name, known)}; there are"
        f" {_listing(known)}."
    )


def _suggestion(name: str, known: Sequence[str]) -> str:
    guesses = [other for other in known if len(other) <= LONGEST_GUESS][:MOST_GUESSES]
    close = [other for other in guesses if other.casefold() == name.casefold()]
    if not close and len(name) <= LONGEST_GUESS:
        close = difflib.get_close_matches(name, guesses, n=1, cutoff=0.6)
    return f" (did you mean {close[0]}?)" if close else ""


def _listing(known: Sequence[str]) -> str:
    more = f" and {len(known) - SHOWN} more" if len(known) > SHOWN else ""
    return f"{', '.join(known[:SHOWN]) or 'none at all'}{more}"


def _in_words(new: str | None) -> str:
    return "drops it" if new is None else f"names it {new!r}"
