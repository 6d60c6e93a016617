"""Images that look the same although their files differ: scaled, compressed again, brightened.

Each image is reduced to a grey thumbnail. The signs of its low frequencies (a cosine transform, as
in the perceptual hash of http://phash.org and of Zauner, "Implementation and Benchmarking of
Perceptual Image Hash Functions", 2010) make 128 bits, in bands of 16. Two hashes that differ in
fewer bits than there are bands have a band in common, so only images that share a band are
compared (the pigeonhole of Manku et al., "Detecting Near-Duplicates for Web Crawling", WWW 2007).
Those that pass are compared by the thumbnails themselves, less what is smooth in them: two skies
are alike at a glance, and two frames of one camera differ only in where a person went.

Everything here is a pure function of the thumbnails.

Shape suffixes: N thumbnails, P pairs, B bands, S pixels along a side.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image as PillowImage

from relaydet.data.images.pixels import grey_of_16_bits, open_image, unreadable
from relaydet.errors import RelayError

SIDE = 32
"""Pixels along each side of a thumbnail; one of 640 x 480 shrinks 20 by 15 pixels to one."""
# JPEG decodes at an 8th, 4th or half of its size, whichever still has this many pixels a side.
# With fewer, where the pixels happen to fall shows in the thumbnail.
DRAFT_SIDE = 4 * SIDE
# Other formats decode whole: a small file may claim a picture that fills the memory.
MAX_PIXELS = 50_000_000

BANDS, BAND_BITS = 8, 16
# Bits of 128. On 287 photos: 7 at most when scaled or compressed to quality 30, 9 when 10 %
# brighter; between different photos 42 at least.
MAX_BITS = 12
# In a band that many share (frames of one camera), each is compared with so many that follow when
# all are sorted by their other bits. Copies lie close together there.
WINDOW = 8

# Standard deviation of the detail, in grey levels. Of 287 photos the least has 4.4; below this are
# blank walls, whose detail is the noise and rounding of the file.
MIN_DETAIL = 2.0
# Correlation of the detail. Copies as above have 0.985 and more, different photos 0.4 at most.
MIN_LIKENESS = 0.97
# Largest difference of the detail, in grey levels, after making the contrast equal. Copies as above
# differ by 5 (10 % brighter: 12, where white is clipped). A person an eighth as high as the image
# differs by more than this in 98 of 100 cases, so another frame of the same scene is another image.
MAX_DIFFERENCE = 12.0

_CHUNK = 2048  # thumbnails or pairs in floating point at once: 8 MB for each array
_POPCOUNT = np.array([value.bit_count() for value in range(1 << BAND_BITS)], dtype=np.uint8)


def thumbnail_of(data: bytes, name: str) -> bytes | None:
    """A small grey copy of an image, not turned by EXIF.

    Args:
        data: the bytes of the file.
        name: what to call it in an error message.

    Returns:
        SIDE * SIDE grey levels (uint8), row by row; None for an image that would take too much
        memory (more than 50 million pixels, and not a JPEG).

    Raises:
        RelayError: the bytes are not an image, or only part of one.
    """
    try:
        with open_image(data) as image:
            draft = image.draft("L", (DRAFT_SIDE, DRAFT_SIDE))
            if image.width * image.height > MAX_PIXELS:
                return None
            # The draft's own box: its last column may stand for less than a whole pixel.
            box = draft[1] if draft else None
            grey = _grey(image)
            return grey.resize((SIDE, SIDE), PillowImage.Resampling.HAMMING, box).tobytes()
    except Exception as error:  # Pillow's format plugins raise whatever a broken file provokes
        raise RelayError(unreadable(name, error)) from error


def _grey(image: PillowImage.Image) -> PillowImage.Image:
    grey_HW = grey_of_16_bits(image)
    return image.convert("L") if grey_HW is None else PillowImage.fromarray(grey_HW)


def near_pairs(thumbnails: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Find the thumbnails that seem to show the same picture.

    Takes about a second for 10,000 thumbnails of different pictures, and time in proportion.

    Args:
        thumbnails: what `thumbnail_of` gave, without None.

    Returns:
        int64 [P, 2]: positions of the two of a pair, the smaller first, sorted; and float32 [P]:
        the correlation of their detail, 0.97 to 1. Of many that are all alike not every pair is
        listed, but each is in one.
    """
    looks = _looks(np.frombuffer(b"".join(thumbnails), np.uint8).reshape(-1, SIDE, SIDE))
    candidates = _candidates(looks.hash_NB, np.flatnonzero(looks.spread_N >= MIN_DETAIL))
    pairs = [_alike(looks, block_P2) for block_P2 in _blocks(candidates)]
    if not pairs:
        return np.empty((0, 2), np.int64), np.empty(0, np.float32)
    return np.concatenate([p for p, _ in pairs]), np.concatenate([value for _, value in pairs])


@dataclass(frozen=True)
class _Looks:
    """What thumbnails are compared by."""

    hash_NB: np.ndarray
    """uint16 [N, BANDS]: signs, lowest frequencies first."""
    detail_NS: np.ndarray
    """float16 [N, SIDE * SIDE]: the detail, of mean 0 and standard deviation 1."""
    spread_N: np.ndarray
    """float32 [N]: what the standard deviation was, in grey levels."""


def _looks(levels_NSS: np.ndarray) -> _Looks:
    count, cosines_KS, rows, columns = len(levels_NSS), *_frequencies()
    hash_NB = np.empty((count, BANDS), np.uint16)
    detail_NS, spread_N = np.empty((count, SIDE * SIDE), np.float16), np.empty(count, np.float32)
    for start in range(0, count, _CHUNK):
        block = slice(start, start + _CHUNK)
        floats_NSS = levels_NSS[block].astype(np.float32)
        waves_NKK = cosines_KS @ floats_NSS @ cosines_KS.T
        packed = np.packbits(waves_NKK[:, rows, columns] > 0, axis=1)
        hash_NB[block] = np.ascontiguousarray(packed).view(">u2")
        detail = _detail(floats_NSS)
        spread_N[block] = detail.std(axis=1)
        detail_NS[block] = detail / np.maximum(spread_N[block], MIN_DETAIL)[:, None]
    return _Looks(hash_NB, detail_NS, spread_N)


def _frequencies() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of the cosine transform (DCT-II), and the lowest frequencies but that of brightness."""
    lowest = sorted(
        ((row, column) for row in range(SIDE) for column in range(SIDE)),
        key=lambda at: (sum(at), at),
    )[1 : 1 + BANDS * BAND_BITS]
    rows, columns = np.array(lowest).T
    k, s = np.arange(np.max(lowest) + 1)[:, None], np.arange(SIDE)
    cosines_KS = np.cos(np.pi / SIDE * (s + 0.5) * k)
    return cosines_KS.astype(np.float32), rows, columns


def _candidates(hash_NB: np.ndarray, used: np.ndarray) -> np.ndarray:
    """Pairs of positions that have a band in common and few bits apart; int64 [P, 2], sorted."""
    found = [np.empty(0, np.int64)]
    for band in range(BANDS):
        # By this band first, then by the ones after it.
        keys = np.roll(hash_NB[used], -band, axis=1).T[::-1]
        order = used[np.lexsort(keys)]
        for step in range(1, min(WINDOW, len(order) - 1) + 1):
            first, second = order[:-step], order[step:]
            shares = hash_NB[first, band] == hash_NB[second, band]
            if not shares.any():
                break
            first, second = first[shares], second[shares]
            apart = _POPCOUNT[hash_NB[first] ^ hash_NB[second]].sum(axis=1)
            few = apart <= MAX_BITS
            low, high = np.minimum(first, second)[few], np.maximum(first, second)[few]
            found.append(low * len(hash_NB) + high)
    numbers = np.unique(np.concatenate(found))
    return np.stack(np.divmod(numbers, max(len(hash_NB), 1)), axis=1)


def _alike(looks: _Looks, pairs_P2: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of the pairs those whose detail is the same, and how much it is."""
    first, second = (looks.detail_NS[side].astype(np.float32) for side in pairs_P2.T)
    likeness_P = np.einsum("ps,ps->p", first, second) / first.shape[1]
    # The weaker contrast is raised, so that the order of the two does not matter.
    spread_P = looks.spread_N[pairs_P2].max(axis=1)
    difference_P = np.abs(first - second).max(axis=1) * spread_P
    alike_P = (likeness_P >= MIN_LIKENESS) & (difference_P <= MAX_DIFFERENCE)
    return pairs_P2[alike_P], np.minimum(likeness_P[alike_P], np.float32(1))


def _detail(levels_NSS: np.ndarray) -> np.ndarray:
    """Each level less the mean of the 3 x 3 levels around it, of mean 0; float32 [N, S * S]."""
    padded = np.pad(levels_NSS, ((0, 0), (1, 1), (1, 1)), mode="edge")
    rows = padded[:, :-2] + padded[:, 1:-1] + padded[:, 2:]
    around = rows[:, :, :-2] + rows[:, :, 1:-1] + rows[:, :, 2:]
    detail = (levels_NSS - around / np.float32(9)).reshape(len(levels_NSS), -1)
    return detail - detail.mean(axis=1, keepdims=True)


def _blocks(rows: np.ndarray) -> Iterator[np.ndarray]:
    return (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))
