"""Four steps twice, and two and two: the same weights? With deterministic algorithms and without.

    python benchmarks/gpu_resume.py

Ends with exit code 1 where deterministic algorithms give other weights.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from train_speed import load

from relaydet.config import TrainConfig
from relaydet.model import build_model
from relaydet.runtime.device import Device, choose_device
from relaydet.training.micro_batch import MicroBatch
from relaydet.training.restore import Restored, equip
from relaydet.training.steps import run_steps
from relaydet.training.team import ALONE

STEPS, HALF = 4, 2


def fresh(config: TrainConfig, categories: list[str], device: Device) -> Restored:
    size = config.image_size
    built = build_model(config.model, categories, "none", size, seed=1, frozen=True)
    return Restored(built, *equip(built, device), MicroBatch(config.batch_size))


def advance(
    trained: Restored, config: TrainConfig, samples: Any, device: Device, first: int, steps: int
) -> float:
    """Train some steps; the last one's loss."""
    running = run_steps(config, samples, trained, device, ALONE, first, print)
    for _ in range(steps):
        step = next(running)
    return step.loss


def through_a_file(trained: Restored, again: Restored) -> Restored:
    """What a checkpoint keeps of one, put into another."""
    file, scaler = io.BytesIO(), trained.scaler
    kept = (trained.built.model, trained.optimizer, *([scaler] if scaler else []))
    torch.save([part.state_dict() for part in kept], file)
    file.seek(0)
    read = torch.load(file, map_location="cpu", weights_only=True)
    put = (again.built.model, again.optimizer, *([again.scaler] if scaler else []))
    for part, state in zip(put, read, strict=True):
        part.load_state_dict(state)
    return again


def digest(trained: Restored) -> str:
    tensors = trained.built.model.state_dict().values()
    parts = (tensor.detach().cpu().contiguous().numpy().tobytes() for tensor in tensors)
    return hashlib.sha256(b"".join(parts)).hexdigest()[:12]


def main() -> None:
    os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # read when CUDA is first used
    asked = argparse.ArgumentParser()
    asked.add_argument("--device", default="cuda")
    asked.add_argument("--model", default="resnet50_fpn")
    asked.add_argument("--size", type=int, default=320)
    asked.add_argument("--batch", type=int, default=2)
    given = asked.parse_args()
    device = choose_device(given.device)
    config = TrainConfig(
        model=given.model,
        epochs=9,
        batch_size=given.batch,
        learning_rate=1e-3,
        image_size=given.size,
        workers=0,
    )
    same = True
    with tempfile.TemporaryDirectory() as folder:
        samples, _, categories = load(Path(folder))
        for exact in (False, True):
            torch.use_deterministic_algorithms(exact)
            found = []
            for way in ("whole", "whole again", "in two"):
                began, trained = time.perf_counter(), fresh(config, categories, device)
                if way == "in two":
                    advance(trained, config, samples, device, 0, HALF)
                    trained = through_a_file(trained, fresh(config, categories, device))
                done = HALF if way == "in two" else 0
                loss = advance(trained, config, samples, device, done, STEPS - done)
                found.append(digest(trained))
                took = time.perf_counter() - began
                print(f"deterministic {exact}, {way}: loss {loss:.6f}, {found[-1]}, {took:.1f} s")
            same = len(set(found)) == 1
            print(f"deterministic {exact}: all three are equal: {same}", flush=True)
    sys.exit(0 if same else 1)


if __name__ == "__main__":
    main()
