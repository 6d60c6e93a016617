"""Public datasets by name, and the checksums of the files that they come in."""

from __future__ import annotations

import difflib

from relaydet.config import SourceConfig
from relaydet.errors import RelayError

COCO = "http://images.cocodataset.org"
COCO_LICENCE = (
    "annotations CC BY 4.0 (https://cocodataset.org/#termsofuse); each photo under its own licence"
    " from Flickr, which the annotation file lists"
)

# Bytes and SHA-256 from tensorflow/datasets (tensorflow_datasets/url_checksums/coco.txt); the same
# SHA-256 in pytorch/vision (torchvision/prototype/datasets/_builtin/coco.py).
CHECKSUMS: dict[str, tuple[int, str, str]] = {
    f"{COCO}/annotations/annotations_trainval2017.zip": (
        252_907_541,
        "sha256",
        "113a836d90195ee1f884e704da6304dfaaecff1f023f49b6ca93c4aaae470268",
    ),
    f"{COCO}/zips/train2017.zip": (
        19_336_861_798,
        "sha256",
        "69a8bb58ea5f8f99d24875f21416de2e9ded3178e903f1f7603e283b9e06d929",
    ),
    f"{COCO}/zips/val2017.zip": (
        815_585_330,
        "sha256",
        "4f7e2ccb2866ec5041993c9cf2a952bbed69647b115d0f74da7ce8f4bef82f05",
    ),
}
"""Of a file by its address: bytes, algorithm, hexadecimal digest."""


def _coco_2017(split: str, categories: tuple[str, ...] = ()) -> SourceConfig:
    """COCO 2017: its photos one by one, since most merges want fewer than the 18 GB of the zip."""
    return SourceConfig(
        name=f"coco2017-{split}{'-person' if categories else ''}",
        format="coco",
        annotations=(
            f"{COCO}/annotations/annotations_trainval2017.zip/annotations/instances_{split}2017.json"
        ),
        images=f"{COCO}/{split}2017",
        licence=COCO_LICENCE,
        categories=categories,
    )


KNOWN: dict[str, SourceConfig] = {
    source.name: source
    for source in (
        _coco_2017("train", ("person",)),
        _coco_2017("val", ("person",)),
        _coco_2017("train"),
        _coco_2017("val"),
    )
}
"""Sources by their name."""


def known_source(name: str) -> SourceConfig:
    """The source of that name.

    Raises:
        RelayError: there is none.
    """
    if name in KNOWN:
        return KNOWN[name]
    close = difflib.get_close_matches(name.lower(), KNOWN, n=1, cutoff=0.5)
    hint = f" (did you mean {close[0]}?)" if close else ""
    raise RelayError(f"{name!r} is no known source{hint}; known are {', '.join(KNOWN)}.")
