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
class Share:
    """What one of several ranks has of an optimizer batch: images first..first+count-1 of it."""

    first: int
    count: int
    """May be 0 where a batch is smaller than the ranks are many."""
    batch: int
    """Images of the whole batch."""
    most: int
    """Images of the largest share."""


def share_of(batch: int, rank: int = 0, ranks: int = 1) -> Share:
    """The share of one rank: shares are in the ranks' order, and one image apart at most.

    Args:
        batch: images of the optimizer batch.
        rank: whose share, from 0.
        ranks: how many share it.
    """
    each, more = divmod(batch, ranks)
    first = rank * each + min(rank, more)
    return Share(first, each + (rank < more), batch, each + (more > 0))


@dataclass(frozen=True)
class BatchPlan:
    """The batches of the optimizer steps first_step..last_step-1, as keys of samples.

    A key is (epoch, index): what to load, and what to augment it by. A rank with an empty share
    gets the batch's first image all the same, which then counts for nothing.
    """

    seed: int
    groups_N: np.ndarray
    batch_size: int
    first_step: int
    last_step: int
    rank: int = 0
    """Which of the processes that share each batch this is."""
    ranks: int = 1
    """How many they are."""

    def __len__(self) -> int:
        return self.last_step - self.first_step

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        per_epoch = steps_per_epoch(len(self.groups_N), self.batch_size)
        step = self.first_step
        while step < self.last_step:
            epoch, done = divmod(step, per_epoch)
            batches = epoch_batches(self.seed, epoch, self.groups_N, self.batch_size)
            for batch in batches[done : done + self.last_step - step]:
                share = share_of(len(batch), self.rank, self.ranks)
                mine = batch[share.first : share.first + share.count]
                yield [(epoch, int(index)) for index in (mine if share.count else batch[:1])]
                step += 1

    def shares(self) -> Iterator[Share]:
        """This rank's share of each of those batches."""
        images = len(self.groups_N)
        per_epoch = steps_per_epoch(images, self.batch_size)
        for step in range(self.first_step, self.last_step):
            left = images - step % per_epoch * self.batch_size
            yield share_of(min(self.batch_size, left), self.rank, self.ranks)
