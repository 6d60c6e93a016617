"""Where the time of a training step goes: functions timed in place, on our side and the peer's."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from reference_loop import Photo, collate, decode, transform

from relaydet.data.augment import Augmentation, augment
from relaydet.data.loader import Samples

Places = Mapping[str, Sequence[tuple[Any, str]]]
"""By part: the objects and the names of their functions that belong to it."""


def wait(device: torch.device) -> None:
    """Until the device has done what it was told."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def clocked(places: Places, device: torch.device) -> Iterator[dict[str, float]]:
    """Time functions where they are called from; seconds by part.

    A function that is called by a timed one counts for its own part alone.
    """
    seconds: dict[str, float] = defaultdict(float)
    inner = [0.0]
    replaced = []
    for part, functions in places.items():
        for owner, name in functions:
            own = name in vars(owner)
            theirs = getattr(owner, name)
            replaced.append((owner, name, theirs, own))
            setattr(owner, name, _timed(theirs, part, seconds, inner, device))
    try:
        yield seconds
    finally:
        for owner, name, theirs, own in replaced:
            setattr(owner, name, theirs) if own else delattr(owner, name)


def reference_of_an_image(photos: Sequence[Photo], numbers: Sequence[int]) -> dict[str, float]:
    """Seconds of reading and changing so many images, and of putting them together."""
    clock = [time.perf_counter()]
    images = [decode(photos[number].path) for number in numbers]
    clock.append(time.perf_counter())
    changed = [transform(i, photos[n]) for i, n in zip(images, numbers, strict=True)]
    clock.append(time.perf_counter())
    collate(changed)
    clock.append(time.perf_counter())
    return _spans(clock)


def detectron2_of_an_image(records: Any, numbers: Sequence[int]) -> dict[str, float]:
    """The same of detectron2's mapper, which does both for one image; it collates nothing."""
    from detectron2.data.detection_utils import read_image

    clock = [time.perf_counter()]
    for number in numbers:
        read_image(records.records[number]["file_name"], format=records.mapper.image_format)
    clock.append(time.perf_counter())
    for number in numbers:
        records[number]
    clock.append(time.perf_counter())
    decoded, both = np.diff(clock).tolist()
    return {"decode": decoded, "augment": both - decoded, "collate": 0.0}


def ours_of_an_image(samples: Samples, numbers: Sequence[int]) -> dict[str, float]:
    """The same of our reader; what its workers hand over is a list."""
    clock = [time.perf_counter()]
    images = [samples.read(number) for number in numbers]
    clock.append(time.perf_counter())
    for image_HWC, number in zip(images, numbers, strict=True):
        rows = slice(samples.starts[number], samples.starts[number + 1])
        image_HWC, _ = augment(image_HWC, samples.boxes_N4[rows], Augmentation(), (0, 0, number))
        np.ascontiguousarray(image_HWC.transpose(2, 0, 1))
    clock.append(time.perf_counter())
    clock.append(time.perf_counter())
    return _spans(clock)


def _spans(clock: Sequence[float]) -> dict[str, float]:
    decoded, changed, together = np.diff(clock).tolist()
    return {"decode": decoded, "augment": changed, "collate": together}


def _timed(
    function: Callable[..., Any],
    part: str,
    seconds: dict[str, float],
    inner: list[float],
    device: torch.device,
) -> Callable[..., Any]:
    def timed(*given: Any, **named: Any) -> Any:
        wait(device)
        began, outside, inner[0] = time.perf_counter(), inner[0], 0.0
        result = function(*given, **named)
        wait(device)
        took = time.perf_counter() - began
        seconds[part] += took - inner[0]
        inner[0] = outside + took
        return result

    return timed
