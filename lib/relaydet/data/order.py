"""Which images make up each optimizer step: a pure function of (seed, epoch, step).

An epoch is a random order of all images in which neighbours of like aspect ratio share a batch
(less padding), cut into batches of the user's size. Every image comes once an epoch; the one
batch that may be short is the last.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from relaydet.randomness import keyed_permutation

# Parts of a key that keep the streams of different uses apart.
_SAMPLES, _BATCHES = 1, 2


def steps_per_epoch(images: int, batch_size: int) -> int:
    """Optimizer steps that one pass over the images takes."""
    return -(-images // batch_size)


def aspect_groups(widths_N: np.ndarray, heights_N: np.ndarray) -> np.ndarray:
    """Group of each image for batching: 0 landscape or square, 1 portrait; int64 [N]."""
    return (np.asarray(heights_N) > np.asarray(widths_N)).astype(np.int64)


def epoch_batches(seed: int, epoch: int, groups_N: np.ndarray, batch_size: int) -> list[np.ndarray]:
    """The batches of one epoch, in order: lists of image indices.

    Args:
        seed: the run's seed.
        epoch: counted from 0.
        groups_N: group of each image; only the rest of each group is mixed with other groups.
        batch_size: images per optimizer step.
    """
    order = keyed_permutation(len(groups_N), seed, epoch, _SAMPLES)
    whole: list[np.ndarray] = []
    rest: list[np.ndarray] = []
    for group in np.unique(groups_N):
        members = order[groups_N[order] == group]
        cut = len(members) - len(members) % batch_size
        whole += np.split(members[:cut], cut // batch_size) if cut else []
        rest.append(members[cut:])
    mixed = np.concatenate(rest) if rest else order
    batches = whole + [mixed[i : i + batch_size] for i in range(0, len(mixed), batch_size)]
    short_last = 1 if batches and len(batches[-1]) < batch_size else 0
    shuffled = keyed_permutation(len(batches) - short_last, seed, epoch, _BATCHES)
    return [batches[i] for i in shuffled] + (batches[-1:] if short_last else [])


@dataclass(frozen=True)
class BatchPlan:
    """The batches of the optimizer steps first_step..last_step-1, as keys of samples.

    A key is (epoch, index): what to load, and what to augment it by.
    """

    seed: int
    groups_N: np.ndarray
    batch_size: int
    first_step: int
    last_step: int
    rank: int = 0
    """Which of the processes that share each batch this is."""
    ranks: int = 1
    """How many they are; a rank may get nothing of a batch that is smaller."""

    def __len__(self) -> int:
        return self.last_step - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = steps_per_epoch(len(self.groups_N), self.batch_size)
        step = self.first_step
        while step < self.last_step:
            epoch, done = divmod(step, per_epoch)
            batches = epoch_batches(self.seed, epoch, self.groups_N, self.batch_size)
            for batch in batches[done : done + self.last_step - step]:
                share = np.array_split(batch, self.ranks)[self.rank]
                yield [(epoch, int(index)) for index in share]
                step += 1
