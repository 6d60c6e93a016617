"""From a dataset to batches of tensors: read, decode, augment, in worker processes.

Shape suffixes: C channels, H height, W width, N boxes, M images, 4 corners (x1, y1, x2, y2).
"""

from __future__ import annotations

import errno
from collections import defaultdict
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from relaydet.data.augment import Augmentation, augment
from relaydet.data.dataset import Annotation, Dataset, Image
from relaydet.data.decode import decode
from relaydet.data.images import Images
from relaydet.data.order import BatchPlan, aspect_groups
from relaydet.data.workers import NO_STOP, Read, Sample, Task, Wait, read_in_order
from relaydet.errors import RelayError
from relaydet.storage.troubles import is_away, on_drive

__all__ = ["Sample", "Samples", "Wait"]


LEAST_BOX_SIDE = 0.01
"""Pixels of the resized image that a box to train on is wide and high at least."""
RESIZE_ROUNDING = 1e-3
"""Pixels that a resized side may be off by: older torchvision multiplies in float32."""


@dataclass(frozen=True)
class Samples:
    """Images and their objects as arrays, which worker processes share without copying.

    Boxes of image i are rows starts[i]..starts[i+1]-1; crowd regions are left out, as they are in
    torchvision's and detectron2's training.
    """

    folders: Mapping[str, Images]
    file_names: Sequence[str]
    image_ids_M: np.ndarray
    widths_M: np.ndarray
    heights_M: np.ndarray
    boxes_N4: np.ndarray
    labels_N: np.ndarray
    starts: np.ndarray
    left_out: tuple[str, ...] = ()
    """A sentence for each kind of image or box that cannot be trained on, with an example."""

    def __len__(self) -> int:
        return len(self.file_names)

    def groups_M(self) -> np.ndarray:
        """Aspect-ratio group of each image."""
        return aspect_groups(self.widths_M, self.heights_M)

    def read(self, index: int) -> np.ndarray:
        """Return the pixels of one image: uint8 [H, W, 3].

        Raises:
            RelayError: it cannot be read, or has another size than when it was merged: its boxes
                would not be where its objects are.
        """
        source, name = self.file_names[index].split("/", 1)
        image_HWC = decode(self.folders[source].read(name), self.file_names[index])
        height, width = image_HWC.shape[:2]
        merged = (int(self.widths_M[index]), int(self.heights_M[index]))
        if min(merged) >= 1 and merged != (width, height):
            raise RelayError(
                f"image {name} of the {self.folders[source].describe()}: is {width} x {height}"
                f" pixels, and was {merged[0]} x {merged[1]} when it was merged; put that file"
                " back, or merge the dataset again under a new name."
            )
        return image_HWC


def training_samples(
    dataset: Dataset,
    folders: Mapping[str, Images],
    include: Sequence[str] = (),
    sides: tuple[int, int] | None = None,
) -> Samples:
    """Return the images to train on.

    Images whose only annotations are crowd regions are left out: what they show would be taught
    as background. So are boxes and images that flipping and resizing leave nothing of.

    Args:
        dataset: a merged dataset; its category ids are the labels 1..K.
        folders: where each source's images are.
        include: sources to take; empty takes all.
        sides: pixels that the detector resizes an image's short side to, and its long side at most.
    """
    wanted = set(include)
    by_image = dataset.annotations_by_image()
    taken = [i for i in dataset.images if not wanted or i.source in wanted]
    thin, slivers = _LeftOut(), _LeftOut()
    for image in taken:
        if not _has_sides(image, sides):
            thin.add(image.file_name)
    taken = [image for image in taken if _has_sides(image, sides)]
    objects = [[a for a in by_image.get(i.id, []) if not a.iscrowd] for i in taken]
    images, kept_objects = [], []
    for image, mine, sized in zip(taken, objects, _sized(taken, objects, sides), strict=True):
        kept = [annotation for annotation, has_size in zip(mine, sized, strict=True) if has_size]
        if len(kept) < len(mine):
            lost = next(a for a, has_size in zip(mine, sized, strict=True) if not has_size)
            slivers.add(f"annotation {lost.id} of {image.file_name}", len(mine) - len(kept))
        if kept or image.id not in by_image:
            images.append(image)
            kept_objects.append(kept)
    left_out = (
        thin.sentence("images are left out: resized, one of their sides would be 0 pixels long"),
        slivers.sentence(
            f"boxes are left out: flipped or resized, they are less than {LEAST_BOX_SIDE} pixels"
            " wide or high"
        ),
    )
    samples = _as_arrays(folders, images, kept_objects)
    return replace(samples, left_out=tuple(line for line in left_out if line))


@dataclass
class _LeftOut:
    """What cannot be trained on: how many, and the first of them."""

    count: int = 0
    example: str = ""

    def add(self, name: str, count: int = 1) -> None:
        self.count += count
        self.example = self.example or name

    def sentence(self, what: str) -> str:
        """Return what to report; an empty text where nothing is left out."""
        return f"{self.count} {what} (the first: {self.example})" if self.count else ""


def resize_scale(width: int, height: int, sides: tuple[int, int]) -> float:
    """Return the factor that torchvision's detectors resize an image by.

    Args:
        width: pixels of the image.
        height: pixels of the image.
        sides: pixels of the short side, and of the long side at most.
    """
    return min(sides[0] / min(width, height), sides[1] / max(width, height))


def _has_sides(image: Image, sides: tuple[int, int] | None) -> bool:
    """Return whether both sides of an image are at least a pixel long once it is resized.

    torchvision rounds them down; in older releases after a product in float32.
    """
    if sides is None or min(image.width, image.height) < 1:
        return True  # they are not known
    scale = resize_scale(image.width, image.height, sides)
    return min(image.width, image.height) * scale >= 1 + RESIZE_ROUNDING


def _sized(
    images: Sequence[Image],
    objects: Sequence[Sequence[Annotation]],
    sides: tuple[int, int] | None,
) -> list[np.ndarray]:
    """Return which boxes of each image still have a size in float32, flipped and resized."""
    corners_N4 = _corners_N4(objects)
    counts = list(map(len, objects))
    widths_N = np.repeat(np.array([image.width for image in images], np.float32), counts)
    scales = [
        resize_scale(image.width, image.height, sides)
        if sides and min(image.width, image.height) >= 1
        else np.inf
        for image in images
    ]
    wide_N, high_N = (corners_N4[:, 2:] - corners_N4[:, :2]).T
    flipped_N = (widths_N - corners_N4[:, 0]) - (widths_N - corners_N4[:, 2])
    least_N = np.minimum(np.minimum(wide_N, high_N), flipped_N)
    sized_N = (least_N > 0) & (least_N >= LEAST_BOX_SIDE / np.repeat(np.array(scales), counts))
    return np.split(sized_N, np.cumsum(counts)[:-1]) if counts else []


def _corners_N4(objects: Sequence[Sequence[Annotation]]) -> np.ndarray:
    xywh_N4 = np.array([a.bbox for mine in objects for a in mine], np.float32).reshape(-1, 4)
    return np.concatenate([xywh_N4[:, :2], xywh_N4[:, :2] + xywh_N4[:, 2:]], axis=1)


def evaluation_samples(dataset: Dataset, folders: Mapping[str, Images]) -> Samples:
    """All images of a dataset, in its order, without their objects."""
    return _as_arrays(folders, dataset.images, [[] for _ in dataset.images])


def _as_arrays(
    folders: Mapping[str, Images],
    images: Sequence[Image],
    objects: Sequence[Sequence[Annotation]],
) -> Samples:
    return Samples(
        folders=folders,
        file_names=[image.file_name for image in images],
        image_ids_M=np.array([image.id for image in images], np.int64),
        widths_M=np.array([image.width for image in images], np.int64),
        heights_M=np.array([image.height for image in images], np.int64),
        boxes_N4=_corners_N4(objects),
        labels_N=np.array([a.category_id for kept in objects for a in kept], np.int64),
        starts=np.cumsum([0] + [len(kept) for kept in objects]),
    )


@dataclass(frozen=True)
class _TrainingReader:
    """What is read for one key (epoch, index)."""

    samples: Samples
    augmentation: Augmentation
    seed: int

    def __call__(self, key: tuple[int, int]) -> Read:
        epoch, index = key
        rows = slice(self.samples.starts[index], self.samples.starts[index + 1])
        image_HWC, boxes_N4 = augment(
            self.samples.read(index),
            self.samples.boxes_N4[rows],
            self.augmentation,
            (self.seed, epoch, index),
        )
        target = {
            "boxes": np.ascontiguousarray(boxes_N4, np.float32),
            "labels": self.samples.labels_N[rows],
        }
        return Read(_by_channel(image_HWC), target)


def training_batches(
    samples: Samples,
    plan: BatchPlan,
    augmentation: Augmentation,
    workers: int,
    pin: bool = False,
    wait: Wait = NO_STOP,
) -> Generator[list[Sample], None, None]:
    """Read the optimizer batches of a plan, in order.

    Args:
        samples: the images.
        plan: which of them make a batch.
        augmentation: how they are changed.
        workers: loader processes; 0 reads in this one.
        pin: put pixels into memory that a GPU can copy from while it computes.
        wait: what ends a wait for an image.

    Yields:
        Lists of (image, target): uint8 [3, H, W], and boxes [N, 4] (corners, pixels) with
        labels [N] in 1..K.

    Raises:
        DataError: an image cannot be read, or none came for some minutes.
        StopError: a stop was asked for while one was waited for.
    """
    task = Task(
        read=_TrainingReader(samples, augmentation, plan.seed),
        describe=_Places(samples).of_key,
        away=_Mounts.of(samples),
        batches=plan,
        ahead=3 * workers * plan.batch_size,
    )
    return read_in_order(task, workers, pin, wait)


@dataclass(frozen=True)
class _ImageReader:
    samples: Samples

    def __call__(self, index: int) -> Read:
        return Read(_by_channel(self.samples.read(index)))


@dataclass(frozen=True)
class _Places:
    """Name images for messages."""

    samples: Samples

    def of_key(self, key: tuple[int, int]) -> str:
        return self.of_index(key[1])

    def of_index(self, index: int) -> str:
        source, name = self.samples.file_names[index].split("/", 1)
        return f"image {name} of the {self.samples.folders[source].describe()}"


@dataclass(frozen=True)
class _Mounts:
    """Tell an image that is not there from a disk or mount that is not."""

    devices: dict[Path, int | None]
    """Number of the file system that each source's images are on; None where it was not there."""

    @classmethod
    def of(cls, samples: Samples) -> _Mounts:
        places = {_place(images) for images in samples.folders.values()}
        return cls({place: _device(place) for place in places if place is not None})

    def __call__(self, error: RelayError) -> str:
        """Return a sentence with the remedy where a mount is away; else an empty text."""
        cause: BaseException | None = error
        while cause is not None and not isinstance(cause, OSError):
            cause = cause.__cause__
        if cause is None:
            return ""
        gone = cause.errno in (errno.ENOENT, errno.ENOTDIR)
        for place, device in self.devices.items():
            if str(place) in str(error) and (is_away(cause) or (gone and _left(place, device))):
                return f"{str(error).rpartition(';')[0]}; {_remedy(place)}."
        return ""


def _place(images: Images) -> Path | None:
    """Return the folder or zip on this machine that a source's images are read from."""
    for name in ("root", "path", "folder"):
        if isinstance(place := getattr(images, name, None), Path):
            return place
    return None


def _device(place: Path) -> int | None:
    try:
        return place.stat().st_dev
    except OSError:
        return None


def _left(place: Path, device: int | None) -> bool:
    """Return whether the file system that a folder was on is not mounted there any more."""
    if device is None:
        return False
    try:
        found = next(p for p in (place, *place.absolute().parents) if p.exists())
        return found.stat().st_dev != device
    except OSError:
        return True


def _remedy(place: Path) -> str:
    if on_drive(place):
        return (
            "Drive's mount has died: run drive.mount('/content/drive', force_remount=True) in"
            " another notebook cell, or restart the runtime and run again"
        )
    return (
        "mount the disk again, or copy the images to this machine, name the folder in IMAGES and"
        " run again"
    )


def batches_of_one_shape(
    samples: Samples, batch_size: int, shape_of: Callable[[int, int], tuple[int, int]]
) -> list[list[int]]:
    """Indices of all images in batches whose images become tensors of one shape.

    So nothing is padded that would not be padded in a batch of one, and what a detector says of an
    image does not depend on the batch that it is in.

    Args:
        samples: the images.
        batch_size: images of a batch at most.
        shape_of: height and width of the tensor that the detector makes of an image of a height
            and width in pixels.
    """
    groups: dict[tuple[int, int], list[int]] = defaultdict(list)
    sides = zip(samples.heights_M.tolist(), samples.widths_M.tolist(), strict=True)
    for index, (height, width) in enumerate(sides):
        # Where the sides are not known, an image is alone.
        known = height > 0 and width > 0
        groups[shape_of(height, width) if known else (-1, index)].append(index)
    return [
        group[first : first + batch_size]
        for _, group in sorted(groups.items(), reverse=True)
        for first in range(0, len(group), batch_size)
    ]


def read_batches(
    samples: Samples, batches: Sequence[list[int]], workers: int, wait: Wait = NO_STOP
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """Read the images of some batches.

    Args:
        samples: the images.
        batches: indices into the samples.
        workers: loader processes; 0 reads in this one.
        wait: what ends a wait for an image.

    Yields:
        Indices into the samples, and the images as uint8 [3, H, W].

    Raises:
        DataError: an image cannot be read, or none came for some minutes.
        StopError: a stop was asked for while one was waited for.
    """
    task = Task(
        read=_ImageReader(samples),
        describe=_Places(samples).of_index,
        away=_Mounts.of(samples),
        batches=batches,
        ahead=workers * max(map(len, batches), default=1),
    )
    with closing(read_in_order(task, workers, False, wait)) as read:
        for indices, batch in zip(batches, read, strict=True):
            yield indices, [image_CHW for image_CHW, _ in batch]


def _by_channel(image_HWC: np.ndarray) -> np.ndarray:
    """Return an image as tensors have it: [3, H, W], contiguous."""
    return np.ascontiguousarray(image_HWC.transpose(2, 0, 1))
