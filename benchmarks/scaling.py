"""A model of the time per batch on several GPUs and machines, and what could be measured here.

    time = overhead + images per GPU x time per image + bytes of gradients over the slowest link

Overhead and time per image are fitted to the study's published hours and ratios; the rest follows.
Gradients are summed after the backward pass, so nothing of the last term is hidden behind it.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass

import torch

from relaydet.training.meeting import joined
from relaydet.training.team import Team

PARAMETERS = 41_076_761
"""Of resnet50_fpn for one category that train: stem and first stage are frozen, batch norms too."""
GRADIENT_BYTES = 4 * PARAMETERS
IMAGES = 12 * 82_299
"""What the study trained on: 12 epochs."""
V100_HOURS = 9.0
"""Published for V100 x4."""
FASTER_A100, EIGHT_OVER_FOUR, DOUBLED = 1.4, 1.7, 1.8
"""Published: A100 x4 over V100 x4, A100 x8 over A100 x4, time of a batch of 16 over one of 8."""
A100_X8_HOURS = 3.5
"""Published, and not used in the fit."""
NVLINK_V100, NVSWITCH_A100, PCIE = 100e9, 200e9, 10e9
ETHERNET = {"10 Gb/s": 1.0e9, "100 Gb/s": 10e9}
"""Bytes a second that an all-reduce gets out of a link: about two thirds of the nominal."""
WORDS = 3
"""Small exchanges of every step: the padded size, losses and memory, whether to stop."""


@dataclass(frozen=True)
class Gpu:
    """What a step costs on one."""

    overhead: float
    """Seconds, whatever the batch."""
    image: float
    """Seconds each."""


def all_reduce(ranks: int, link: float) -> float:
    """Seconds of a ring all-reduce of the gradients: each rank sends 2 (n - 1) / n of them."""
    return 2 * (ranks - 1) / ranks * GRADIENT_BYTES / link


def fit() -> tuple[Gpu, Gpu]:
    """V100 and A100, so that the published hours and ratios come out; batch 8."""
    v100_x4 = V100_HOURS * 3600 * 8 / IMAGES
    doubled = (DOUBLED - 1) * v100_x4  # two more images on each of four GPUs
    v100 = Gpu(v100_x4 - doubled - all_reduce(4, NVLINK_V100), doubled / 2)
    a100_x4 = v100_x4 / FASTER_A100
    a100_x8 = a100_x4 / EIGHT_OVER_FOUR
    one_image = a100_x4 - a100_x8 - all_reduce(4, NVSWITCH_A100) + all_reduce(8, NVSWITCH_A100)
    a100 = Gpu(a100_x8 - one_image - all_reduce(8, NVSWITCH_A100), one_image)
    return v100, a100


def step(gpu: Gpu, images: float, ranks: int, link: float, words: float = 0.0) -> float:
    """Seconds of a batch with so many images on each rank."""
    return gpu.overhead + images * gpu.image + all_reduce(ranks, link) + words


def hours(seconds: float, batch: int) -> float:
    return IMAGES / batch * seconds / 3600


def published() -> None:
    v100, a100 = fit()
    for name, gpu in (("V100", v100), ("A100", a100)):
        print(f"fitted: {name} {gpu.overhead * 1e3:.0f} ms + {gpu.image * 1e3:.0f} ms an image")
    print("machine  batch  ms/batch  of it all-reduce  hours")
    for name, gpu, ranks, link in (
        ("V100 x4", v100, 4, NVLINK_V100),
        ("A100 x4", a100, 4, NVSWITCH_A100),
        ("A100 x8", a100, 8, NVSWITCH_A100),
    ):
        for batch in (8, 16):
            seconds = step(gpu, batch / ranks, ranks, link)
            summed = all_reduce(ranks, link) * 1e3
            print(
                f"{name}  {batch:>5}  {seconds * 1e3:8.0f}  {summed:16.1f}"
                f"  {hours(seconds, batch):5.1f}"
            )
    print(f"not fitted: A100 x8 takes {A100_X8_HOURS} h as published;", end=" ")
    print(f"a batch of 16 on A100 x4 takes {_doubling(a100):.2f} x one of 8 (published {DOUBLED})")


def _doubling(gpu: Gpu) -> float:
    return step(gpu, 4, 4, NVSWITCH_A100) / step(gpu, 2, 4, NVSWITCH_A100)


def machines(word_seconds: float) -> None:
    """Machines of eight A100, two images each: the batch grows with them."""
    _, a100 = fit()
    one = 16 / step(a100, 2, 8, NVSWITCH_A100)
    print("A100 x8 machines, 2 images a GPU: share of perfect scaling")
    print("machines  " + "  ".join(f"{name:>9}" for name in ETHERNET) + "  words alone, ms")
    for count in (2, 4, 8, 16, 32, 64):
        ranks = 8 * count
        words = WORDS * (ranks - 1) * word_seconds
        shares = []
        for link in ETHERNET.values():
            # Between machines a ring over the machines; within one, eight GPUs sum first.
            seconds = step(a100, 2, 8, NVSWITCH_A100, words) + all_reduce(count, link)
            shares.append(16 * count / seconds / (one * count))
        print(f"{count:>8}  " + "  ".join(f"{s:9.0%}" for s in shares) + f"  {words * 1e3:15.0f}")


def child() -> None:
    with joined(answer_minutes=5) as team:
        words = [_timed(lambda: team.total([1.0, 2.0])) for _ in range(200)]
        sums = _gradients(team)
        if team.leads:
            print(json.dumps([statistics.median(words), statistics.median(sums)]))


def _gradients(team: Team) -> list[float]:
    parameter = torch.nn.Parameter(torch.zeros(PARAMETERS))
    parameter.grad = torch.ones(PARAMETERS)
    return [_timed(lambda: team.sum_gradients(team.pack_gradients([parameter]))) for _ in range(5)]


def _timed(act) -> float:  # noqa: ANN001
    began = time.perf_counter()
    act()
    return time.perf_counter() - began


def measured(ranks: int) -> tuple[float, float]:
    """Seconds of a small exchange and of a sum of gradients, between processes here."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", str(ranks), __file__, "child"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=True,
        capture_output=True,
        text=True,
        cwd=tempfile.gettempdir(),
    )
    word, summed = json.loads(done.stdout.splitlines()[-1])
    return word, summed


def main() -> None:
    published()
    print()
    words = []
    for ranks in (2, 3, 4):
        word, summed = measured(ranks)
        words.append(word / (ranks - 1))
        gigabytes = 2 * (ranks - 1) / ranks * GRADIENT_BYTES / summed / 1e9
        print(
            f"here, {ranks} ranks over gloo on {os.cpu_count()} cores: a word {word * 1e3:.2f} ms,"
            f" {GRADIENT_BYTES / 1e6:.0f} MB of gradients {summed:.2f} s ({gigabytes:.2f} GB/s)"
        )
    print()
    machines(statistics.median(words))


if __name__ == "__main__":
    if sys.argv[1:] == ["child"]:
        child()
    else:
        main()
