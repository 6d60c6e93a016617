"""Matching the tensors of a file of weights to a detector's, by their names or in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from torch import Tensor

BODY = "backbone.body."
MOST_PARTS = 3
MOST_TRIED = 20
LEAVES = {"weight", "bias", "running_mean", "running_var"}


@dataclass(frozen=True)
class Fit:
    """Which tensor of a file goes where in a detector."""

    how: str
    """by name, or by position."""
    placed: dict[str, str]
    """Name in the detector -> name in the file, where the shapes agree."""
    other_shape: tuple[str, ...] = ()
    """Names in the detector that the file has too, in another shape."""
    surplus: tuple[str, ...] = ()
    """Names in the file that belong to the backbone's layers but that ours does not have."""


def fit_tensors(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Fit:
    """Find the placement of a file's tensors in a detector that fits most of them.

    Tried are the names as they are and as names of the backbone's body, each with every leading
    part of the file's names dropped ("module.", "features.", ...), and then the backbone's tensors
    one by one in their order.

    Args:
        tensors: name -> tensor, of the file.
        targets: name -> tensor, of the detector.
    """
    best = Fit("by name", {})
    for prefix in _leading_parts(tensors, targets):
        for start in ("", BODY):
            fit = _fit_by_name(tensors, targets, prefix, start)
            best = max(best, fit, key=lambda fit: len(fit.placed))
    by_position = _fit_by_position(tensors, targets)
    return max(best, by_position, key=lambda fit: len(fit.placed))


def _leading_parts(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Iterator[str]:
    """What may have to be dropped from a file's names: up to three leading parts of each.

    Only those whose dropping makes a name of the detector's, and of those the most frequent: a
    crafted file has as many as names, and each is tried on all names.
    """
    yield ""
    hits: list[Counter[str]] = [Counter() for _ in range(MOST_PARTS)]
    for name in tensors:
        parts = name.split(".", MOST_PARTS)
        for depth in range(1, len(parts)):
            prefix = ".".join(parts[:depth]) + "."
            rest = name[len(prefix) :]
            hits[depth - 1][prefix] += rest in targets or BODY + rest in targets
    for found in hits:
        likely = [prefix for prefix, count in found.most_common(MOST_TRIED) if count]
        yield from sorted(likely)


def _fit_by_name(
    tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor], prefix: str, start: str
) -> Fit:
    renamed = {start + name.removeprefix(prefix): name for name in tensors}
    known = {name: old for name, old in renamed.items() if name in targets}
    placed = {n: old for n, old in known.items() if targets[n].shape == tensors[old].shape}
    layers = {_layer(name) for name in targets if name.startswith(BODY)}
    unknown = (name for name in renamed if name not in targets and _layer(name) in layers)
    other_shape = (name for name in known if name not in placed)
    return Fit("by name", placed, tuple(other_shape), tuple(unknown))


def _fit_by_position(tensors: Mapping[str, Tensor], targets: Mapping[str, Tensor]) -> Fit:
    """The backbone's tensors in order, where the file begins with just these shapes."""
    body = [name for name in targets if name.startswith(BODY)]
    pairs = dict(zip(body, tensors, strict=False))
    same = len(pairs) == len(body) and all(
        targets[name].shape == tensors[old].shape and _same_kind(name, old)
        for name, old in pairs.items()
    )
    return Fit("by position", pairs if same else {})


def _same_kind(name: str, name_in_file: str) -> bool:
    """A batch norm's four tensors share one shape, so only their names tell them apart."""
    leaf = name_in_file.rpartition(".")[2]
    return leaf not in LEAVES or leaf == name.rpartition(".")[2]


def _layer(name: str) -> str:
    """The layer of the backbone that a tensor is in; empty where it is in none."""
    return name.removeprefix(BODY).split(".")[0] if name.startswith(BODY) else ""
