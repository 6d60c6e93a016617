"""Random numbers that are a pure function of a key, the same on every machine and library version.

Everything random in training is drawn here, from keys such as (seed, epoch, index). No generator
state has to be saved to resume a run, and no number depends on how many workers or GPUs there are.
NumPy's own generators do not promise the same stream from one release to the next.

Source: the finaliser of SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number
generators", OOPSLA 2014), folded over the parts of the key.
"""

from __future__ import annotations

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def keyed_bits(*key: int | np.ndarray) -> np.ndarray:
    """64 random bits for each key: uint64, in the shape that the parts broadcast to.

    Args:
        key: integers (negative ones too) or integer arrays; their order matters.
    """
    with np.errstate(over="ignore"):
        bits = _GOLDEN
        for part in key:
            part_bits = np.asarray(part, dtype=np.int64).astype(np.uint64)
            bits = _mix(bits + _GOLDEN + _mix(part_bits + _GOLDEN))
    return np.asarray(bits)


def keyed_uniform(*key: int | np.ndarray) -> np.ndarray:
    """A number in [0, 1) for each key: float64, in the shape that the parts broadcast to."""
    return (keyed_bits(*key) >> np.uint64(11)) * 2.0**-53


def keyed_seed(*key: int) -> int:
    """A non-negative 63-bit seed for a generator of another library."""
    return int(keyed_bits(*key) >> np.uint64(1))


def keyed_permutation(length: int, *key: int) -> np.ndarray:
    """A random order of 0..length-1: int64 [length]."""
    return np.argsort(keyed_bits(*key, np.arange(length)), kind="stable")


def _mix(bits: np.ndarray) -> np.ndarray:
    bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
    bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
    return bits ^ (bits >> np.uint64(31))
