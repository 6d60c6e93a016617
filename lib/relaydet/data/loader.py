"""From a dataset to batches of tensors: read, decode, augment, in worker processes.

Shape suffixes: C channels, H height, W width, N boxes, M images, 4 corners (x1, y1, x2, y2).
"""

from __future__ import annotations

import math
import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader

from relaydet.data.augment import Augmentation, augment
from relaydet.data.dataset import Annotation, Dataset, Image
from relaydet.data.decode import decode
from relaydet.data.images import Images
from relaydet.data.order import BatchPlan, aspect_groups
from relaydet.errors import DataError, RelayError

_GRACE_SECONDS = 60
"""How long a worker lives on after SIGTERM."""

Sample = tuple[torch.Tensor, dict[str, torch.Tensor]]
_Read = tuple[torch.Tensor, dict[str, np.ndarray]]


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

    def __len__(self) -> int:
        return len(self.file_names)

    def groups_M(self) -> np.ndarray:
        """Aspect-ratio group of each image."""
        return aspect_groups(self.widths_M, self.heights_M)

    def read(self, index: int) -> np.ndarray:
        """Pixels of one image: uint8 [H, W, 3]."""
        source, name = self.file_names[index].split("/", 1)
        return decode(self.folders[source].read(name), self.file_names[index])


def training_samples(
    dataset: Dataset, folders: Mapping[str, Images], include: Sequence[str] = ()
) -> Samples:
    """Images to train on.

    Images whose only annotations are crowd regions are left out: what they show would be taught
    as background.

    Args:
        dataset: a merged dataset; its category ids are the labels 1..K.
        folders: where each source's images are.
        include: sources to take; empty takes all.
    """
    wanted = set(include)
    by_image = dataset.annotations_by_image()
    images, objects = [], []
    for image in dataset.images:
        annotations = by_image.get(image.id, [])
        kept = [a for a in annotations if not a.iscrowd and _has_size(a)]
        if (not wanted or image.source in wanted) and (kept or not annotations):
            images.append(image)
            objects.append(kept)
    return _as_arrays(folders, images, objects)


def _has_size(annotation: Annotation) -> bool:
    """Whether the box still has one in float32, in which it is trained on."""
    x, y, width, height = annotation.bbox
    corners = np.array([x, y, x + width, y + height], np.float32)
    return bool(corners[0] < corners[2] and corners[1] < corners[3])


def evaluation_samples(dataset: Dataset, folders: Mapping[str, Images]) -> Samples:
    """All images of a dataset, in its order, without their objects."""
    return _as_arrays(folders, dataset.images, [[] for _ in dataset.images])


def _as_arrays(
    folders: Mapping[str, Images],
    images: Sequence[Image],
    objects: Sequence[Sequence[Annotation]],
) -> Samples:
    xywh_N4 = np.array([a.bbox for kept in objects for a in kept], np.float32).reshape(-1, 4)
    return Samples(
        folders=folders,
        file_names=[image.file_name for image in images],
        image_ids_M=np.array([image.id for image in images], np.int64),
        widths_M=np.array([image.width for image in images], np.int64),
        heights_M=np.array([image.height for image in images], np.int64),
        boxes_N4=np.concatenate([xywh_N4[:, :2], xywh_N4[:, :2] + xywh_N4[:, 2:]], axis=1),
        labels_N=np.array([a.category_id for kept in objects for a in kept], np.int64),
        starts=np.cumsum([0] + [len(kept) for kept in objects]),
    )


@dataclass(frozen=True)
class _TrainingReader:
    """What a worker does for one key (epoch, index)."""

    samples: Samples
    augmentation: Augmentation
    seed: int

    def __getitem__(self, key: tuple[int, int]) -> _Read | RelayError:
        try:
            return self._read(*key)
        except RelayError as error:
            return error  # raised in a worker, it would come out as that worker's traceback

    def _read(self, epoch: int, index: int) -> _Read:
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
        return _to_tensor(image_HWC), target


def training_batches(
    samples: Samples, plan: BatchPlan, augmentation: Augmentation, workers: int, pin: bool = False
) -> Iterator[list[Sample]]:
    """The optimizer batches of a plan, in order.

    Args:
        samples: the images.
        plan: which of them make a batch.
        augmentation: how they are changed.
        workers: loader processes; 0 reads in this one.
        pin: put pixels into memory that a GPU can copy from while it computes.

    Yields:
        Lists of (image, target): uint8 [3, H, W], and boxes [N, 4] (corners, pixels) with
        labels [N] in 1..K.
    """
    loader: DataLoader = DataLoader(
        _TrainingReader(samples, augmentation, plan.seed),  # type: ignore[arg-type]
        batch_sampler=plan,
        num_workers=workers,
        collate_fn=_pack,
        worker_init_fn=_start_worker,
        prefetch_factor=4 if workers else None,
        pin_memory=pin,
    )
    for packed in loader:
        yield [
            (image_CHW, {name: torch.from_numpy(values) for name, values in target.items()})
            for image_CHW, target in zip(_images(packed), packed.targets, strict=True)
        ]


@dataclass(frozen=True)
class _ImageReader:
    samples: Samples

    def __getitem__(self, index: int) -> _Read | RelayError:
        try:
            return _to_tensor(self.samples.read(index)), {}
        except RelayError as error:
            return error


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
    samples: Samples, batches: Sequence[list[int]], workers: int
) -> Iterator[tuple[list[int], list[torch.Tensor]]]:
    """The images of some batches.

    Yields:
        Indices into the samples, and the images as uint8 [3, H, W].
    """
    loader: DataLoader = DataLoader(
        _ImageReader(samples),  # type: ignore[arg-type]
        batch_sampler=batches,
        num_workers=workers,
        collate_fn=_pack,
        worker_init_fn=_start_worker,
    )
    for indices, packed in zip(batches, loader, strict=True):
        yield indices, _images(packed)


class _Packed(NamedTuple):
    """A batch on its way from a worker."""

    pixels: torch.Tensor
    """uint8, all images one after the other."""
    shapes: list[tuple[int, ...]]
    targets: list[dict[str, np.ndarray]]
    errors: list[RelayError]


def _pack(batch: Sequence[_Read | RelayError]) -> _Packed:
    """All images as one tensor: a worker hands each tensor over by a connection of its own."""
    errors = [item for item in batch if isinstance(item, RelayError)]
    read = [item for item in batch if not isinstance(item, RelayError)]
    pixels = torch.cat([image_CHW.flatten() for image_CHW, _ in read]) if read else torch.empty(0)
    shapes = [tuple(image_CHW.shape) for image_CHW, _ in read]
    return _Packed(pixels, shapes, [target for _, target in read], errors)


def _images(packed: _Packed) -> list[torch.Tensor]:
    """The images of a batch, uint8 [3, H, W]; raises DataError where one could not be read."""
    for error in packed.errors:
        raise DataError(str(error)) from error
    parts = packed.pixels.split([math.prod(shape) for shape in packed.shapes])
    return [part.view(shape) for part, shape in zip(parts, packed.shapes, strict=True)]


def _start_worker(_worker: int) -> None:
    """A worker has one core, and outlives a signal for a while: pausing is the main process's.

    A terminal's Ctrl-C reaches all processes, and so does torchrun's SIGTERM; the main one saves,
    and needs its workers until then.
    """
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "alarm"):
        signal.signal(signal.SIGTERM, lambda *_: signal.alarm(_GRACE_SECONDS))
    else:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _to_tensor(image_HWC: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image_HWC.transpose(2, 0, 1)))
